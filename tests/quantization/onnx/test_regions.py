"""Suppression and pooling of regions as ONNX operators compute what they do in PyTorch."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.regions import REMOVED, keep_best, pool_levels
from quantization.onnx.engine import open_engine
from quantization.onnx.graph import to_onnx, write_onnx

BOXES = 12


class Regions(nn.Module):
    """The regions of an image: what is pooled from one of two levels, in both ways, and their scores."""

    def __init__(self) -> None:
        super().__init__()
        corners = torch.rand(BOXES, 2, generator=torch.Generator().manual_seed(0)) * 16
        sides = torch.rand(BOXES, 2, generator=torch.Generator().manual_seed(1)) * 24
        sides[3] = 0  # an empty region
        self.register_buffer("boxes", torch.cat((corners, corners + sides), dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """`(B, BOXES, 25)` of `(B, 3, H, W)`."""
        boxes = self.boxes.expand(images.shape[0], -1, -1)
        kept = keep_best(boxes, images[:, 0, 0, :BOXES], 0.3, 0.2, 4)
        image = torch.arange(images.shape[0], dtype=boxes.dtype)[:, None, None].expand(-1, BOXES, 1)
        numbered = torch.cat((image, boxes), dim=2).flatten(0, 1)
        levels = (numbered[:, 3] - numbered[:, 1] > 12).long()
        maps = [images, F.avg_pool2d(images, 2)]
        pooled = [pool_levels(maps, numbered, levels, [1.0, 0.5], 2, aligned) for aligned in (False, True)]
        seen = torch.cat([each.flatten(1).unflatten(0, (-1, BOXES)) for each in pooled], dim=2)
        return torch.cat((seen, kept[..., None]), dim=2)


def test_any_number_of_images_has_the_same_regions_in_the_engine(tmp_path: Path) -> None:
    network = Regions().eval()
    path = tmp_path / "regions.onnx"
    write_onnx(to_onnx(network, 8, {}), path)
    engine = open_engine(path)
    for batch, height, width in ((1, 32, 32), (3, 48, 64)):
        images = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(batch))
        expected = network(images)
        torch.testing.assert_close(torch.from_numpy(engine(images.numpy())), expected, rtol=1e-5, atol=1e-5)
        kept = expected[..., -1] > REMOVED
        assert kept.any(dim=1).all()
        assert int(kept.sum(dim=1).max()) <= 4
