from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from detectors.detections import Detections
from eval_job.measure import MeasuredOn, labelled
from eval_job.samples import MAX_SIDE, confident_statistics, remove_samples, write_samples
from label_formats.images import ValidationImage, ValidationSet
from schemas.evaluation import CONFIDENT
from schemas.image_size import ImageSize
from stages.storage import file_digest

NAMES = ("cat", "dog")


def image(number: int, boxes: list[list[float]], size: tuple[int, int] = (64, 48), crowd: int = 0) -> ValidationImage:
    return ValidationImage(
        id=number,
        source=np.full((size[1], size[0], 3), 10 * number, dtype=np.uint8),
        boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
        classes=np.zeros(len(boxes), dtype=np.int64),
        crowd=np.arange(len(boxes)) < crowd,
    )


def validation(*images: ValidationImage) -> ValidationSet:
    return ValidationSet("drawn", "coco", images)


def measured(*images: ValidationImage) -> MeasuredOn:
    return labelled(validation(*images), "0" * 64, ImageSize.square(64))


BOX = [8.0, 8.0, 24.0, 24.0]


def test_samples_are_spread_over_the_labelled_images(tmp_path: Path) -> None:
    images = measured(*(image(n, [BOX] if n % 2 else []) for n in range(20)))
    samples = write_samples(tmp_path, images, {}, NAMES, 2)

    shades = [int(np.asarray(Image.open(tmp_path / "samples" / sample.file)).mean()) // 10 for sample in samples]
    assert shades == [5, 15]


@pytest.mark.parametrize(("wanted", "written"), [(0, 0), (1, 1), (9, 3)])
def test_there_are_no_more_samples_than_wanted_or_labelled(tmp_path: Path, wanted: int, written: int) -> None:
    samples = write_samples(tmp_path, measured(*(image(n, [BOX]) for n in range(3))), {}, NAMES, wanted)

    assert len(samples) == written
    assert len(list(tmp_path.rglob("*.jpg"))) == written


def test_boxes_follow_the_size_of_the_picture(tmp_path: Path) -> None:
    large = image(1, [[200.0, 100.0, 600.0, 500.0]], size=(2 * MAX_SIDE, MAX_SIDE))
    found = Detections.of([[100.0, 50.0, 300.0, 250.0], [0.0, 0.0, 9.0, 9.0]], [1, 0], [0.75, CONFIDENT - 0.01])
    (sample,) = write_samples(tmp_path, measured(large), {"student": [found]}, NAMES, 1)

    assert (sample.width, sample.height) == (MAX_SIDE, MAX_SIDE // 2)
    assert sample.labels[0].bbox == pytest.approx((100, 50, 200, 200))
    (box,) = sample.detections["student"]
    assert (box.class_name, box.score) == ("dog", 0.75)
    assert box.bbox == pytest.approx((50, 25, 100, 100))
    assert sample.sha256 == file_digest(tmp_path / "samples" / sample.file)


def test_no_metadata_of_the_image_travels_with_the_sample(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010E] = "where it was taken"
    Image.new("RGB", (40, 40)).save(tmp_path / "in.jpg", exif=exif, comment=b"by whom")
    source = ValidationImage(
        1, tmp_path / "in.jpg", np.array([BOX], np.float32), np.zeros(1, np.int64), np.zeros(1, bool)
    )
    (sample,) = write_samples(tmp_path, measured(source), {}, NAMES, 1)

    content = (tmp_path / "samples" / sample.file).read_bytes()
    assert b"taken" not in content and b"whom" not in content


def test_crowd_regions_are_not_drawn_as_labels(tmp_path: Path) -> None:
    (sample,) = write_samples(tmp_path, measured(image(1, [BOX, BOX], crowd=1)), {}, NAMES, 1)

    assert len(sample.labels) == 1


def test_statistics_count_confident_detections_by_share_of_their_image() -> None:
    images = validation(image(1, [BOX]), image(2, [BOX], size=(100, 100)))
    found = [
        Detections.of([[0.0, 0.0, 32.0, 24.0]], [1], [0.9]),
        Detections.of([[0.0, 0.0, 10.0, 20.0], [0.0, 0.0, 9.0, 9.0]], [0, 0], [0.3, 0.1]),
    ]
    statistics = confident_statistics(images, found, NAMES)

    assert statistics.class_histogram == {"cat": 1, "dog": 1}
    assert statistics.area_histogram == (0, 1, 0, 1, 0, 0)  # 2 % and 25 % of their images
    assert (statistics.images, statistics.boxes_per_image, statistics.origin_histogram) == (2, 1.0, {})


def test_samples_of_an_earlier_evaluation_are_removed(tmp_path: Path) -> None:
    write_samples(tmp_path, measured(image(1, [BOX])), {}, NAMES, 1)
    remove_samples(tmp_path)
    remove_samples(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_detections_without_area_are_left_out(tmp_path: Path) -> None:
    found = Detections.of(
        torch.tensor([BOX, [8.0, 8.0, 8.0, 24.0], [8.0, 8.0, 24.0, 8.01]]), torch.tensor([0, 0, 1]), torch.ones(3)
    )
    (sample,) = write_samples(tmp_path, measured(image(0, [BOX])), {"model": [found]}, NAMES, 1)

    assert [box.bbox for box in sample.detections["model"]] == [(8.0, 8.0, 16.0, 16.0)]
