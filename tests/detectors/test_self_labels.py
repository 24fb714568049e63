"""A detector's own detections in the place of labels."""

import torch

from detectors.detections import Detections
from detectors.self_labels import self_labels


def found(*scores: float) -> Detections:
    boxes = torch.tensor([[0.0, 0.0, 10.0 + n, 10.0] for n in range(len(scores))])
    return Detections.of(boxes, torch.zeros(len(scores)), torch.tensor(scores))


def test_confident_detections_become_labels_of_score_one():
    labels, lowest = self_labels([found(0.9, 0.25, 0.2), found()], 0.25)
    assert lowest == 0.25
    assert [len(each) for each in labels] == [2, 0]
    assert labels[0].scores.tolist() == [1.0, 1.0]


def test_where_nothing_is_sure_half_the_highest_score_is_enough():
    labels, lowest = self_labels([found(0.05, 0.03, 0.02), found(0.1)], 0.25)
    assert abs(lowest - 0.05) < 1e-6
    assert [len(each) for each in labels] == [1, 1]


def test_a_detector_that_finds_nothing_has_no_labels():
    labels, lowest = self_labels([found(), found()], 0.25)
    assert lowest == 0 and [len(each) for each in labels] == [0, 0]


def test_boxes_without_area_stand_for_nothing():
    flat = Detections.of([[1.0, 1.0, 1.0, 5.0], [1.0, 1.0, 4.0, 5.0]], [0, 0], [0.9, 0.9])
    assert len(self_labels([flat], 0.25)[0][0]) == 1
