"""What all torchvision detectors share: pixels in, names of layers, labels in the network's own numbers."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision import __version__ as torchvision_version
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d

from detectors.base import BaseDetector
from detectors.detections import Detections
from detectors.protocol import StatisticsKind
from detectors.torchvision.models import Architecture
from detectors.torchvision.swin import WindowAttention
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity

SMALLEST_SIDE = 1.0
"""Labels with a side below this, pixels, are left out of the loss: their regression targets are infinite."""


class TorchvisionDetector(BaseDetector):
    """The part of `detectors.protocol.Detector` that one- and two-stage detectors have in common.

    Images are RGB in [0, 1]. The network's own transform is not called: it would resize every image to the size of
    training, and these have the size that was asked for. Its mean and deviation are applied.

    Args:
        identity: its `architecture` describes the network.
        network: as `build_network` makes it.
    """

    batch_norm_kinds = (nn.BatchNorm2d, FrozenBatchNorm2d)

    def __init__(self, identity: TeacherIdentity, network: Any) -> None:
        super().__init__(identity, network)
        self.architecture = Architecture.of(identity.architecture)

    @property
    def smallest_input(self) -> int:
        """See `Detector`."""
        return max(self.identity.stride, 32)

    @abstractmethod
    def head(self) -> list[str]:
        """Names of the modules after the feature pyramid."""

    def prepared(self, images: Tensor) -> ImageList:
        """Images as the backbone takes them, and their size once for all: asking for their number would fix it."""
        transform = self.network.transform
        mean, deviation = (
            torch.tensor(values, dtype=images.dtype, device=images.device)[:, None, None]
            for values in (transform.image_mean, transform.image_std)
        )
        size = (images.shape[2], images.shape[3])
        return ImageList((images - mean) / deviation, [size])

    def targets(self, labels: Sequence[Detections], device: torch.device) -> list[dict[str, Tensor]]:
        """Labels as the library's losses take them, classes in the network's numbers."""
        numbers = torch.tensor(self.architecture.labels, device=device)
        made = []
        for label in labels:
            boxes, classes = label.boxes.to(device), label.classes.to(device)
            usable = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= SMALLEST_SIDE
            made.append({"boxes": boxes[usable], "labels": numbers[classes[usable]]})
        return made

    def of_classes(self, values: Tensor) -> Tensor:
        """Of `(..., outputs)`, those of the classes that have a name, `(..., C)`."""
        return values[..., torch.tensor(self.architecture.labels, device=values.device)]

    def deployment_metadata(self, image_size: ImageSize) -> dict[str, str]:
        """See `Detector`."""
        values = {
            "description": "object detector, exported by zsq",
            "model": self.architecture.model,
            "torchvision": torchvision_version,
            "task": "detect",
            "stride": self.identity.stride,
            "imgsz": [image_size.height, image_size.width],
            "names": dict(enumerate(self.identity.class_names)),
        }
        return {key: str(value) for key, value in values.items()}

    @property
    def padding_colour(self) -> NDArray[np.uint8]:
        """See `BaseDetector`: the mean colour, which is 0 to the network."""
        colour: NDArray[np.uint8] = np.round(255 * np.array(self.network.transform.image_mean)).astype(np.uint8)
        return colour

    @property
    def statistics_kind(self) -> StatisticsKind:
        """See `Layers.statistics_kind`."""
        attends = any(isinstance(module, WindowAttention) for module in self.network.modules())
        return StatisticsKind.ATTENTION if attends else StatisticsKind.BATCH_NORM

    def statistics_sites(self) -> list[nn.Module]:
        """See `Layers.statistics`; a VGG has neither kind."""
        attention: list[nn.Module] = [m for m in self.network.modules() if isinstance(m, WindowAttention)]
        return attention or super().statistics_sites()

    def distillation_sites(self) -> list[str]:
        """See `Layers.distillation`: the parts of the backbone that carry weights, and the levels of its pyramid."""
        backbone = self.network.backbone
        sites: list[str] = []
        for part in ("body", "features", "extra"):
            sites += [
                f"backbone.{part}.{name}"
                for name, block in getattr(backbone, part, nn.Module()).named_children()
                if (name.isdigit() or name.startswith("layer")) and any(True for _ in block.parameters())
            ]
        if hasattr(backbone, "fpn"):
            sites += [f"backbone.fpn.layer_blocks.{level}" for level in range(len(backbone.fpn.layer_blocks))]
        return sites

    def head_layers(self) -> list[str]:
        """See `Layers.head`."""
        parts = tuple(f"{part}." for part in self.head())
        return [
            name
            for name, module in self.network.named_modules()
            if name.startswith(parts) and isinstance(module, nn.Conv2d | nn.Linear)
        ]
