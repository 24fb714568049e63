"""Sampled labels have the distribution they claim, and relabelling follows the paper's rules."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torchvision.ops import box_iou

from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from schemas.image_size import ImageSize
from schemas.labels import LabelOrigin
from schemas.synth_config import LabelConfig, LabelSource
from stages.stage import Stage
from synth_job.divergence import Attempts
from synth_job.label_sampling import (
    AdaptiveRelabelling,
    LabelSampler,
    random_boxes,
    separate_boxes,
    supported,
    tile_boxes,
)

SEEDS = st.integers(0, 2**63 - 1)
SAMPLED, RELABELLED = LabelOrigin.SAMPLED, LabelOrigin.RELABELLED


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(SEEDS, st.integers(1, 100), st.integers(1, 20))
def test_random_boxes_lie_inside_with_sides_from_a_fifth_to_four_fifths(seed: int, classes: int, count: int) -> None:
    found = random_boxes(generator(seed), classes, count)
    assert len(found) == count
    assert 0 <= float(found.boxes.min()) <= float(found.boxes.max()) <= 1 + 1e-6
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert 0.2 - 1e-6 <= float(sides.min()) <= float(sides.max()) <= 0.8 + 1e-6
    assert 0 <= int(found.classes.min()) <= int(found.classes.max()) < classes


def test_random_boxes_use_the_whole_range() -> None:
    found = random_boxes(generator(0), 8, 4000)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    centres = (found.boxes[:, 2:] + found.boxes[:, :2]) / 2
    assert sides.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert sides.std(dim=0).tolist() == pytest.approx([0.6 / 12**0.5] * 2, abs=0.02)
    assert centres.mean(dim=0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert found.classes.bincount().tolist() == pytest.approx([500] * 8, rel=0.2)


@given(SEEDS)
def test_separate_boxes_hardly_overlap(seed: int) -> None:
    found = separate_boxes(generator(seed), 8)
    assert 1 <= len(found) <= 5
    overlap = box_iou(found.boxes, found.boxes).fill_diagonal_(0)
    assert float(overlap.max()) <= 0.2 + 1e-6


def test_separate_boxes_are_usually_several() -> None:
    counts = torch.tensor([len(separate_boxes(generator(seed), 8)) for seed in range(50)])
    assert counts.min() >= 1
    assert (counts >= 2).double().mean() > 0.9


def test_tiles_fill_the_square() -> None:
    found = tile_boxes(generator(0), 8)
    sides = found.boxes[:, 2:] - found.boxes[:, :2]
    assert float(sides.prod(dim=1).sum()) == pytest.approx(1)
    assert float(box_iou(found.boxes, found.boxes).fill_diagonal_(0).max()) == 0


@pytest.mark.parametrize("source", [LabelSource.RANDOM, LabelSource.TILE, LabelSource.MULTI])
def test_labels_of_a_sample_do_not_depend_on_its_shard(teacher: Detector, stage: Stage, source: LabelSource) -> None:
    sampler = LabelSampler(teacher, LabelConfig(source=source), seed=5)
    together, alone = (
        sampler.sample(range(0, 6), ImageSize.square(96), stage, Attempts(print)),
        sampler.sample(range(4, 5), ImageSize.square(96), stage, Attempts(print)),
    )
    assert together.labels(ImageSize.square(96))[4] == alone.labels(ImageSize.square(96))[0]
    assert len({label.to_json() for label in together.labels(ImageSize.square(96))}) > 1
    other = LabelSampler(teacher, LabelConfig(source=source), seed=6).sample(
        range(4, 5), ImageSize.square(96), stage, Attempts(print)
    )
    assert other.labels(ImageSize.square(96)) != alone.labels(ImageSize.square(96))


def test_labels_scale_to_the_stored_size(teacher: Detector, stage: Stage) -> None:
    sampled = LabelSampler(teacher, LabelConfig(source=LabelSource.RANDOM), 0).sample(
        range(1), ImageSize.square(64), stage, Attempts(print)
    )
    small, large = (
        sampled.labels(ImageSize.square(64))[0].boxes[0].bbox,
        sampled.labels(ImageSize.square(128))[0].boxes[0].bbox,
    )
    assert large == pytest.approx([2 * value for value in small])


def scripted(*answers: Detections) -> Any:
    """A teacher that predicts the same for every batch, and remembers how it was asked."""
    asked: list[Suppression] = []

    def predict(images: Tensor, limits: Suppression) -> list[Detections]:
        asked.append(limits)
        return list(answers)

    return SimpleNamespace(predict=predict, asked=asked, shaped=lambda images, labels: list(labels))


def relabelled(start: Detections, predictions: Detections, **settings: Any) -> tuple[Detections, list[LabelOrigin]]:
    config = LabelConfig(size=64, warm_up=0, interval=1, **settings)
    relabelling = AdaptiveRelabelling(scripted(predictions), config, [start], ImageSize.square(64))
    returned = relabelling.after_step(0, torch.zeros(1, 3, 64, 64))
    assert returned is not None
    assert torch.equal(returned[0].boxes, relabelling.labels()[0].boxes)
    assert len(relabelling.origins[0]) == len(returned[0])
    return relabelling.labels()[0], relabelling.origins[0]


LEFT, RIGHT = [0.0, 0.0, 30.0, 60.0], [34.0, 0.0, 64.0, 60.0]


def test_a_supported_box_stays_and_a_new_one_joins() -> None:
    labels, origins = relabelled(Detections.of([LEFT], [1]), Detections.of([[0, 0, 30, 58], RIGHT], [1, 4], [0.9, 0.6]))
    assert (labels.boxes.tolist(), labels.classes.tolist()) == ([LEFT, RIGHT], [1, 4])
    assert labels.scores.tolist() == pytest.approx([1.0, 0.6])
    assert origins == [SAMPLED, RELABELLED]


def test_an_unsupported_box_leaves() -> None:
    labels, origins = relabelled(Detections.of([LEFT, RIGHT], [1, 1]), Detections.of([RIGHT], [1], [0.5]))
    assert (labels.boxes.tolist(), origins) == ([RIGHT], [SAMPLED])


def test_the_last_box_never_leaves() -> None:
    for predictions in (Detections.of([], []), Detections.of([RIGHT], [4], [0.9])):
        labels, origins = relabelled(Detections.of([LEFT], [1]), predictions)
        assert labels.boxes.tolist()[0] == LEFT
        assert origins[0] is SAMPLED
    labels, _ = relabelled(Detections.of([LEFT, RIGHT], [1, 1]), Detections.of([], []))
    assert len(labels) == 1


def test_a_prediction_of_another_class_does_not_support_a_box() -> None:
    labels, _ = relabelled(Detections.of([LEFT, RIGHT], [1, 1]), Detections.of([LEFT, RIGHT], [2, 1], [0.9, 0.9]))
    assert (labels.boxes.tolist()[0], labels.classes.tolist()[0]) == (RIGHT, 1)
    assert [LEFT, 2] in [
        [box, category] for box, category in zip(labels.boxes.tolist(), labels.classes.tolist(), strict=True)
    ]


def test_where_none_is_supported_the_most_overlapped_one_stays() -> None:
    labels, _ = relabelled(Detections.of([LEFT, RIGHT], [1, 1]), Detections.of([[34, 0, 60, 60]], [7], [0.9]))
    assert (labels.boxes.tolist()[0], labels.classes.tolist()[0]) == (RIGHT, 1)


def test_a_new_box_must_not_overlap_any_label_not_even_one_that_just_joined() -> None:
    predictions = Detections.of([LEFT, [4, 0, 34, 60], RIGHT, [36, 2, 64, 60]], [1, 2, 3, 5], [0.9, 0.8, 0.7, 0.6])
    labels, _ = relabelled(Detections.of([LEFT], [1]), predictions)
    assert labels.classes.tolist() == [1, 3]
    overlap = box_iou(labels.boxes, labels.boxes).fill_diagonal_(0)
    assert float(overlap.max()) < 0.35


@pytest.mark.parametrize(("box", "joins"), [([40, 40, 47, 47], True), ([40, 40, 46, 46], False)])
def test_boxes_below_a_hundredth_of_the_image_do_not_join(box: list[float], joins: bool) -> None:
    labels, _ = relabelled(Detections.of([LEFT], [1]), Detections.of([LEFT, box], [1, 2], [0.9, 0.9]))
    assert (2 in labels.classes.tolist()) is joins


@pytest.mark.parametrize(("side", "joins"), [(58.0, True), (60.0, False)])
def test_boxes_of_almost_the_whole_image_do_not_join(side: float, joins: bool) -> None:
    start = Detections.of([[0.0, 0.0, 20.0, 20.0]], [1])
    labels, _ = relabelled(start, Detections.of([[0, 0, side, side]], [2], [0.9]))
    assert (2 in labels.classes.tolist()) is joins


@given(SEEDS, st.integers(1, 6), st.integers(0, 12))
def test_labels_after_relabelling_are_never_empty_and_new_ones_stand_apart(seed: int, now: int, seen: int) -> None:
    start = random_boxes(generator(seed), 3, now).scaled(64)
    drawn = random_boxes(generator(seed + 1 if seed < 2**62 else seed - 1), 3, max(seen, 1)).scaled(64)
    labels, origins = relabelled(start, drawn.select(torch.arange(seen)))
    assert len(labels) >= 1
    new = [index for index, origin in enumerate(origins) if origin is RELABELLED]
    overlap = box_iou(labels.boxes, labels.boxes).fill_diagonal_(0)
    assert all(float(overlap[index].max()) < 0.35 for index in new)
    kept = supported(start, drawn.select(torch.arange(seen)), 0.35)
    assert labels.boxes[: int(kept.sum())].tolist() == start.boxes[kept].tolist()


def test_the_teacher_looks_after_the_warm_up_at_every_interval_with_the_set_confidence() -> None:
    teacher = scripted(Detections.of([LEFT], [1], [0.9]))
    config = LabelConfig(size=64, iterations=12, warm_up=4, interval=3, confidence=0.3)
    relabelling = AdaptiveRelabelling(teacher, config, [Detections.of([LEFT], [1])], ImageSize.square(64))
    due = [step + 1 for step in range(12) if relabelling.after_step(step, torch.zeros(1, 3, 64, 64)) is not None]
    assert due == [6, 9, 12]
    assert {asked.confidence for asked in teacher.asked} == {0.3}


def test_images_of_a_batch_keep_their_own_labels() -> None:
    teacher = scripted(Detections.of([LEFT, RIGHT], [1, 2], [0.9, 0.9]), Detections.of([], []))
    config = LabelConfig(size=64, warm_up=0, interval=1)
    start = [Detections.of([LEFT], [1]), Detections.of([RIGHT], [6])]
    relabelling = AdaptiveRelabelling(teacher, config, start, ImageSize.square(64))
    relabelling.after_step(0, torch.zeros(2, 3, 64, 64))
    assert [label.classes.tolist() for label in relabelling.labels()] == [[1, 2], [6]]
    assert relabelling.origins == [[SAMPLED, RELABELLED], [SAMPLED]]
