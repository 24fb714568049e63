"""Pose heads of the ultralytics package (v8, 11, 26): boxes, and keypoints of each object."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import PoseModel

from detectors.detections import Detections
from detectors.protocol import BinaryOutputs, HeadOutputs, PlainOutputs, Suppression
from detectors.shapes.points import HIDDEN, SHOWN, Keypoints, check_keypoints
from detectors.ultralytics.anchors import best_anchors, branches, corners
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind

VISIBLE = 0.5
"""Probability from which a predicted keypoint counts as one that shows."""
WITH_VISIBILITY = 3
"""Numbers of a keypoint that has one."""
PERSON = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""The keypoint that each of COCO's 17 is in a mirrored image."""


class PoseDetector(UltralyticsDetector):
    """Implements `detectors.protocol.Detector` for `*-pose.pt`."""

    HEADS = ("Pose", "Pose26")
    NETWORK = PoseModel
    TASK = "pose"
    BRANCHES = ("cv2", "cv3", "cv4", "cv4_kpts")

    @property
    def sees(self) -> ShapeKind:
        """See `Detector`."""
        return ShapeKind.KEYPOINTS

    @property
    def keypoints(self) -> int:
        """See `Detector`."""
        return int(self._head.kpt_shape[0])

    @property
    def mirror(self) -> tuple[int, ...] | None:
        """See `Detector`: by the names that the checkpoint gives, and COCO's where it has 17 without names."""
        names = self.identity.architecture.get("kpt_names")
        return mirrored(names, self.keypoints)

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`: keypoints in cells, and the logits of their visibility, of every anchor."""
        outputs = super().head_outputs(images)
        certain = [logits.detach().sigmoid().amax(dim=1) for logits in (like or outputs).class_logits]
        count, numbers = self._head.kpt_shape
        plain, binary = [], []
        for raw, weights in zip(branches(outputs.raw), certain, strict=True):
            points = raw["kpts"].unflatten(1, (count, numbers))
            plain.append(PlainOutputs(points[:, :, :2].flatten(1, 2), weights))
            if numbers == WITH_VISIBILITY:
                binary.append(BinaryOutputs(points[:, :, 2], weights))
        return replace(outputs, plain=tuple(plain), binary=tuple(binary))

    def further_targets(self, labels: Sequence[Detections], size: ImageSize, device: torch.device) -> dict[str, Tensor]:
        """See `UltralyticsDetector`: keypoints in shares of the sides; none is labelled where labels have none.

        Raises:
            InputError: labels have more or fewer keypoints than the head sees.
        """
        points = []
        for label in labels:
            if isinstance(label.shapes, Keypoints):
                check_keypoints(label.shapes, self.keypoints, "labels of the calibration set")
                points.append(label.shapes.points.to(device))
            else:
                points.append(torch.zeros(len(label), self.keypoints, 3, device=device))
        return {"keypoints": torch.cat(points) / points[0].new_tensor([size.width, size.height, 1.0])}

    def suppress(self, decoded: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        return [
            Detections.of(found[:, :4], found[:, 5].long(), found[:, 4], self._keypoints(found[:, 6:]))
            for found in self.suppressed(decoded, limits)
        ]

    @torch.no_grad()
    def shaped(self, images: Tensor, labels: Sequence[Detections]) -> list[Detections]:
        """See `Detector`: the pose that the best anchor sees, moved and stretched from its box to the object's."""
        _, raw = self.network(images)
        branch = branches(raw)[-1]
        boxes = corners(self._head._get_decode_boxes(branch).transpose(1, 2), self.end_to_end)
        points = self._head.kpts_decode(branch["kpts"])
        scores = branch["scores"].sigmoid()
        size = ImageSize(*images.shape[2:])
        shaped = []
        for n, label in enumerate(labels):
            anchors, _ = best_anchors(boxes[n], scores[n], label)
            seen = self._keypoints(points[n].T[anchors])
            found = replace(seen, points=refitted(seen.points, boxes[n][anchors], label.boxes.to(boxes)))
            shaped.append(replace(label, shapes=found.inside(size).to(label.boxes.device)))
        return shaped

    def _keypoints(self, numbers: Tensor) -> Keypoints:
        """Of decoded numbers `(N, K · 2 or 3)`."""
        points = numbers.unflatten(1, tuple(self._head.kpt_shape))
        seen = torch.full_like(points[..., 0], SHOWN)
        if points.shape[2] == WITH_VISIBILITY:
            seen = torch.where(points[..., 2] >= VISIBLE, SHOWN, HIDDEN).to(points)
        return Keypoints(torch.cat((points[..., :2], seen[..., None]), dim=2))

    def deployment_metadata(self, image_size: ImageSize) -> dict[str, str]:
        """See `Detector`."""
        return super().deployment_metadata(image_size) | {"kpt_shape": str(list(self._head.kpt_shape))}

    def output_layers(self) -> list[str]:
        """See `Layers.output`: of YOLO26, what is behind the branch that all numbers of a keypoint share."""
        return [name for name in super().output_layers() if isinstance(self.network.get_submodule(name), nn.Conv2d)]

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`: also what only the library's training looks at."""
        return [*super().float_layers(), *self.names_of([m for m in self._unused() if isinstance(m, _LAYERS)])]

    def head_layers(self) -> list[str]:
        """See `Layers.head`."""
        outside = set(self.float_layers())
        return [name for name in super().head_layers() if name not in outside]

    def _unused(self) -> list[nn.Module]:
        """Modules that decoding does not look at: spreads of keypoints, and the flow that scores them."""
        parts: list[Any] = [
            part
            for name, part in self._head.named_children()
            if name == "flow_model" or name.removeprefix("one2one_") == "cv4_sigma"
        ]
        return [module for part in parts for module in part.modules()]


_LAYERS = (nn.Conv2d, nn.Linear)


def mirrored(names: Sequence[str] | None, count: int) -> tuple[int, ...] | None:
    """The keypoint that each is in a mirrored image: `left_eye` is `right_eye`; None where that cannot be told."""
    if names is None or len(names) != count or all(str(name).isdigit() for name in names):
        return PERSON if count == len(PERSON) else None
    places = {name.lower(): index for index, name in enumerate(names)}
    other = [_other_side(name) for name in places]
    if len(places) < count or any(name not in places for name in other):
        return None
    return tuple(places[name] for name in other)


def _other_side(name: str) -> str:
    """A name with left and right exchanged."""
    return name.replace("left", "\0").replace("right", "left").replace("\0", "right")


def refitted(points: Tensor, boxes: Tensor, wanted: Tensor) -> Tensor:
    """Points `(N, K, 3)` that lie in `boxes` as they would lie in the boxes `wanted`, `(N, 4)` corners each."""
    sides, new = ((each[:, 2:] - each[:, :2]).clamp(min=1e-3)[:, None] for each in (boxes, wanted))
    places = (points[..., :2] - boxes[:, None, :2]) / sides * new + wanted[:, None, :2]
    return torch.cat((places, points[..., 2:]), dim=2)
