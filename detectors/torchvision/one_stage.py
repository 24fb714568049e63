"""torchvision's detectors with dense anchors: RetinaNet, FCOS, SSD and SSDLite."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FCOS
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.ops import box_iou

from detectors.detections import Detections
from detectors.protocol import BinaryOutputs, HeadOutputs
from detectors.torchvision.detector import TorchvisionDetector


class OneStageDetector(TorchvisionDetector):
    """Implements `detectors.protocol.Detector`.

    An SSD looks at 300 or 320 pixels whatever it is given, as the library has it: other images are resized inside.
    """

    @property
    def needs_squares(self) -> str | None:
        """See `Detector`."""
        fixed = self.network.transform.fixed_size
        if fixed is None:
            return None
        return f"an SSD resizes whatever it is given to {fixed[0]} x {fixed[1]} pixels, which would squeeze a rectangle"

    def prepared(self, images: Tensor) -> ImageList:
        """See `TorchvisionDetector`."""
        fixed = self.network.transform.fixed_size
        if fixed is not None and tuple(images.shape[2:]) != tuple(fixed):
            images = F.interpolate(images, size=tuple(fixed), mode="bilinear", align_corners=False)
        return super().prepared(images)

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`. Anchors are dense: `like` changes nothing."""
        batch = self.prepared(images)
        features = list(self.network.backbone(batch.tensors).values())
        head = self.network.head(features)
        raw = {
            "head": head,
            "anchors": self.network.anchor_generator(batch, features)[0],  # the same for all images
            "levels": [feature.shape[2] * feature.shape[3] for feature in features],
            "scale": batch.tensors.shape[3] / images.shape[3],  # of boxes, to the size that the network looks at
        }
        logits = head["cls_logits"].transpose(1, 2)
        binary: tuple[BinaryOutputs, ...] = ()
        if "bbox_ctrness" in head:
            binary = (BinaryOutputs(head["bbox_ctrness"].transpose(1, 2), logits.detach().sigmoid().amax(dim=1)),)
        return HeadOutputs(
            class_logits=(logits,),
            box_logits=(head["bbox_regression"].transpose(1, 2)[:, :, None],),
            raw=raw,
            categorical=(isinstance(self.network, SSD),),
            binary=binary,
        )

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`: the sum of the library's loss dictionary."""
        raw, network = outputs.raw, self.network
        targets = self.targets([label.scaled(raw["scale"]) for label in labels], outputs.class_logits[0].device)
        anchors = [raw["anchors"]] * len(targets)
        arguments: list[Any] = [targets, raw["head"], anchors]
        if isinstance(network, SSD):
            arguments.append([self._matched(target["boxes"], raw["anchors"]) for target in targets])
        elif isinstance(network, FCOS):
            arguments.append(raw["levels"])
        losses: dict[str, Tensor] = network.compute_loss(*arguments)
        return torch.stack(list(losses.values())).sum()

    def _matched(self, boxes: Tensor, anchors: Tensor) -> Tensor:
        """The label of each anchor of an SSD, `(A,)`; -1 for background."""
        if not len(boxes):
            return torch.full((len(anchors),), -1, dtype=torch.int64, device=anchors.device)
        matched: Tensor = self.network.proposal_matcher(box_iou(boxes, anchors))
        return matched

    def decoded(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        raw = self.head_outputs(images).raw
        head, anchors = raw["head"], raw["anchors"]
        logits = head["cls_logits"]
        if isinstance(self.network, SSD):
            scores = logits.softmax(dim=2)
        elif isinstance(self.network, FCOS):
            scores = (logits.sigmoid() * head["bbox_ctrness"].sigmoid()).sqrt()
        else:
            scores = logits.sigmoid()
        if isinstance(self.network, FCOS):
            corners = self.network.box_coder.decode(head["bbox_regression"], anchors)
        else:
            repeated = anchors.expand(logits.shape[0], -1, -1).flatten(0, 1)
            flat = self.network.box_coder.decode_single(head["bbox_regression"].flatten(0, 1), repeated)
            corners = flat.view(logits.shape[0], -1, 4)
        left, top, right, bottom = (corners / raw["scale"]).unbind(dim=2)
        left, right = (edges.clamp(0, images.shape[3]) for edges in (left, right))
        top, bottom = (edges.clamp(0, images.shape[2]) for edges in (top, bottom))
        boxes = torch.stack(((left + right) / 2, (top + bottom) / 2, right - left, bottom - top), dim=2)
        return torch.cat((boxes, self.of_classes(scores)), dim=2).transpose(1, 2)

    @property
    def nms_iou(self) -> float:
        """See `BaseDetector`."""
        return float(self.network.nms_thresh)

    def head(self) -> list[str]:
        """See `TorchvisionDetector`."""
        return ["head"]

    def output_layers(self) -> list[str]:
        """See `Layers.output`: the last convolution of each branch, of an SSD of each branch and level."""
        head = self.network.head
        last = []
        for branch in (head.classification_head, head.regression_head):
            levels = branch.module_list if isinstance(self.network, SSD) else []
            last += [[m for m in level.modules() if isinstance(m, nn.Conv2d)][-1] for level in levels]
            last += [getattr(branch, n) for n in ("cls_logits", "bbox_reg", "bbox_ctrness") if hasattr(branch, n)]
        return self.names_of(last)
