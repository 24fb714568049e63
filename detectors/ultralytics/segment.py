"""Segment heads of the ultralytics package (v8, 11, 26): boxes, and masks by coefficients of prototypes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import SegmentationModel

from detectors.detections import Detections
from detectors.protocol import BinaryOutputs, HeadOutputs, Suppression
from detectors.shapes.masks import MaskShapes
from detectors.ultralytics.anchors import CLOSE, at_places, best_anchors, branches, confident_anchors, corners
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind

COMPARED, SIDE = 32, 28
"""Anchors of an image whose masks are compared in distillation, and the side of the grid on each one's box."""
SMALLEST_SHARE = 0.2
"""A mask that fills less of its box is no object's: the head sees nothing there yet."""


@dataclass(frozen=True)
class SegmentOutputs(HeadOutputs):
    """Where masks are compared.

    Attributes:
        places: anchors `(B, K)` and corners `(B, K, 4)` of their boxes in pixels, of each branch.
    """

    places: tuple[tuple[Tensor, Tensor], ...] = ()


class SegmentDetector(UltralyticsDetector):
    """Implements `detectors.protocol.Detector` for `*-seg.pt`."""

    HEADS = ("Segment", "Segment26")
    NETWORK = SegmentationModel
    TASK = "segment"
    BRANCHES = ("cv2", "cv3", "cv4")
    ARGUMENTS = MappingProxyType({"overlap_mask": False})  # one mask for each object, in the order of the labels

    @property
    def sees(self) -> ShapeKind:
        """See `Detector`."""
        return ShapeKind.MASK

    @property
    def prototype_stride(self) -> int:
        """Pixels of a cell of the prototypes, which have twice the height and width of the finest feature map."""
        return int(self._head.stride[0]) // 2

    def detection_loss(self, images: Tensor, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`."""
        return self.task_loss(super().head_outputs(images), labels)

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> SegmentOutputs:
        """See `Detector`: masks are compared at the anchors of which the teacher is most certain."""
        outputs = super().head_outputs(images)
        raws = branches(outputs.raw)
        if isinstance(like, SegmentOutputs):
            places = like.places
        else:
            places = tuple(self._places(raw, logits) for raw, logits in zip(raws, outputs.class_logits, strict=True))
        logits = [
            _mask_logits(raw["mask_coefficient"], _prototypes(raw), *where, self.prototype_stride)
            for raw, where in zip(raws, places, strict=True)
        ]
        certain = (like or outputs).class_logits
        binary = tuple(
            BinaryOutputs(each, _certainty(of, anchors))
            for each, of, (anchors, _) in zip(logits, certain, places, strict=True)
        )
        return SegmentOutputs(outputs.class_logits, outputs.box_logits, outputs.raw, binary=binary, places=places)

    @torch.no_grad()
    def _places(self, raw: dict[str, Any], logits: Tensor) -> tuple[Tensor, Tensor]:
        """The anchors of a branch that are most certain, and the corners of their boxes."""
        anchors, _ = confident_anchors(logits, COMPARED)
        boxes = at_places(self._head._get_decode_boxes(raw), anchors).transpose(1, 2)
        return anchors, corners(boxes, self.end_to_end)

    def further_targets(self, labels: Sequence[Detections], size: ImageSize, device: torch.device) -> dict[str, Tensor]:
        """See `UltralyticsDetector`: a mask of each object at the size of the prototypes, and classes of all pixels."""
        height, width = size.height // self.prototype_stride, size.width // self.prototype_stride
        masks = [_masks_of(label, size).to(device).at(height, width) for label in labels]
        classes = torch.zeros(len(labels), height, width, device=device)
        for image, (each, label) in enumerate(zip(masks, labels, strict=True)):
            for mask, category in zip(each, label.classes.tolist(), strict=True):
                classes[image][mask] = category
        return {"masks": torch.cat(masks).float(), "sem_masks": classes}

    def suppress(self, decoded: tuple[Tensor, Tensor], limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        rows, prototypes = decoded
        height, width = (side * self.prototype_stride for side in prototypes.shape[2:])
        return [
            Detections.of(
                found[:, :4],
                found[:, 5].long(),
                found[:, 4],
                _shapes(found[:, 6:], each, ImageSize(height, width), found[:, :4]),
            )
            for found, each in zip(self.suppressed(rows, limits), prototypes, strict=True)
        ]

    @torch.no_grad()
    def shaped(self, images: Tensor, labels: Sequence[Detections]) -> list[Detections]:
        """See `Detector`."""
        _, raw = self.network(images)
        branch = branches(raw)[-1]
        boxes = corners(self._head._get_decode_boxes(branch).transpose(1, 2), self.end_to_end)
        scores, prototypes = branch["scores"].sigmoid(), _prototypes(branch)
        size = ImageSize(*images.shape[2:])
        return [
            self._shaped(label, boxes[n], scores[n], branch["mask_coefficient"][n], prototypes[n], size)
            for n, label in enumerate(labels)
        ]

    def _shaped(
        self,
        label: Detections,
        boxes: Tensor,
        scores: Tensor,
        coefficients: Tensor,
        prototypes: Tensor,
        size: ImageSize,
    ) -> Detections:
        anchors, overlap = best_anchors(boxes, scores, label)
        placed = label.boxes.to(boxes)
        seen = _shapes(coefficients.T[anchors], prototypes, size, placed).at(size.height, size.width)
        area = (placed[:, 2:] - placed[:, :2]).prod(dim=1)
        known = (overlap >= CLOSE) & (seen.sum(dim=(1, 2)) >= SMALLEST_SHARE * area)
        masks = torch.where(known[:, None, None], seen, MaskShapes.ellipses(placed, size).at(size.height, size.width))
        return replace(label, shapes=MaskShapes.of(masks).to(label.boxes.device))

    def output_layers(self) -> list[str]:
        """See `Layers.output`: the prototypes are the last layer of a branch of their own."""
        return self.names_of(
            [*(self.network.get_submodule(name) for name in super().output_layers()), _last(self._head.proto.cv3)]
        )

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`: also what only the library's training looks at."""
        semantic = getattr(self._head.proto, "semseg", None)
        unused = [] if semantic is None else [m for m in semantic.modules() if isinstance(m, nn.Conv2d)]
        return [*super().float_layers(), *self.names_of(unused)]

    def head_layers(self) -> list[str]:
        """See `Layers.head`."""
        outside = set(self.float_layers())
        return [name for name in super().head_layers() if name not in outside]

    def distillation_sites(self) -> list[str]:
        """See `Layers.distillation`: the prototypes too, which all masks are made of."""
        return [*super().distillation_sites(), *self.names_of([self._head.proto])]

    def statistics_sites(self) -> list[nn.Module]:
        """See `BaseDetector`: of what runs in eval mode."""
        semantic = getattr(self._head.proto, "semseg", None)
        unused = set() if semantic is None else {id(module) for module in semantic.modules()}
        return [site for site in super().statistics_sites() if id(site) not in unused]


def _prototypes(raw: dict[str, Any]) -> Tensor:
    """`(B, P, h, w)`, see `SegmentDetector.prototype_stride`."""
    prototypes: Tensor = raw["proto"]
    return prototypes


def _masks_of(label: Detections, size: ImageSize) -> MaskShapes:
    """The masks of labels; ellipses where they have none."""
    shapes = label.shapes
    return shapes if isinstance(shapes, MaskShapes) else MaskShapes.ellipses(label.boxes, size)


def _shapes(coefficients: Tensor, prototypes: Tensor, size: ImageSize, boxes: Tensor) -> MaskShapes:
    """Masks of coefficients `(N, P)` of an image's prototypes `(P, h, w)`, cut at their boxes as the library does."""
    return MaskShapes(torch.einsum("np,phw->nhw", coefficients, prototypes), size, boxes)


def _mask_logits(coefficients: Tensor, prototypes: Tensor, places: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """`(B, SIDE², K)` mask logits on the boxes `(B, K, 4)` of K anchors; prototypes have cells of `stride` pixels."""
    from torchvision.ops import roi_align

    regions = roi_align(prototypes, list(boxes), (SIDE, SIDE), 1 / stride, sampling_ratio=1, aligned=True)
    regions = regions.unflatten(0, boxes.shape[:2])  # (B, K, P, SIDE, SIDE)
    return torch.einsum("bkpij,bpk->bijk", regions, at_places(coefficients, places)).flatten(1, 2)


def _certainty(logits: Tensor, places: Tensor) -> Tensor:
    """The highest class probability at anchors `(B, K)`."""
    return logits.detach().sigmoid().amax(dim=1).gather(1, places)


def _last(block: nn.Module) -> nn.Module:
    """The last convolution of a block."""
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)][-1]
