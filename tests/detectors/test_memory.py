import pytest
import torch
from torch import Tensor, nn

from detectors.detections import Detections
from detectors.memory import fitting, kept_bytes, live_bytes, per_pixel, worth_asking
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.errors import InputError
from schemas.image_size import ImageSize

KILO = torch.ones(1000)
"""4,000 bytes."""


def test_what_a_gradient_needs_is_counted_once_and_without_parameters() -> None:
    layer, x = nn.Linear(1000, 10, bias=False), KILO.clone().requires_grad_()

    def forward() -> Tensor:
        y = x.exp()  # keeps its result
        return (layer(y) * y.sum()).sum()  # the product keeps 10 sums and one; y is kept already

    assert kept_bytes(forward) == 4000 + 10 * 4 + 4


def test_what_lives_at_once_counts_and_not_what_is_gone_a_view_or_in_place() -> None:
    def work() -> None:
        first = KILO + 1
        second = first[:500] + 1  # 4,000 and 2,000
        del first
        third = second.add_(1).view(50, 10) + 1  # 2,000 and 2,000
        del second, third

    assert live_bytes(work) == 6000
    assert live_bytes(lambda: KILO.view(10, 100).mul_(1)) == 0


def test_small_images_say_what_large_ones_take() -> None:
    detector = UltralyticsDetector.embedded()

    def count(images: Tensor, labels: list[Detections]) -> int:
        pixels = images.clone().requires_grad_()
        return kept_bytes(lambda: detector.detection_loss(pixels, labels))

    foreseen = per_pixel(detector, count) * 480**2
    label = Detections.of(torch.tensor([[100.0, 100.0, 300.0, 300.0]]), torch.zeros(1, dtype=torch.long))
    assert foreseen == pytest.approx(count(torch.rand(1, 3, 480, 480), [label]), rel=0.03)


def test_images_no_larger_than_those_that_are_counted_on_are_not_asked_about() -> None:
    detector = UltralyticsDetector.embedded()
    assert not worth_asking(detector, ImageSize.square(320))
    assert worth_asking(detector, ImageSize(320, 352))


@pytest.mark.parametrize(
    ("error", "where"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU's memory"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), "memory"),
    ],
    ids=["gpu", "cpu"],
)
def test_memory_that_ran_out_is_a_line_with_the_setting(error: Exception, where: str) -> None:
    with (
        pytest.raises(InputError, match=f"^8 images do not fit into {where}; lower batch$"),
        fitting("8 images", "batch"),
    ):
        raise error


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), fitting("8 images", "batch"):
        raise RuntimeError("shapes do not match")
