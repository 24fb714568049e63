"""What detector families repeat: a new one overrides what is different about it.

torchvision is imported where it is used: it loads PyTorch's compiler with it, and a refusal need not wait for that.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.batch_norm import Kinds, batch_norms, fold
from detectors.detections import Detections
from detectors.protocol import Decoded, HeadOutputs, Layers, StatisticsKind, Suppression
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.teacher import TeacherIdentity


class BaseDetector(ABC):
    """The part of `detectors.protocol.Detector` that families have in common.

    Args:
        identity: which detector it is.
        network: computes; any module, since libraries leave theirs untyped.
    """

    batch_norm_kinds: ClassVar[Kinds] = (nn.BatchNorm2d,)
    """Classes of the family's batch norms."""

    def __init__(self, identity: TeacherIdentity, network: Any) -> None:
        self.identity = identity
        self.network = network.eval()
        self.network.requires_grad_(False)

    @property
    def sees(self) -> ShapeKind:
        """See `Detector`."""
        return ShapeKind.BOX

    @property
    def predicts(self) -> ShapeKind:
        """See `Detector`."""
        return self.sees

    @property
    def keypoints(self) -> int:
        """See `Detector`."""
        return 0

    @property
    def mirror(self) -> tuple[int, ...] | None:
        """See `Detector`."""
        return ()

    def shaped(self, images: Tensor, labels: Sequence[Detections]) -> list[Detections]:
        """See `Detector`."""
        return list(labels)

    @property
    def smallest_input(self) -> int:
        """See `Detector`."""
        return self.identity.stride

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

    def detection_loss(self, images: Tensor, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`."""
        return self.task_loss(self.head_outputs(images), labels)

    @torch.no_grad()
    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        return self.suppress(self.decoded(images), limits)

    @abstractmethod
    def decoded(self, images: Tensor) -> Decoded:
        """See `Detector`."""

    def suppress(self, decoded: Decoded, limits: Suppression) -> list[Detections]:
        """See `Detector`: of `(B, 4 + C, A)` outputs by NMS, of end-to-end rows the first that are certain enough."""
        if self.end_to_end:
            kept = [rows[rows[:, 4] > limits.confidence][: limits.max_detections] for rows in decoded]
            return [Detections.of(rows[:, :4], rows[:, 5].long(), rows[:, 4]) for rows in kept]
        from torchvision.ops import box_convert

        from detectors.suppression import best_boxes

        return [
            best_boxes(box_convert(rows[:, :4], "cxcywh", "xyxy"), rows[:, 4:], limits, self.nms_iou)
            for rows in decoded.transpose(1, 2)
        ]

    @property
    def nms_iou(self) -> float:
        """The overlap of boxes of a class that the family is used with."""
        return 0.5

    @property
    def end_to_end(self) -> bool:
        """See `Detector`."""
        return False

    @property
    def export_obstacle(self) -> str | None:
        """See `Detector`."""
        return None

    def deployed(self) -> nn.Module:
        """See `Detector`."""
        twin = self.copy()
        twin.fold_batch_norm()
        twin.network.cpu()
        return Decoding(twin)

    def deployment_metadata(self, image_size: ImageSize) -> dict[str, str]:
        """See `Detector`."""
        values = {
            "description": "object detector, exported by zsq",
            "task": "detect",
            "stride": self.identity.stride,
            "imgsz": [image_size.height, image_size.width],
            "names": dict(enumerate(self.identity.class_names)),
        }
        return {key: str(value) for key, value in values.items()}

    def letterbox(self, image: NDArray[np.uint8], size: ImageSize) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """See `Detector`: in the upper left corner."""
        height, width = image.shape[:2]
        scale = min(size.height / height, size.width / width)
        resized = (max(1, round(height * scale)), max(1, round(width * scale)))
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()
        if resized != (height, width):
            pixels = F.interpolate(pixels, size=resized, mode="bilinear", align_corners=False)
        canvas = np.empty((size.height, size.width, 3), dtype=np.uint8)
        canvas[:] = self.padding_colour
        canvas[: resized[0], : resized[1]] = pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
        return canvas, scale, (0, 0)

    @property
    def padding_colour(self) -> NDArray[np.uint8]:
        """The colour beside a letterboxed image, `(3,)` RGB."""
        return np.full(3, self.identity.pixels.padding, dtype=np.uint8)

    def copy(self) -> Self:
        """See `Detector`."""
        twin = copy.copy(self)
        twin.network = copy.deepcopy(self.network)
        return twin

    def fold_batch_norm(self) -> None:
        """See `Detector`."""
        fold(self.network, self.batch_norm_kinds)

    @property
    def layers(self) -> Layers:
        """See `Detector`."""
        return replace(self._named_layers, statistics=tuple(self.names_of(self.statistics_sites())))

    @cached_property
    def _named_layers(self) -> Layers:
        """All but the statistics, which folding takes away; kept by copies, whose layers get quantizers."""
        return Layers(
            first=self.first_layer(),
            output=tuple(self.output_layers()),
            head=tuple(self.head_layers()),
            in_float=tuple(self.float_layers()),
            distillation=tuple(self.distillation_sites()),
            statistics=(),
            statistics_kind=self.statistics_kind,
        )

    def first_layer(self) -> str:
        """See `Layers.first`."""
        return next(name for name, module in self.network.named_modules() if isinstance(module, nn.Conv2d))

    @abstractmethod
    def output_layers(self) -> list[str]:
        """See `Layers.output`."""

    @abstractmethod
    def head_layers(self) -> list[str]:
        """See `Layers.head`."""

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`."""
        return []

    @abstractmethod
    def distillation_sites(self) -> list[str]:
        """See `Layers.distillation`."""

    @property
    def statistics_kind(self) -> StatisticsKind:
        """See `Layers.statistics_kind`."""
        return StatisticsKind.BATCH_NORM

    def statistics_sites(self) -> list[nn.Module]:
        """The modules of `Layers.statistics`."""
        return batch_norms(self.network, self.batch_norm_kinds)

    def names_of(self, modules: Sequence[nn.Module]) -> list[str]:
        """The names that modules have in the network, in the order of definition."""
        wanted = {id(module) for module in modules}
        return [name for name, module in self.network.named_modules() if id(module) in wanted]


class Decoding(nn.Module):
    """A detector as an engine gets it: images to decoded outputs."""

    def __init__(self, detector: BaseDetector) -> None:
        super().__init__()
        self.network = detector.network
        self._detector = detector

    def forward(self, images: Tensor) -> Decoded:
        """Decoded outputs of `(B, 3, H, W)`."""
        return self._detector.decoded(images)
