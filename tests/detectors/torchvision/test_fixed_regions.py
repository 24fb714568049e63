"""With a fixed number of regions a two-stage detector computes what it computes with as many as there are."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 96, 128, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["fasterrcnn", "maskrcnn"])
def detector(request: pytest.FixtureRequest, torchvision_detector: Callable[..., Any]) -> Any:
    built = torchvision_detector(request.param)
    for name in built.output_layers():
        nn.init.normal_(built.network.get_submodule(name).weight, std=0.1)  # initial ones score all alike
    return built


def compare(detector: Any, images: Tensor) -> Tensor:
    with torch.no_grad():
        rows = detector.deployed()(images)
        expected = detector.decoded(images)
    assert rows.shape == expected.shape
    torch.testing.assert_close(rows[..., 4], expected[..., 4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-2)
    return expected


@pytest.mark.parametrize("regions", [5, 2000])
def test_fewer_and_more_regions_than_an_image_has(detector: Any, images: Tensor, regions: int) -> None:
    detector.network.rpn._post_nms_top_n["testing"] = regions
    found = compare(detector, images)
    assert bool((found[..., 4] > 0).any(dim=1).all())


def test_where_the_first_stage_finds_nothing_the_whole_image_is_the_region(detector: Any, images: Tensor) -> None:
    detector.network.rpn.score_thresh = 1.0
    with torch.no_grad():
        assert [each.tolist() for each in detector.propose(images).regions] == [[[0, 0, 128, 96]]] * 2
    compare(detector, images)


def test_no_more_candidates_go_into_suppression_than_in_predictions(
    detector: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("suppression", "torchvision.fixed_regions"):
        monkeypatch.setattr(f"detectors.{module}.MAX_CANDIDATES", 7)
    found = compare(detector, images)
    assert int((found[..., 4] > 0).sum(dim=1).max()) <= 7
