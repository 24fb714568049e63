"""The loss against values computed by hand."""

import math

import pytest
import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.yolov5.loss import Gains, assign, detection_loss
from detectors.yolov5.network import AnchorHead

ANCHORS = torch.tensor([[1.0, 1.0], [2.0, 4.0], [16.0, 16.0]])
PLAIN = Gains(box=1.0, objectness=1.0, classes=1.0)


def cells(label: Detections, anchors: Tensor = ANCHORS) -> set[tuple[int, int, int]]:
    """(anchor, row, column) of each assignment on a level of 8 px cells, 10 high and 12 wide."""
    found = assign([label], anchors, 8, 10, 12, 4.0)
    return set(zip(found.anchor.tolist(), found.row.tolist(), found.column.tolist(), strict=True))


def test_an_object_goes_to_similar_anchors_in_its_cell_and_the_two_nearest() -> None:
    """16 x 24 px is 2 x 3 cells: 3 times the first anchor, within 4; 4/3 of the second; the third is 8 times wider.

    The centre (44, 60) px lies at column 5.5, row 7.5: no neighbour is nearer than another. Moved by (-1, +1) px, the
    neighbours are the cell to the left and the one below.
    """
    assert cells(Detections.of([[36.0, 48, 52, 72]], [1])) == {(0, 7, 5), (1, 7, 5)}
    moved = Detections.of([[35.0, 49, 51, 73]], [1])
    assert cells(moved) == {(a, r, c) for a in (0, 1) for r, c in ((7, 5), (7, 4), (8, 5))}

    found = assign([Detections.of([], []), moved], ANCHORS, 8, 10, 12, 4.0)
    assert set(found.image.tolist()) == {1}
    assert set(found.classes.tolist()) == {1}
    for row, column, box in zip(found.row.tolist(), found.column.tolist(), found.boxes.tolist(), strict=True):
        assert box == pytest.approx([43 / 8 - column, 61 / 8 - row, 2, 3])
        assert -0.5 <= box[0] <= 1.5 and -0.5 <= box[1] <= 1.5, "what decoding can express"


def test_four_times_a_side_is_too_much() -> None:
    assert cells(Detections.of([[0.0, 0, 32, 8]], [0]), ANCHORS[:1]) == set()
    assert cells(Detections.of([[0.0, 0, 31, 8]], [0]), ANCHORS[:1]) != set()
    assert cells(Detections.of([[4.0, 4, 6, 6]], [0]), ANCHORS[:1]) == set()


def test_at_the_edges_there_are_no_neighbours_outside() -> None:
    assert cells(Detections.of([[0.0, 0, 6, 6]], [0]), ANCHORS[:1]) == {(0, 0, 0)}
    assert cells(Detections.of([[90.0, 74, 96, 80]], [0]), ANCHORS[:1]) == {(0, 9, 11)}
    beyond = cells(Detections.of([[92.0, 76, 100, 84]], [0]), ANCHORS[:1])
    assert beyond == {(0, 9, 11)}, "a centre on the far edge belongs to the last cell"


def head(classes: int = 3) -> AnchorHead:
    """Three levels of 8, 16 and 32 px cells, with one square anchor of 2 cells each."""
    return AnchorHead(classes, torch.full((3, 1, 2), 2.0), [8, 16, 32], [4, 4, 4])


def logits(classes: int = 3, value: float = 0.0) -> list[Tensor]:
    """Of an image of 128 x 128 px."""
    return [torch.full((1, 1, side, side, 5 + classes), value) for side in (16, 8, 4)]


def test_logits_of_zero_cost_what_is_computed_by_hand() -> None:
    """At zero a box is its anchor in the middle of its cell, and every probability 1/2.

    The object is 16 x 16 px around (28, 28): on the finest level its anchor in the middle of cell (3, 3), IoU 1. On the
    next one it has half the anchor's sides, so the ratio is 2: it is assigned there too; on the coarsest it is 4. There
    its centre is (1.75, 1.75), and so cells (1, 1), (2, 1) and (1, 2) have to find it: the anchor's centre is off by
    0.25 or by 0.75 cells.
    """
    label = Detections.of([[20.0, 20, 36, 36]], [1])
    objectness = (4.0 + 1.0 + 0.4) * math.log(2)
    classes = 2 * math.log(2)

    def ciou(dx: float, dy: float) -> float:
        """Of a box of 1 x 1 and one of 2 x 2 cells, centres apart by (dx, dy): the aspect ratios are equal."""
        inter = (min(0.5, dx + 1) - max(-0.5, dx - 1)) * (min(0.5, dy + 1) - max(-0.5, dy - 1))
        enclosing = max(0.5, dx + 1) - min(-0.5, dx - 1), max(0.5, dy + 1) - min(-0.5, dy - 1)
        return inter / (5 - inter) - (dx**2 + dy**2) / (enclosing[0] ** 2 + enclosing[1] ** 2)

    boxes = 1 - (ciou(0.25, 0.25) + ciou(0.75, 0.25) + ciou(0.25, 0.75)) / 3
    loss = detection_loss(head(), logits(), [label], PLAIN)
    assert float(loss) == pytest.approx(boxes + objectness + classes, abs=1e-5)
    weighted = detection_loss(head(), logits(), [label], Gains(box=2.0, objectness=3.0, classes=5.0))
    assert float(weighted) == pytest.approx(2 * boxes + 3 * objectness + 5 * classes, abs=1e-5)


