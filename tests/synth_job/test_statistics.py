"""Statistics of forming images: the batch norms' distance is the plain formula, and entropy of patches what it says."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from detectors.protocol import Detector
from synth_job.statistics import BatchNormMatching, ChannelMoments, PatchSimilarity, similarity_entropy, statistics_of


def test_matching_is_the_plain_sum_over_layers() -> None:
    torch.manual_seed(0)
    norms = [nn.BatchNorm2d(4), nn.BatchNorm2d(5)]
    network = nn.Sequential(nn.Conv2d(3, 4, 3), norms[0], nn.ReLU(), nn.Conv2d(4, 5, 3), norms[1])
    for norm in norms:
        nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    network.eval()
    x = torch.rand(3, 3, 9, 9)
    with BatchNormMatching(norms) as matching:
        network(x)
        every_layer, first_layer = (loss.detach() for loss in matching.losses())

    expected = []
    for norm, index in zip(norms, (1, 4), strict=True):
        flat = network[:index](x).double().transpose(0, 1).flatten(1)
        mean = flat.mean(dim=1)
        variance = (flat - mean[:, None]).square().mean(dim=1)
        distance = (mean - norm.running_mean).norm() + (variance - norm.running_var).norm()
        expected.append(float(distance.detach()))
    assert float(first_layer) == pytest.approx(expected[0], rel=1e-5)
    assert float(every_layer) == pytest.approx(sum(expected), rel=1e-5)


def test_matching_forgets_each_pass_and_measures_nothing_while_paused(teacher: Detector) -> None:
    images = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with BatchNormMatching(teacher.statistics_sites()) as matching:
        teacher.head_outputs(images)
        first = matching.losses()
        with matching.paused():
            teacher.head_outputs(images)
        assert float(matching.losses()[0]) == 0
        teacher.head_outputs(images)
        again = matching.losses()
    assert float(again[0]) == float(first[0]) > 0


def test_channel_moments_and_their_gradients_are_right() -> None:
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64, requires_grad=True)
    mean, variance = ChannelMoments.apply(x)
    torch.testing.assert_close(mean, x.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(variance, x.var(dim=(0, 2, 3), correction=0))
    assert torch.autograd.gradcheck(ChannelMoments.apply, (x,))


def test_a_frozen_batch_norm_is_matched_as_another_is() -> None:
    torch.manual_seed(0)
    running, frozen = nn.BatchNorm2d(3).eval(), FrozenBatchNorm2d(3)
    nn.init.normal_(running.running_mean)  # type: ignore[arg-type]
    frozen.load_state_dict(running.state_dict())
    x = torch.rand(2, 3, 5, 5)
    found = []
    for site in (running, frozen):
        with BatchNormMatching([site]) as matching:
            site(x)
            found.append(float(matching.losses()[0]))
    assert found[0] == pytest.approx(found[1]) and found[0] > 0


def test_the_entropy_of_similarities_is_that_of_their_kernel_density() -> None:
    patches = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    flat = nn.functional.normalize(patches[1].reshape(12, 8).double(), dim=1)
    similarities = torch.stack([flat[i] @ flat[j] for i in range(12) for j in range(i + 1, 12)])
    grid = torch.linspace(-1, 1, 41, dtype=torch.float64)
    density = torch.stack([torch.exp(-0.5 * ((x - similarities) / 0.05) ** 2).mean() for x in grid])
    density /= 0.05 * math.sqrt(2 * math.pi)
    heights = -density * density.log()
    expected = float(((heights[1:] + heights[:-1]) / 2).sum() * 0.05)
    assert float(similarity_entropy(patches)[1]) == pytest.approx(expected, rel=1e-3)


def test_patches_of_two_kinds_have_more_entropy_than_patches_of_one() -> None:
    generator = torch.Generator().manual_seed(0)

    def noise() -> Tensor:
        return 0.3 * torch.randn(1, 20, 20, 16, generator=generator)

    alike, mixed = noise() + 1, noise() + 1
    mixed[:, :10] += 2 * torch.randn(16, generator=generator)
    assert float(similarity_entropy(mixed)) > float(similarity_entropy(alike)) + 0.1


def test_patch_similarity_gives_minus_the_entropy_of_all_sites_and_images_with_a_gradient() -> None:
    sites = [nn.Linear(6, 8), nn.Linear(8, 8)]
    x = torch.randn(2, 5, 5, 6, generator=torch.Generator().manual_seed(0)).requires_grad_()
    with PatchSimilarity(sites) as similarity:
        first = sites[0](x)
        second = sites[1](first)
        loss, first_site = similarity.losses()
    expected = -(similarity_entropy(first) + similarity_entropy(second)).sum()
    assert float(loss.detach()) == pytest.approx(float(expected.detach()))
    assert float(first_site) == 0
    loss.backward()
    assert x.grad is not None and float(x.grad.abs().sum()) > 0


def test_behind_folded_norms_the_losses_and_their_gradients_are_those_of_the_norms_themselves(
    teacher: Detector,
) -> None:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    twin = teacher.copy()
    results = []
    for detector, statistics in ((teacher, BatchNormMatching(teacher.statistics_sites())), (twin, statistics_of(twin))):
        pixels = images.clone().requires_grad_()
        with statistics:
            detector.head_outputs(pixels)
            every_layer, first_layer = statistics.losses()
        results.append((every_layer, first_layer, torch.autograd.grad(every_layer + first_layer, pixels)[0]))
    for mine, plain in zip(results[1], results[0], strict=True):
        assert (mine - plain).norm() < 1e-4 * plain.norm()
    assert not twin.statistics_sites(), "all of them are folded"
    assert teacher.statistics_sites()


def test_a_distance_of_zero_has_no_gradient() -> None:
    norm = nn.BatchNorm2d(2).eval()
    x = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])[None, :, None].requires_grad_()
    with BatchNormMatching([norm]) as matching:
        norm(x)
        every_layer, _ = matching.losses()
    assert float(every_layer.detach()) < 1e-6
    assert torch.equal(torch.autograd.grad(every_layer, x)[0], torch.zeros_like(x))


def test_moments_of_half_precision_are_float32_and_their_gradients_fit_the_input() -> None:
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).bfloat16().requires_grad_()
    mean, variance = ChannelMoments.apply(x)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(variance, x.detach().float().var(dim=(0, 2, 3), correction=0))
    (gradient,) = torch.autograd.grad(mean.sum() + variance.sum(), x)
    assert gradient.dtype == torch.bfloat16
