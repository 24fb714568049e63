"""The box container keeps boxes, classes and scores together on the way to stored labels and back."""

import pytest
import torch

from detectors.detections import Detections
from schemas.image_size import ImageSize
from schemas.labels import LabelOrigin

FOUND = Detections.of([[2, 4, 10, 12], [0, 0, 8, 32]], [1, 0], [0.5, 0.25])


def test_stored_labels_give_the_same_boxes_back() -> None:
    stored = FOUND.to_labels(ImageSize.square(32), [LabelOrigin.SAMPLED, LabelOrigin.RELABELLED])
    assert [box.bbox for box in stored.boxes] == [(2, 4, 8, 8), (0, 0, 8, 32)]
    assert [box.origin for box in stored.boxes] == [LabelOrigin.SAMPLED, LabelOrigin.RELABELLED]
    again = Detections.from_labels(stored)
    assert torch.equal(again.boxes, FOUND.boxes)
    assert torch.equal(again.classes, FOUND.classes)
    assert torch.equal(again.scores, FOUND.scores)


def test_stored_boxes_are_clipped_and_those_outside_are_left_out() -> None:
    found = Detections.of([[-5, -5, 10, 10], [40, 40, 50, 50], [30, 0, 99, 32]], [0, 1, 2])
    stored = found.to_labels(ImageSize.square(32), [LabelOrigin.SAMPLED] * 3)
    assert [(box.category_id, box.bbox) for box in stored.boxes] == [(0, (0, 0, 10, 10)), (2, (30, 0, 2, 32))]


def test_an_image_without_boxes_keeps_its_shapes() -> None:
    empty = Detections.from_labels(Detections.of([], []).to_labels(ImageSize.square(32), []))
    assert (len(empty), tuple(empty.boxes.shape)) == (0, (0, 4))
    assert empty.classes.dtype == torch.int64


def test_scaling_moves_boxes_only() -> None:
    twice = FOUND.scaled(2)
    assert torch.equal(twice.boxes, FOUND.boxes * 2)
    assert torch.equal(twice.scores, FOUND.scores)


@pytest.mark.parametrize("keep", [torch.tensor([False, True]), torch.tensor([1])])
def test_selection_by_mask_and_by_index(keep: torch.Tensor) -> None:
    chosen = FOUND.select(keep)
    assert (chosen.boxes.tolist(), chosen.classes.tolist(), chosen.scores.tolist()) == ([[0, 0, 8, 32]], [0], [0.25])


def test_nobody_scored_means_score_one() -> None:
    assert Detections.of([[0, 0, 1, 1]], [3]).scores.tolist() == [1.0]