def perfect(labels: list[Detections], head: AnchorHead) -> list[Tensor]:
    """Logits that say exactly what is assigned, and nothing elsewhere."""
    raw = logits(head.classes, -20.0)
    for level, (output, anchors, stride) in enumerate(zip(raw, head.anchors, head.strides, strict=True)):
        found = assign(labels, anchors, stride, *output.shape[2:4], 4.0)
        place = found.image, found.anchor, found.row, found.column
        xy, wh = (found.boxes[:, :2] + 0.5) / 2, (found.boxes[:, 2:] / head.anchors[level][found.anchor]).sqrt() / 2
        answer = torch.full((len(found.image), 5 + head.classes), -20.0)
        answer[:, :4] = torch.cat((xy, wh), dim=1).logit()
        answer[:, 4] = 20.0
        answer[torch.arange(len(found.image)), 5 + found.classes] = 20.0
        output[place] = answer
    return raw


def test_perfect_predictions_cost_nearly_nothing_and_any_other_more() -> None:
    labels = [Detections.of([[20.0, 20, 38, 40], [82.0, 90, 100, 111]], [1, 0])]
    right = perfect(labels, head())
    assert float(detection_loss(head(), right, labels, PLAIN)) < 1e-4
    for change in range(8):
        wrong = [level.clone() for level in right]
        wrong[0][..., change] += 3 if change < 4 else 25
        assert float(detection_loss(head(), wrong, labels, PLAIN)) > 0.01, change


def test_one_class_has_no_class_term_and_no_label_leaves_objectness_alone() -> None:
    label = Detections.of([[24.0, 24, 40, 40]], [0])
    only = detection_loss(head(1), logits(1), [label], Gains(box=0.0, objectness=0.0, classes=1.0))
    assert float(only) == 0
    empty = detection_loss(head(), logits(), [Detections.of([], [])], PLAIN)
    assert float(empty) == pytest.approx(5.4 * math.log(2), abs=1e-5)


def test_the_order_of_labels_does_not_matter() -> None:
    """Two objects want the same anchor of the same cell: the better IoU counts."""
    torch.manual_seed(0)
    raw = [torch.randn_like(level) for level in logits()]
    boxes, classes = [[20.0, 20, 36, 36], [22.0, 21, 36, 38]], [0, 2]
    forward = detection_loss(head(), raw, [Detections.of(boxes, classes)], PLAIN)
    backward = detection_loss(head(), raw, [Detections.of(boxes[::-1], classes[::-1])], PLAIN)
    assert float(forward) == pytest.approx(float(backward), rel=1e-6)


def test_the_loss_falls_under_optimisation_to_what_is_labelled() -> None:
    labels = [Detections.of([[20.0, 20, 38, 40]], [1])]
    raw = [level.requires_grad_() for level in logits()]
    optimizer = torch.optim.Adam(raw, lr=0.5)
    losses = []
    for _ in range(60):
        loss = detection_loss(head(), raw, labels, PLAIN)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.15 * losses[0]
    decoded = head().decode([level.detach() for level in raw])[0]
    best = decoded[4:].max(dim=0).values.argmax()
    assert decoded[:4, best].tolist() == pytest.approx([29, 30, 18, 20], abs=1.5)
    assert int(decoded[4:, best].argmax()) == 1


def test_boxes_that_vanish_have_finite_gradients() -> None:
    raw = [level.requires_grad_() for level in logits(value=-90.0)]
    detection_loss(head(), raw, [Detections.of([[20.0, 20, 38, 40]], [1])], PLAIN).backward()
    assert all(level.grad is not None and bool(level.grad.isfinite().all()) for level in raw)
