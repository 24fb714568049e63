"""Labels and predictions of an image, as tensors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from detectors.shapes.shapes import Shapes
from schemas.base import SCHEMA_VERSION
from schemas.image_size import ImageSize
from schemas.labels import WITH_SHAPES, BoxLabel, ImageLabels, LabelOrigin


@dataclass(frozen=True)
class Detections:
    """Boxes of one image.

    Attributes:
        boxes: `(N, 4)` float, [x1, y1, x2, y2] in pixels.
        classes: `(N,)` int64, contiguous class indices.
        scores: `(N,)` float in [0, 1]; 1 for labels nobody scored.
        shapes: of the N objects, as the head sees them beyond their boxes; None where boxes are all there is.
    """

    boxes: Tensor
    classes: Tensor
    scores: Tensor
    shapes: Shapes | None = None

    def __len__(self) -> int:
        return self.boxes.shape[0]

    @classmethod
    def of(
        cls,
        boxes: Tensor | list[Any],
        classes: Tensor | list[int],
        scores: Tensor | list[float] | None = None,
        shapes: Shapes | None = None,
    ) -> "Detections":
        """From tensors or nested lists; scores default to 1."""
        boxes = torch.as_tensor(boxes, dtype=torch.float32).reshape(-1, 4)
        classes = torch.as_tensor(classes, dtype=torch.int64, device=boxes.device).reshape(-1)
        if scores is None:
            scores = torch.ones(len(boxes), device=boxes.device)
        return cls(boxes, classes, torch.as_tensor(scores, dtype=torch.float32, device=boxes.device), shapes)

    @classmethod
    def from_labels(cls, labels: ImageLabels) -> "Detections":
        """The boxes of stored labels, in pixels of the stored image."""
        xywh = torch.tensor([box.bbox for box in labels.boxes], dtype=torch.float32).reshape(-1, 4)
        boxes = torch.cat((xywh[:, :2], xywh[:, :2] + xywh[:, 2:]), dim=1)
        classes = torch.tensor([box.category_id for box in labels.boxes], dtype=torch.int64)
        shapes = None
        if labels.schema_version == WITH_SHAPES:
            from detectors.shapes.labels import shapes_of

            shapes = shapes_of(labels)
        return cls.of(boxes, classes, torch.tensor([box.score for box in labels.boxes]), shapes)

    def to_labels(self, size: ImageSize, origins: list[LabelOrigin]) -> ImageLabels:
        """Stored labels for an image of `size`; boxes are clipped to it."""
        further: list[dict[str, Any]] = [{}] * len(self) if self.shapes is None else self.shapes.fields()
        clipped = self.boxes.clamp(min=0).minimum(self.boxes.new_tensor(size.corners)).tolist()
        boxes = tuple(
            BoxLabel(
                bbox=(x1, y1, x2 - x1, y2 - y1),
                category_id=category,
                score=min(max(score, 0.0), 1.0),
                origin=origin,
                **fields,
            )
            for (x1, y1, x2, y2), category, score, origin, fields in zip(
                clipped, self.classes.tolist(), self.scores.tolist(), origins, further, strict=True
            )
            if x2 > x1 and y2 > y1
        )
        version = SCHEMA_VERSION if self.shapes is None else WITH_SHAPES
        return ImageLabels(schema_version=version, width=size.width, height=size.height, boxes=boxes)

    def to(self, device: torch.device) -> "Detections":
        """The same on another device."""
        shapes = None if self.shapes is None else self.shapes.to(device)
        return Detections(self.boxes.to(device), self.classes.to(device), self.scores.to(device), shapes)

    def scaled(self, across: float, down: float | None = None) -> "Detections":
        """The same for an image enlarged by `across`, and in its height by `down` where that is given."""
        down = across if down is None else down
        factors = self.boxes.new_tensor([across, down, across, down])
        shapes = None if self.shapes is None else self.shapes.scaled(across, down)
        return Detections(self.boxes * factors, self.classes, self.scores, shapes)

    def select(self, keep: Tensor) -> "Detections":
        """The boxes that `keep` (a mask or indices) names."""
        shapes = None if self.shapes is None else self.shapes.select(keep)
        return Detections(self.boxes[keep], self.classes[keep], self.scores[keep], shapes)
