"""Batches hold each image once per epoch, and augmentation moves boxes with their objects."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torchvision import tv_tensors

from qat_job.images import ImageBatches, augmentation
from schemas.training_terms import AugmentationConfig
from stages.shards import CalibrationSet, open_calibration_set

CPU = torch.device("cpu")
PLAIN = AugmentationConfig(flip=0, shift=0, scale=0, brightness=0)


@pytest.fixture(scope="module")
def opened(calibration_set: Path) -> CalibrationSet:
    return open_calibration_set(calibration_set)


@pytest.fixture
def batches(opened: CalibrationSet) -> ImageBatches:
    return ImageBatches(opened, CPU)


def test_images_of_a_rectangle_flip_and_shift_by_their_own_sides(
    write_set: Callable[..., Path], tmp_path: Path
) -> None:
    batches = ImageBatches(open_calibration_set(write_set(tmp_path, [96, 160])), CPU)
    (images,) = batches.in_order(4, 4)
    assert images.shape == (4, 3, 96, 160)
    for _, labels in batches.shuffled(8, 4, 0, AugmentationConfig(scale=0.4, shift=0.3)):
        boxes = torch.cat([label.boxes for label in labels])
        assert bool((boxes >= 0).all()) and float(boxes[:, 2].max()) <= 160 and float(boxes[:, 3].max()) <= 96
    image = torch.zeros(3, 96, 160, dtype=torch.uint8)
    image[:, 20:60, 110:150] = 255
    box = tv_tensors.BoundingBoxes([[110.0, 20, 150, 60]], format="XYXY", canvas_size=(96, 160))
    flip = augmentation(PLAIN.model_copy(update={"flip": 1.0}), 114)
    flipped, target = flip(tv_tensors.Image(image), {"boxes": box, "labels": torch.tensor([1])})
    assert target["boxes"].tolist() == [[10.0, 20.0, 50.0, 60.0]]
    assert bool((flipped.as_subclass(Tensor)[:, 20:60, 10:50] == 255).all())


def square(box: tuple[int, int, int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """A white rectangle on black, 96 px, and its label."""
    x1, y1, x2, y2 = box
    image = torch.zeros(3, 96, 96, dtype=torch.uint8)
    image[:, y1:y2, x1:x2] = 255
    boxes = tv_tensors.BoundingBoxes([list(map(float, box))], format="XYXY", canvas_size=(96, 96))  # type: ignore[call-overload]
    return tv_tensors.Image(image), {"boxes": boxes, "labels": torch.tensor([4])}


@pytest.mark.parametrize("box", [(30, 40, 60, 70), (0, 0, 20, 50), (70, 60, 96, 96), (10, 45, 90, 55)])
def test_boxes_stay_on_their_objects(box: tuple[int, int, int, int]) -> None:
    augment = augmentation(AugmentationConfig(shift=0.3, scale=0.5, brightness=0.1), padding=114)
    torch.manual_seed(0)
    seen: set[tuple[int, ...]] = set()
    for _ in range(60):
        image, target = augment(*square(box))
        assert image.shape == (3, 96, 96)
        rows, columns = torch.where(image[0] > 170)
        if not len(target["boxes"]):
            assert len(rows) == 0 or min(int(columns.max() - columns.min()), int(rows.max() - rows.min())) < 6
            assert len(target["labels"]) == 0
            continue
        drawn = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
        assert float((target["boxes"][0].as_subclass(Tensor) - drawn).abs().max()) <= 2
        assert target["labels"].tolist() == [4]
        seen.add(tuple(drawn.int().tolist()))
    assert len(seen) > 30, "augmentation must do something"


def test_flips_mirror_image_and_boxes() -> None:
    image, target = augmentation(PLAIN.model_copy(update={"flip": 1.0}), 114)(*square((10, 20, 30, 60)))
    assert target["boxes"].tolist() == [[66, 20, 86, 60]]
    assert torch.equal(image.as_subclass(Tensor), square((66, 20, 86, 60))[0].as_subclass(Tensor))


def test_what_moves_in_has_the_colour_of_letterbox_borders() -> None:
    torch.manual_seed(0)
    augment = augmentation(AugmentationConfig(flip=0, shift=0.5, scale=0, brightness=0), 114)
    values: set[int] = set()
    for _ in range(5):
        values |= set(augment(*square((0, 0, 96, 96)))[0].unique().tolist())
    assert values == {114, 255}


def test_without_augmentation_images_and_labels_are_those_of_the_set(
    batches: ImageBatches, opened: CalibrationSet
) -> None:
    expected = {tuple(box.bbox) for sample in opened.samples for box in sample.labels.boxes}
    images, labels = next(batches.shuffled(1, 4, 0, PLAIN))
    assert images.shape == (4, 3, 96, 96)
    (stored,) = batches.in_order(4, 4)
    for image in images:
        assert any(torch.equal(image, other) for other in stored)
    kept = {(x1, y1, x2 - x1, y2 - y1) for label in labels for x1, y1, x2, y2 in label.boxes.tolist()}
    assert len(kept) >= len(expected) - 2  # boxes under 4 px are left out
    for box in kept:
        assert any(box == pytest.approx(other, abs=1e-3) for other in expected)


def test_images_in_order_are_those_stored_at_most_as_many_as_asked(
    batches: ImageBatches, opened: CalibrationSet
) -> None:
    assert [len(batch) for batch in batches.in_order(3, 2)] == [2, 1]
    assert [len(batch) for batch in batches.in_order(100, 3)] == [3, 1]
    stored = torch.cat(list(batches.in_order(100, 3)))
    for image, sample in zip(stored, opened.samples, strict=True):
        assert torch.equal(image, torch.from_numpy(sample.image().copy()).permute(2, 0, 1) / 255)
    assert 0 <= float(stored.min()) <= float(stored.max()) <= 1


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_every_image_comes_once_per_epoch(batches: ImageBatches, batch: int) -> None:
    (stored,) = batches.in_order(4, 4)
    order: list[int] = []
    for images, _ in batches.shuffled(12 // batch, batch, 0, PLAIN):
        order += [next(k for k in range(4) if torch.equal(image, stored[k])) for image in images]
    assert [sorted(order[start : start + 4]) for start in (0, 4, 8)] == [[0, 1, 2, 3]] * 3


def test_a_batch_larger_than_the_set_repeats_images(batches: ImageBatches) -> None:
    images, labels = next(batches.shuffled(1, 10, 0, PLAIN))
    assert (len(images), len(labels)) == (10, 10)


def test_batches_depend_on_the_seed_alone_and_leave_the_global_generator_alone(batches: ImageBatches) -> None:
    config = AugmentationConfig()
    torch.manual_seed(1)
    one = list(batches.shuffled(3, 2, 7, config))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    again, other = list(batches.shuffled(3, 2, 7, config)), list(batches.shuffled(3, 2, 8, config))
    for (x, labels), (y, same) in zip(one, again, strict=True):
        assert torch.equal(x, y)
        assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(labels, same, strict=True))
    assert not all(torch.equal(x, y) for (x, _), (y, _) in zip(one, other, strict=True))


def test_batches_are_the_same_whatever_stays_in_memory(opened: CalibrationSet, monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> list[Tensor]:
        batches = ImageBatches(opened, CPU)
        return [images for images, _ in batches.shuffled(4, 3, 0, AugmentationConfig())]

    all_kept = run()
    monkeypatch.setattr("qat_job.images.KEPT_BYTES", 2 * 3 * 96 * 96)
    some_kept = run()
    monkeypatch.setattr("qat_job.images.KEPT_BYTES", 0)
    none_kept = run()
    assert all(torch.equal(one, other) for one, other in zip(all_kept, some_kept, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(all_kept, none_kept, strict=True))


def test_shares_of_a_batch_make_up_the_whole(batches: ImageBatches) -> None:
    (whole, labels), first, second = (
        next(batches.shuffled(1, 4, 0, AugmentationConfig(), share=part))
        for part in (slice(None), slice(0, 2), slice(2, 4))
    )
    assert torch.equal(whole, torch.cat((first[0], second[0])))
    assert [len(found) for found in labels] == [len(found) for found in first[1] + second[1]]
