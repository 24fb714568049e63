import numpy as np
import pytest
import torch

from detectors.average_precision import evaluate_boxes
from detectors.detections import Detections
from eval_job.bootstrap import resampled_classes
from eval_job.class_changes import LEAST_IMAGES, class_changes, class_labels
from eval_job.operating_point import Ranked, confidence_shift, deployment_recall, matched_thresholds

CLASSES = ("cat", "dog")
SIDE = 20.0


def objects(count: int, side: float = SIDE) -> Detections:
    """So many objects beside each other, cats and dogs in turn."""
    corners = torch.arange(count)[:, None] * 2 * side * torch.tensor([1.0, 0.0])
    return Detections.of(torch.cat((corners, corners + side), dim=1), torch.arange(count) % 2)


def scored(labels: Detections, scores: list[float]) -> Detections:
    return Detections(labels.boxes, labels.classes, torch.tensor(scores))


def test_recall_and_precision_at_a_threshold_are_counted_by_hand() -> None:
    labels = objects(4)
    wrong = Detections.of([[0.0, 300, 20, 320]], [0], [0.6])
    found = scored(labels, [0.9, 0.5, 0.3, 0.1])
    both = Detections.of(
        torch.cat((found.boxes, wrong.boxes)), torch.cat((found.classes, wrong.classes)),
        torch.cat((found.scores, wrong.scores)),
    )  # fmt: skip
    ranked = Ranked.of(evaluate_boxes([labels], [both], CLASSES).matches)

    point = ranked.at(0.3)
    assert (point.recall, point.precision, point.boxes) == (0.75, 0.75, 4)
    assert ranked.at(0.95).precision is None
    assert ranked.at(0.0).recall == 1


def test_a_student_whose_scores_shrink_gets_the_recall_back_at_its_own_threshold() -> None:
    labels = [objects(6), objects(6)]
    scores = [0.9, 0.6, 0.4, 0.27, 0.26, 0.1]
    full = evaluate_boxes(labels, [scored(each, scores) for each in labels], CLASSES)
    student = evaluate_boxes(labels, [scored(each, [s - 0.05 for s in scores]) for each in labels], CLASSES)

    recall, precision, *_ = matched_thresholds(student, full, labelled=True)
    assert (recall.by, recall.full_precision.threshold, recall.full_precision.recall) == ("recall", 0.25, 5 / 6)
    assert recall.unchanged.recall == 0.5
    assert recall.matched is not None and recall.matched.recall == 5 / 6
    assert 0.05 < recall.matched.threshold < 0.21
    assert precision.matched is not None and precision.matched.precision == 1


def test_a_recall_that_is_never_reached_has_no_threshold() -> None:
    labels = [objects(4)]
    full = evaluate_boxes(labels, [scored(labels[0], [0.9] * 4)], CLASSES)
    student = evaluate_boxes(labels, [scored(labels[0], [0.9] * 4).select(torch.tensor([0, 1]))], CLASSES)
    assert all(each.matched is None for each in matched_thresholds(student, full, True) if each.by == "recall")


def test_without_labels_the_number_of_boxes_is_given_again() -> None:
    labels = [objects(4)]
    full = evaluate_boxes(labels, [scored(labels[0], [0.9, 0.5, 0.3, 0.2])], CLASSES)
    student = evaluate_boxes(labels, [scored(labels[0], [0.8, 0.3, 0.2, 0.1])], CLASSES)
    first, second = matched_thresholds(student, full, labelled=False)
    assert (first.by, first.full_precision.boxes, second.full_precision.boxes) == ("boxes", 3, 2)
    assert first.matched is not None and first.matched.boxes == 3 and 0.1 < first.matched.threshold <= 0.2


def test_recall_is_told_apart_by_size_and_class() -> None:
    small, large = objects(2), objects(2, side=200.0)
    evaluation = evaluate_boxes([small, large], [scored(small, [0.9, 0.1]), scored(large, [0.9, 0.9])], CLASSES)
    recall = deployment_recall(evaluation)
    assert (recall.small, recall.medium, recall.large) == (0.5, None, 1.0)
    assert recall.per_class == {"cat": 1.0, "dog": 0.5}
    assert {name: (each.boxes, each.images) for name, each in class_labels(evaluation).items()} == {
        "cat": (2, 2), "dog": (2, 2),
    }  # fmt: skip


def test_scores_are_compared_object_by_object() -> None:
    labels = objects(3)
    full = scored(labels, [0.9, 0.5, 0.2])
    student = Detections(labels.boxes + 2, labels.classes, torch.tensor([0.8, 0.45, 0.2])).select(torch.tensor([0, 2]))
    shift = confidence_shift([student], [full], CLASSES)
    assert (shift.pairs, shift.missed) == (1, 1)
    assert shift.mean == pytest.approx(-0.1) and shift.per_class == {"cat": pytest.approx(-0.1)}
    nothing = confidence_shift([labels.select(torch.tensor([], dtype=torch.int64))], [full], CLASSES)
    assert (nothing.pairs, nothing.missed, nothing.mean) == (0, 2, 0.0)


def drawn(seed: int, images: int, lose: float) -> tuple[list[Detections], list[Detections], list[Detections]]:
    """Labels, and what two detectors find: both miss some by chance, the second loses `lose` of the dogs besides."""
    generator = np.random.default_rng(seed)
    labels = [objects(6) for _ in range(images)]

    def found(lost: float) -> list[Detections]:
        shown = []
        for label in labels:
            scores = generator.uniform(0.3, 0.9, 6)
            there = generator.random(6) > np.where(label.classes.numpy() == 1, 0.2 + lost, 0.2)
            shown.append(scored(label, scores.tolist()).select(torch.from_numpy(there)))
        return shown

    return labels, found(0.0), found(lose)


def changed(seed: int, images: int, lose: float) -> list[str] | None:
    labels, one, two = drawn(seed, images, lose)
    full, student = (evaluate_boxes(labels, each, CLASSES) for each in (one, two))
    changes = class_changes(student, full, resampled_classes(student.matches), resampled_classes(full.matches))
    assert changes is not None
    return [each.name for each in changes.changed] if changes.tested else None


def test_a_class_that_lost_is_named_and_one_that_only_varies_is_not() -> None:
    assert changed(0, 40, lose=0.5) == ["dog"]
    false = sum(bool(changed(seed, 24, lose=0.0)) for seed in range(1, 21))
    assert false <= 4  # about one of twenty


def test_a_class_on_few_images_is_not_tested() -> None:
    assert changed(0, LEAST_IMAGES - 1, lose=0.7) is None
