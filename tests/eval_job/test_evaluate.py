from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from detectors.protocol import Suppression
from eval_job.evaluate import InferenceSettings, Prediction, network_input, predict
from label_formats.coco import CocoData
from label_formats.images import ValidationImage
from schemas.errors import InputError
from schemas.image_size import ImageSize

CPU = torch.device("cpu")


@pytest.fixture
def drawn(coco_file: Path) -> list[ValidationImage]:
    return list(CocoData(coco_file, coco_file.parent / "images").read(("red", "green")).images)


def run(detector: Any, images: list[ValidationImage], image_size: int | list[int] = 64, batch: int = 2) -> Prediction:
    limits = Suppression(0.1, iou=0.7, max_detections=10)
    return predict(detector, images, CPU, InferenceSettings(ImageSize.of(image_size), batch, limits))


@pytest.mark.parametrize("image_size", [64, 128, 192, [64, 128], [128, 64], [96, 160], [64, 256]])
def test_detections_come_back_in_pixels_of_the_image(
    colour_teacher: Any, drawn: list[ValidationImage], image_size: int | list[int]
) -> None:
    found = run(colour_teacher, drawn, image_size).detections

    assert len(found) == len(drawn)
    for image, detections in zip(drawn, found, strict=True):
        np.testing.assert_array_equal(detections.classes.numpy(), image.classes)
        np.testing.assert_allclose(detections.boxes.numpy(), image.boxes, atol=0.51)


def test_detections_are_clipped_to_the_image(colour_teacher: Any, drawn: list[ValidationImage]) -> None:
    colour_teacher.shift = 1000.0
    found = run(colour_teacher, drawn[:1]).detections[0]

    assert found.boxes.tolist() == [[64, 32, 64, 32]] * 2


def test_the_batch_size_changes_nothing(colour_teacher: Any, drawn: list[ValidationImage]) -> None:
    one, all_at_once = (run(colour_teacher, drawn, batch=batch).detections for batch in (1, 100))

    for mine, theirs in zip(one, all_at_once, strict=True):
        assert torch.equal(mine.boxes, theirs.boxes)


def test_time_is_measured_per_image(colour_teacher: Any, drawn: list[ValidationImage]) -> None:
    assert 0 < run(colour_teacher, drawn).seconds_per_image < 60


def test_an_image_that_does_not_decode_is_named(
    colour_teacher: Any, drawn: list[ValidationImage], images: Path
) -> None:
    (images / "12.png").write_bytes(b"no image")

    with pytest.raises(InputError, match=r"12\.png: cannot be decoded"):
        run(colour_teacher, drawn, batch=1)


def test_the_network_takes_rgb_from_0_to_1() -> None:
    canvas = np.zeros((32, 64, 3), dtype=np.uint8)
    canvas[..., 0] = 255
    taken = network_input([canvas, canvas], CPU)

    assert taken.shape == (2, 3, 32, 64) and taken.dtype == torch.float32
    assert taken[0, :, 0, 0].tolist() == [1, 0, 0]
