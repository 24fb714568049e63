"""OBB heads of the ultralytics package (v8, 11, 26): boxes at an angle."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from ultralytics.nn.tasks import OBBModel

from detectors.detections import Detections
from detectors.overlap import box_iou
from detectors.protocol import HeadOutputs, PlainOutputs, Suppression
from detectors.shapes.points import TurnedBoxes
from detectors.ultralytics.anchors import CLOSE, best_anchors, branches
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind


class ObbDetector(UltralyticsDetector):
    """Implements `detectors.protocol.Detector` for `*-obb.pt`. Boxes of its detections bound the turned ones."""

    HEADS = ("OBB", "OBB26")
    NETWORK = OBBModel
    TASK = "obb"
    BRANCHES = ("cv2", "cv3", "cv4")

    @property
    def sees(self) -> ShapeKind:
        """See `Detector`."""
        return ShapeKind.TURNED_BOX

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`: angles as points on a circle that a half turn closes."""
        outputs = super().head_outputs(images)
        certain = [logits.detach().sigmoid().amax(dim=1) for logits in (like or outputs).class_logits]
        plain = [
            PlainOutputs(torch.cat(((2 * raw["angle"]).cos(), (2 * raw["angle"]).sin()), dim=1), weights)
            for raw, weights in zip(branches(outputs.raw), certain, strict=True)
        ]
        return replace(outputs, plain=tuple(plain))

    def further_targets(self, labels: Sequence[Detections], size: ImageSize, device: torch.device) -> dict[str, Tensor]:
        """See `UltralyticsDetector`: turned boxes in the place of upright ones; these where labels have no others."""
        boxes = [
            label.shapes.as_boxes().to(device) if isinstance(label.shapes, TurnedBoxes) else _upright(label).to(device)
            for label in labels
        ]
        sides = boxes[0].new_tensor([size.width, size.height, size.width, size.height, 1.0])
        return {"bboxes": torch.cat(boxes) / sides}

    def suppress(self, decoded: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        detections = []
        for found in self.suppressed(decoded, limits, rotated=True):
            turned = TurnedBoxes.of(torch.cat((found[:, :4], found[:, 6:]), dim=1))
            detections.append(Detections.of(turned.bounds(), found[:, 5].long(), found[:, 4], turned))
        return detections

    @torch.no_grad()
    def shaped(self, images: Tensor, labels: Sequence[Detections]) -> list[Detections]:
        """See `Detector`: where the head sees no such object, its angle there turns a box inside the object's."""
        _, raw = self.network(images)
        branch = branches(raw)[-1]
        rows = torch.cat((self._head._get_decode_boxes(branch), branch["angle"]), dim=1).transpose(1, 2)
        scores = branch["scores"].sigmoid()
        shaped = []
        for n, label in enumerate(labels):
            seen = TurnedBoxes.of(rows[n])
            anchors, _ = best_anchors(seen.bounds(), scores[n], label)
            wanted = label.boxes.to(rows)
            close = box_iou(seen.bounds()[anchors], wanted).diagonal() >= CLOSE
            turned = torch.where(close[:, None], rows[n][anchors], fitting(wanted, rows[n][anchors, 4]))
            shapes = TurnedBoxes.of(turned).to(label.boxes.device)
            bounds = shapes.bounds().clamp(min=0).minimum(label.boxes.new_tensor(ImageSize(*images.shape[2:]).corners))
            shaped.append(replace(label, boxes=bounds, shapes=shapes))
        return shaped


def fitting(boxes: Tensor, angles: Tensor) -> Tensor:
    """The largest boxes `(N, 5)` at angles `(N,)` of the shape of upright ones `(N, 4)` that stay inside these."""
    centres, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    cos, sin = angles.cos().abs(), angles.sin().abs()
    w, h = sides.unbind(dim=1)
    scale = torch.minimum(w / (w * cos + h * sin), h / (w * sin + h * cos))
    return torch.cat((centres, sides * scale[:, None], angles[:, None]), dim=1)


def _upright(label: Detections) -> Tensor:
    """The boxes of labels as boxes at no angle, `(N, 5)`."""
    first, last = label.boxes[:, :2], label.boxes[:, 2:]
    return torch.cat(((first + last) / 2, last - first, torch.zeros(len(label), 1).to(first)), dim=1)
