"""Synthesis of images that are wider than high, with content that a swap of height and width would misplace."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.ops import box_iou
from typer.testing import Result

from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from schemas.errors import ExitCode
from schemas.image_size import ImageSize
from schemas.synth_config import Initialisation, InversionConfig, LabelConfig, LabelSource, LossWeights, ViewConfig
from stages.shards import open_calibration_set
from stages.stage import Stage
from synth_job.contact_sheet import CELL, GAP
from synth_job.divergence import Attempts
from synth_job.given_labels import read_given_labels
from synth_job.images import levels
from synth_job.initialisation import enlarged, initial_images
from synth_job.inversion import Course, Inversion
from synth_job.job import given_labels
from synth_job.label_sampling import LabelSampler
from synth_job.views import View

SIZE = ImageSize(96, 160)
RIGHT = [104.0, 24.0, 152.0, 72.0]
"""A box that no image of 96 pixels' width could hold."""
STILL = ViewConfig(flip=0.0, shift=0.0, scales=(1.0,))


@pytest.fixture(scope="module")
def made(synth: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rectangles")
    result = synth(
        folder, image_size=[96, 160], labels__size=160, inversion__levels=[0.6, 1.0], labels__confidence=0.01
    )
    assert result.exit_code == 0, result.output
    return folder


def test_a_set_of_rectangles_says_so_and_holds_them(made: Path) -> None:
    found = open_calibration_set(made)
    stored = json.loads((made / "manifest.json").read_text())
    assert stored["image_size"] == stored["synth"]["image_size"] == [96, 160]
    assert found.manifest.image_size == SIZE
    for sample in found.samples:
        assert sample.image().shape == (96, 160, 3)
        assert (sample.labels.width, sample.labels.height) == (160, 96)


def test_its_boxes_use_the_whole_width(synth: Callable[..., Result], tmp_path: Path) -> None:
    settings = {"image_size": [96, 160], "labels__source": "random", "images": 24, "shard_size": 24}
    result = synth(tmp_path, **settings, inversion__iterations=1, inversion__batch=24)
    assert result.exit_code == 0, result.output
    boxes = torch.cat([Detections.from_labels(each.labels).boxes for each in open_calibration_set(tmp_path).samples])
    assert 96 < float(boxes[:, 2].max()) <= 160
    assert float(boxes[:, 3].max()) <= 96


def test_its_contact_sheet_shows_images_in_their_shape(made: Path) -> None:
    with Image.open(made / "contact_sheet.png") as sheet:
        assert sheet.size == (4 * (CELL + GAP) + GAP, round(CELL * 96 / 160) + 2 * GAP)


def test_a_rectangle_turned_on_its_side_is_another_set(synth: Callable[..., Result], made: Path) -> None:
    result = synth(made, image_size=[160, 96], labels__size=160)
    assert result.exit_code == ExitCode.BAD_INPUT
    assert "image_size" in result.stderr


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (
            [100, 160],
            r"image_size: got \[100, 160\], the teacher takes multiples of 32; set \[96, 160\] or \[128, 160\]",
        ),
        ([96, 150], r"set \[96, 128\] or \[96, 160\]"),
    ],
)
def test_a_side_that_does_not_fit_the_stride_is_refused(
    synth: Callable[..., Result], tmp_path: Path, asked: list[int], reason: str
) -> None:
    result = synth(tmp_path, image_size=asked)
    (line,) = result.stderr.strip().splitlines()
    assert result.exit_code == ExitCode.BAD_INPUT
    assert re.search(reason, line), line


def test_inversion_puts_the_object_where_its_box_is(teacher: Detector) -> None:
    """The detector itself finds it there."""
    labels = [Detections.of([RIGHT], [3])]
    start = torch.full((1, 3, 96, 160), 0.5)
    weights = LossWeights(task=1.0, batch_norm=0.0, first_layer=0.0, total_variation=0.0)
    generator = torch.Generator().manual_seed(0)
    made = Inversion(teacher).run(start, labels, Course(80, 0.05, weights, STILL), generator)
    assert made.shape == (1, 3, 96, 160)
    (found,) = teacher.predict(made, Suppression(0.25, max_detections=10, multi_label=False))
    overlap = box_iou(found.boxes, torch.tensor([RIGHT])).flatten()
    assert bool(((overlap > 0.6) & (found.classes == 3)).any()), found


