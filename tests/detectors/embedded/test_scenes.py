"""The rendered scenes are reproducible and labelled exactly, and the stored weights fit the architecture."""

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file
from ultralytics.nn.tasks import DetectionModel

from detectors.embedded import ARCHITECTURE, WEIGHTS
from detectors.embedded.scenes import (
    CLASS_NAMES,
    MAX_OBJECTS,
    SCENE_SIZE,
    TRAINING_SEED,
    VALIDATION_SEED,
    Placement,
    Scene,
    _tight_box,
    _visible_masks,
    render_scene,
)


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [render_scene(VALIDATION_SEED, index) for index in range(64)]


def test_the_same_arguments_give_the_same_bytes(scenes: list[Scene]) -> None:
    for index in (0, 7, 63):
        again = render_scene(VALIDATION_SEED, index)
        assert again.image.tobytes() == scenes[index].image.tobytes()
        assert again.boxes.tobytes() == scenes[index].boxes.tobytes()
        assert again.classes.tobytes() == scenes[index].classes.tobytes()


def test_another_index_or_seed_gives_another_scene(scenes: list[Scene]) -> None:
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    assert TRAINING_SEED != VALIDATION_SEED
    assert render_scene(TRAINING_SEED, 0).image.tobytes() != scenes[0].image.tobytes()


def test_types_and_shapes(scenes: list[Scene]) -> None:
    for scene in scenes:
        count = len(scene.classes)
        assert 1 <= count <= MAX_OBJECTS
        assert (scene.image.shape, scene.image.dtype) == ((SCENE_SIZE, SCENE_SIZE, 3), np.uint8)
        assert (scene.boxes.shape, scene.boxes.dtype) == ((count, 4), np.float32)
        assert (scene.classes.shape, scene.classes.dtype) == ((count,), np.int64)
        assert scene.image.flags.c_contiguous


def test_boxes_lie_inside_the_image_and_have_an_area(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert scene.boxes.min() >= 0
        assert scene.boxes.max() <= SCENE_SIZE
        assert ((scene.boxes[:, 2:] - scene.boxes[:, :2]) >= 4).all()


def test_every_class_appears_within_64_scenes(scenes: list[Scene]) -> None:
    assert set(np.concatenate([scene.classes for scene in scenes]).tolist()) == set(range(len(CLASS_NAMES)))


@pytest.mark.parametrize("size", [96, 160, 224])
def test_the_size_is_honoured(size: int) -> None:
    scene = render_scene(VALIDATION_SEED, 3, size=size)
    assert scene.image.shape == (size, size, 3)
    assert scene.boxes.max() <= size


def test_the_same_scene_at_twice_the_size_has_boxes_twice_as_large(scenes: list[Scene]) -> None:
    double = render_scene(VALIDATION_SEED, 5, size=2 * SCENE_SIZE)
    assert double.classes.tolist() == scenes[5].classes.tolist()
    assert np.abs(double.boxes - 2 * scenes[5].boxes).max() <= 3


def test_a_box_is_tight_around_its_shape() -> None:
    disc = Placement(CLASS_NAMES.index("disc"), centre=(40.0, 60.0), half=(20.0, 10.0), rotation=(1.0, 0.0))
    assert _tight_box(disc.coverage(160) >= 0.5) == (20, 50, 60, 70)
    outside = Placement(CLASS_NAMES.index("disc"), centre=(5.0, 155.0), half=(20.0, 10.0), rotation=(1.0, 0.0))
    assert _tight_box(outside.coverage(160) >= 0.5) == (0, 145, 25, 160)


@pytest.mark.parametrize("class_index", range(len(CLASS_NAMES)), ids=CLASS_NAMES)
def test_every_shape_is_solid_near_the_middle_of_its_reach_and_no_larger(class_index: int) -> None:
    placement = Placement(class_index, centre=(80.0, 80.0), half=(40.0, 40.0), rotation=(0.6, 0.8))
    solid = placement.coverage(160) >= 0.5
    assert 0.15 * 80 * 80 < solid.sum() < 80 * 80
    x1, y1, x2, y2 = _tight_box(solid)
    assert min(x2 - x1, y2 - y1) > 40
    assert min(x1, y1) > 80 - 1.3 * 40 and max(x2, y2) < 80 + 1.3 * 40


def test_what_lies_in_front_shrinks_the_box_of_what_lies_behind() -> None:
    square = CLASS_NAMES.index("square")
    behind = Placement(square, centre=(80.0, 80.0), half=(25.0, 25.0), rotation=(1.0, 0.0))
    front = Placement(square, centre=(110.0, 80.0), half=(25.0, 50.0), rotation=(1.0, 0.0))
    masks = _visible_masks([behind.coverage(160), front.coverage(160)])
    assert _tight_box(masks[0]) == (58, 58, 88, 102)
    assert _tight_box(masks[1]) == (88, 36, 132, 124)


def test_a_box_edge_sits_on_a_change_of_colour() -> None:
    """In a scene of one object, pixels beyond each box side differ more from the object than those within."""
    scene = next(
        scene
        for scene in (render_scene(VALIDATION_SEED, index) for index in range(64))
        if len(scene.classes) == 1 and CLASS_NAMES[scene.classes[0]] == "disc"
    )
    x1, y1, x2, y2 = scene.boxes[0].astype(int)
    image = scene.image.astype(np.float32)
    inside = image[(y1 + y2) // 2 - 3 : (y1 + y2) // 2 + 3, (x1 + x2) // 2 - 3 : (x1 + x2) // 2 + 3].mean(axis=(0, 1))
    corner = image[max(y1 - 4, 0) : y1 + 2, max(x1 - 4, 0) : x1 + 2].mean(axis=(0, 1))
    assert np.abs(inside - corner).mean() > 20


def test_the_stored_weights_load_strictly_and_detect_a_scene(scenes: list[Scene]) -> None:
    architecture = yaml.safe_load(ARCHITECTURE.read_text(encoding="utf-8"))
    assert architecture["nc"] == len(CLASS_NAMES)
    model = DetectionModel(architecture, nc=len(CLASS_NAMES), verbose=False).eval()
    model.load_state_dict(load_file(WEIGHTS), strict=True)

    images = torch.stack([torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255 for scene in scenes[:8]])
    with torch.no_grad():
        scores = model(images)[0][:, 4:].amax(dim=2)
    found = [set(torch.nonzero(row > 0.5).flatten().tolist()) for row in scores]
    named = [set(scene.classes.tolist()) for scene in scenes[:8]]
    hits = sum(len(a & b) for a, b in zip(found, named, strict=True))
    assert hits >= 0.7 * sum(len(b) for b in named)


def test_the_stored_weights_name_their_classes_and_image_size_and_stay_small() -> None:
    with safe_open(WEIGHTS, framework="pt") as stored:
        metadata = stored.metadata()
    assert metadata["class_names"].split(",") == list(CLASS_NAMES)
    assert int(metadata["image_size"]) == SCENE_SIZE
    assert "detectors.embedded.train" in metadata["command"]
    assert WEIGHTS.stat().st_size <= 3_000_000
