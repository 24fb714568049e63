"""Folding changes how a network computes and not what, and says where each batch norm went."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detectors.folding import FoldedNorm, fold
from detectors.protocol import Detector, HeadOutputs
from detectors.registry import load_teacher
from schemas.teacher import TeacherSource


class Stub:
    """A detector of two outputs around any network, for what folding asks of one."""

    class identity:
        stride = 8

    def __init__(self, network: nn.Module) -> None:
        self.network = network.eval()

    def head_outputs(self, images: Tensor) -> HeadOutputs:
        outputs = self.network(images)
        return HeadOutputs((outputs,), (outputs,), None)


def unsettled(norm: Any) -> Any:
    """A norm with statistics and an affine part of its own."""
    generator = torch.Generator().manual_seed(norm.running_mean.numel())
    for tensor, low, high in (
        (norm.running_mean, -1, 1), (norm.running_var, 0.5, 2), (norm.weight, -2, -0.5), (norm.bias, -1, 1)
    ):  # fmt: skip
        tensor.data.uniform_(low, high, generator=generator)
    return norm


class UsedTwice(nn.Module):
    """The convolution's output goes around the norm as well."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.after = nn.Conv2d(3, 4, 3), unsettled(nn.BatchNorm2d(4)), nn.Conv2d(4, 4, 1)
        self.last = unsettled(nn.BatchNorm2d(4))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        result: Tensor = self.last(self.after(self.norm(x) + x))
        return result


class AddsInPlace(nn.Module):
    """What the norm gave is gone when the forward pass ends, as in a block of a ResNet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), unsettled(nn.BatchNorm2d(3))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.conv(x))
        result += x
        return nn.functional.relu(result)


def folded(network: nn.Module, sites: list[nn.Module]) -> tuple[list[FoldedNorm | nn.Module], float]:
    """Where the sites went, and the relative change of the outputs."""
    detector: Any = Stub(network)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        before = network(images)
        found = fold(detector, sites)
        return found, float((network(images) - before).norm() / before.norm())


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, FrozenBatchNorm2d])
def test_a_norm_behind_a_convolution_is_folded_into_it(norm: Any) -> None:
    torch.manual_seed(0)
    first, second = unsettled(norm(4)), unsettled(norm(5))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), first, nn.ReLU(inplace=True), nn.Conv2d(4, 5, 3, bias=False), second)
    found, change = folded(network, [first, second])
    assert all(isinstance(site, FoldedNorm) for site in found)
    assert [site.output for site in found if isinstance(site, FoldedNorm)] == [network[0], network[3]]
    assert isinstance(network[1], nn.Identity) and isinstance(network[4], nn.Identity)
    assert change < 1e-5


def test_norms_without_a_convolution_before_them_or_with_a_dead_channel_stay() -> None:
    torch.manual_seed(0)
    alone, dead = unsettled(nn.BatchNorm2d(3)), unsettled(nn.BatchNorm2d(4))
    dead.weight.data[2] = 0
    network = nn.Sequential(alone, nn.ReLU(), nn.Conv2d(3, 4, 3), dead)
    found, change = folded(network, [alone, dead])
    assert found == [alone, dead]
    assert change == 0


def test_nothing_is_folded_where_a_convolution_is_used_elsewhere_too() -> None:
    torch.manual_seed(0)
    network = UsedTwice()
    sites = [network.norm, network.last]
    weight = network.conv.weight
    found, change = folded(network, sites)
    assert found == sites
    assert network.norm is sites[0] and network.last is sites[1] and network.conv.weight is weight
    assert change == 0


def test_a_norm_whose_output_is_overwritten_stays_and_activations_no_longer_work_in_place() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(AddsInPlace(), nn.Conv2d(3, 4, 3), unsettled(nn.BatchNorm2d(4)), nn.ReLU(inplace=True))
    stays, goes = network[0].norm, network[2]
    found, change = folded(network, [stays, goes])
    assert found[0] is stays and isinstance(found[1], FoldedNorm)
    assert change < 1e-5

    images = torch.rand(2, 3, 16, 16, requires_grad=True)
    kept: list[Tensor] = []
    found[1].output.register_forward_hook(lambda *args: kept.append(args[2]))
    (network(images).sum() + kept[0].square().sum()).backward()  # refused where an activation overwrote what is kept


def test_all_norms_of_the_embedded_teacher_are_folded_and_its_outputs_stay() -> None:
    detector: Detector = load_teacher(TeacherSource(), torch.device("cpu"))
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = detector.head_outputs(images)
        found = fold(detector, detector.statistics_sites())
        after = detector.head_outputs(images)
    assert found and all(isinstance(site, FoldedNorm) for site in found)
    assert not detector.statistics_sites()
    for one, other in zip(before.class_logits + before.box_logits, after.class_logits + after.box_logits, strict=True):
        assert (one - other).norm() < 1e-5 * one.norm()