def test_levels_and_label_sampling_have_the_shape_of_the_images(teacher: Detector, stage: Stage) -> None:
    config = InversionConfig(iterations=8, levels=(0.5, 1.0))
    assert levels(config, ImageSize(384, 640), 32) == [(ImageSize(192, 320), 4), (ImageSize(384, 640), 4)]
    labels = LabelConfig(size=160, iterations=2, warm_up=1, interval=1, batch=2)
    sampled = LabelSampler(teacher, labels, 0).sample(range(2), ImageSize(384, 640), stage, Attempts(print))
    assert (sampled.size, tuple(sampled.images.shape)) == (SIZE, (2, 3, 96, 160))
    for small, large in zip(sampled.detections, sampled.at(ImageSize(384, 640)), strict=True):
        assert torch.allclose(large.boxes, small.boxes * 4)
    stretched = sampled.at(ImageSize(96, 320))
    assert torch.allclose(stretched[0].boxes, sampled.detections[0].boxes * torch.tensor([2.0, 1.0, 2.0, 1.0]))


@given(st.booleans(), st.integers(-20, 20), st.integers(-8, 8), st.sampled_from([(64, 128), (96, 160), (128, 192)]))
def test_boxes_follow_the_object_in_every_view(flipped: bool, right: int, down: int, resized: tuple[int, int]) -> None:
    images = torch.zeros(1, 3, 96, 160)
    images[:, :, 30:60, 100:130] = 1
    view = View(SIZE, flipped, (right, down), ImageSize(*resized))
    seen = view.of_images(images)
    assert seen.shape == (1, 3, *resized)
    rows, columns = torch.where(seen[0, 0] > 0.5)
    drawn = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    box = view.of_labels(Detections.of([[100.0, 30.0, 130.0, 60.0]], [3])).boxes[0]
    assert float((box - drawn).abs().max()) <= 1


@given(st.integers(0, 2**31))
def test_drawn_views_shift_by_a_share_of_each_side(seed: int) -> None:
    config = ViewConfig(shift=0.25, scales=(0.8, 1.0, 1.2))
    view = View.draw(config, SIZE, 32, torch.Generator().manual_seed(seed))
    assert abs(view.shift[0]) <= 40 and abs(view.shift[1]) <= 24
    assert view.resized in (ImageSize(64, 128), ImageSize(96, 160), ImageSize(128, 192))


@pytest.mark.parametrize("kind", [Initialisation.NOISE, Initialisation.LOW_FREQUENCY])
def test_images_start_as_coarse_downwards_as_across(kind: Initialisation) -> None:
    images = initial_images(kind, 3, [5, 6], SIZE)
    assert images.shape == (2, 3, 96, 160)
    down, across = ((images.diff(dim=axis)).abs().mean() for axis in (2, 3))
    assert float(down) == pytest.approx(float(across), rel=0.2)
    assert enlarged(images, ImageSize(192, 320)).shape == (2, 3, 192, 320)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (1.0, [0.25, 0.375, 0.75, 0.625]),  # 64 x 32 on a square: a quarter above and below
        (2.0, [0.25, 0.25, 0.75, 0.75]),  # fits
        (4.0, [0.375, 0.25, 0.625, 0.75]),  # a quarter left and right
    ],
)
def test_given_labels_are_letterboxed_into_the_shape_of_the_images(
    tmp_path: Path, shape: float, expected: list[float]
) -> None:
    values = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 32}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [16, 8, 32, 16]}],
        "categories": [{"id": 1, "name": "disc"}],
    }
    (tmp_path / "a.json").write_text(json.dumps(values))
    (labels,) = read_given_labels(tmp_path / "a.json", ("disc",), shape=shape)
    assert labels.boxes[0].tolist() == pytest.approx(expected)


def test_given_labels_of_yolo_files_are_shares_of_the_sides(teacher: Detector, tmp_path: Path, stage: Stage) -> None:
    (tmp_path / "a.txt").write_text("1 0.8 0.5 0.2 0.4\n")
    config = LabelConfig(source=LabelSource.GIVEN, path=str(tmp_path))
    given = given_labels(config, teacher, SIZE, stage)
    sampled = LabelSampler(teacher, config, 0, given=given).sample(range(1), SIZE, stage, Attempts(print))
    (label,) = sampled.labels(SIZE)
    assert label.boxes[0].bbox == pytest.approx((112, 28.8, 32, 38.4), abs=1e-4)
    assert (label.width, label.height) == (160, 96)
