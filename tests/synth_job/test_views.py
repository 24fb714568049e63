"""A view shows the labels where it shows the objects."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detectors.detections import Detections
from detectors.protocol import Detector
from schemas.image_size import ImageSize
from schemas.synth_config import ViewConfig
from synth_job.views import View

SIZE = 96
SQUARE = ImageSize.square(SIZE)


@given(st.booleans(), st.integers(-20, 20), st.integers(-20, 20), st.sampled_from([64, 96, 128, 192]))
def test_boxes_follow_the_object(flipped: bool, right: int, down: int, resized: int) -> None:
    images = torch.zeros(1, 3, SIZE, SIZE)
    images[:, :, 30:60, 24:40] = 1
    view = View(SQUARE, flipped, (right, down), ImageSize.square(resized))
    seen = view.of_images(images)
    assert seen.shape == (1, 3, resized, resized)
    rows, columns = torch.where(seen[0, 0] > 0.5)
    drawn = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    box = view.of_labels(Detections.of([[24.0, 30.0, 40.0, 60.0]], [3]))
    assert box.classes.tolist() == [3]
    assert float((box.boxes[0] - drawn).abs().max()) <= 1


@given(st.integers(0, 2**31), st.floats(0, 0.5), st.sampled_from([(1.0,), (0.8, 1.0, 1.2), (0.25, 4.0)]))
def test_drawn_views_fit_the_stride_and_boxes_stay_inside(seed: int, shift: float, scales: tuple[float, ...]) -> None:
    generator = torch.Generator().manual_seed(seed)
    view = View.draw(ViewConfig(shift=shift, scales=scales), SQUARE, 32, generator)
    assert view.resized.height % 32 == 0
    assert view.resized.is_square and view.resized.height >= 32
    assert max(map(abs, view.shift)) <= round(shift * SIZE)
    boxes = view.of_labels(Detections.of([[0.0, 0.0, 96.0, 96.0], [80.0, 2.0, 96.0, 50.0]], [0, 1])).boxes
    assert 0 <= float(boxes.min()) <= float(boxes.max()) <= view.resized.height
    assert bool((boxes[:, 2:] >= boxes[:, :2]).all())


def test_the_published_method_is_the_plain_view() -> None:
    view = View.draw(ViewConfig(flip=0, shift=0, scales=(1.0,)), SQUARE, 32, torch.Generator())
    images = torch.rand(2, 3, SIZE, SIZE)
    labels = Detections.of([[1.0, 2.0, 30.0, 40.0]], [0])
    assert torch.equal(view.of_images(images), images)
    assert torch.equal(view.of_labels(labels).boxes, labels.boxes)


def test_gradients_pass_through_a_view() -> None:
    images = torch.rand(1, 3, SIZE, SIZE).requires_grad_()
    View(SQUARE, True, (3, -4), ImageSize.square(128)).of_images(images).sum().backward()
    assert images.grad is not None
    assert bool((images.grad > 0).all())


@pytest.mark.parametrize("box", [[96.0, 10.0, 96.0, 40.0], [0.0, 0.0, 0.0, 0.0], [20.0, 96.0, 50.0, 96.0]])
def test_a_box_that_a_view_pushed_over_the_border_keeps_the_loss_finite(teacher: Detector, box: list[float]) -> None:
    images = torch.rand(1, 3, SIZE, SIZE).requires_grad_()
    labels = Detections.of([box, [10.0, 10.0, 50.0, 60.0]], [1, 2])
    loss = teacher.task_loss(teacher.head_outputs(images), [labels])
    loss.backward()
    assert bool(loss.isfinite())
    assert images.grad is not None
    assert bool(images.grad.isfinite().all())
