"""What all torchvision detectors share: pixels in, names of layers, labels in the network's own numbers."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import __version__ as torchvision_version
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import batched_nms

from detectors.batch_norm import batch_norms, fold
from detectors.detections import Detections
from detectors.protocol import HeadOutputs, StatisticsKind
from detectors.torchvision.models import Architecture
from detectors.torchvision.swin import WindowAttention
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity

SMALLEST_SIDE = 1.0
"""Labels with a side below this, pixels, are left out of the loss: their regression targets are infinite."""
MAX_CANDIDATES = 5000
"""Boxes of an image, best first, that NMS looks at."""


class TorchvisionDetector(ABC):
    """The part of `detectors.protocol.Detector` that one- and two-stage detectors have in common.

    Images are RGB in [0, 1]. The network's own transform is not called: it would resize every image to the size of
    training, and these have the size that was asked for. Its mean and deviation are applied.

    Args:
        identity: its `architecture` describes the network.
        network: as `build_network` makes it.
    """

    def __init__(self, identity: TeacherIdentity, network: Any) -> None:
        self.identity = identity
        self.network = network.eval()
        self.network.requires_grad_(False)
        self.architecture = Architecture.of(identity.architecture)

    @property
    def smallest_input(self) -> int:
        """See `Detector`."""
        return max(self.identity.stride, 32)

    @property
    def needs_squares(self) -> str | None:
        """See `Detector`."""
        return None

    @abstractmethod
    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`."""

    @abstractmethod
    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`."""

    @abstractmethod
    def decoded(self, images: Tensor) -> Tensor:
        """See `Detector`."""

    @abstractmethod
    def head(self) -> list[str]:
        """Names of the modules after the feature pyramid."""

    @abstractmethod
    def output_layers(self) -> list[str]:
        """See `Detector`."""

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

    @property
    @abstractmethod
    def nms_iou(self) -> float:
        """What the network was published with."""

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

    def letterbox(self, image: NDArray[np.uint8], size: ImageSize) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """See `Detector`: in the upper left corner, on the mean colour, which is 0 to the network."""
        height, width = image.shape[:2]
        scale = min(size.height / height, size.width / width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        if resized != (height, width):
            pixels = F.interpolate(pixels, size=resized, mode="bilinear", align_corners=False)
        colour = np.round(255 * np.array(self.network.transform.image_mean)).astype(np.uint8)
        canvas = np.empty((size.height, size.width, 3), dtype=np.uint8)
        canvas[:] = colour
        placed = pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        canvas[: resized[0], : resized[1]] = placed
        return canvas, scale, (0, 0)

    def copy(self) -> Self:
        """See `Detector`."""
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network)
        return twin

    def fold_batch_norm(self) -> None:
        """See `Detector`."""
        fold(self.network)

    @property
    def statistics_kind(self) -> StatisticsKind:
        """See `Detector`."""
        attends = any(isinstance(module, WindowAttention) for module in self.network.modules())
        return StatisticsKind.ATTENTION if attends else StatisticsKind.BATCH_NORM

    def statistics_sites(self) -> list[nn.Module]:
        """See `Detector`; a VGG has neither kind."""
        attention: list[nn.Module] = [m for m in self.network.modules() if isinstance(m, WindowAttention)]
        return attention or batch_norms(self.network)

    def distillation_sites(self) -> list[str]:
        """See `Detector`: the parts of the backbone that carry weights, and the levels of its pyramid."""
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

    def first_layer(self) -> str:
        """See `Detector`."""
        return next(name for name, module in self.network.named_modules() if isinstance(module, nn.Conv2d))

    def head_layers(self) -> list[str]:
        """See `Detector`."""
        parts = tuple(f"{part}." for part in self.head())
        return [
            name
            for name, module in self.network.named_modules()
            if name.startswith(parts) and isinstance(module, nn.Conv2d | nn.Linear)
        ]

    def float_layers(self) -> list[str]:
        """See `Detector`: decoding has no layers."""
        return []


def best_boxes(
    boxes: Tensor, scores: Tensor, *, confidence: float, iou: float, max_detections: int, multi_label: bool
) -> Detections:
    """The boxes of an image that NMS within each class leaves, best first.

    Args:
        boxes: `(A, 4)`, or `(A, C, 4)` with a box for each class; corners, pixels.
        scores: `(A, C)`.
        confidence: lowest score.
        iou: highest overlap of two boxes of a class.
        max_detections: most boxes that are left.
        multi_label: several classes an anchor, else its best one.
    """
    if boxes.dim() == 2:
        boxes = boxes[:, None].expand(-1, scores.shape[1], -1)
    if multi_label:
        anchor, category = torch.nonzero(scores > confidence, as_tuple=True)
    else:
        best, category = scores.max(dim=1)
        anchor = torch.nonzero(best > confidence).flatten()
        category = category[anchor]
    found, chosen = scores[anchor, category], boxes[anchor, category]
    if len(found) > MAX_CANDIDATES:
        found, order = found.topk(MAX_CANDIDATES)
        chosen, category = chosen[order], category[order]
    kept = batched_nms(chosen, found, category, iou)[:max_detections]
    return Detections.of(chosen[kept], category[kept], found[kept])
