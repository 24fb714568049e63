"""torchvision's detectors with region proposals: Faster R-CNN and Mask R-CNN, on any backbone."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers

from detectors.detections import Detections
from detectors.protocol import BinaryOutputs, HeadOutputs, Suppression
from detectors.shapes.region_masks import RegionMasks
from detectors.suppression import best_boxes
from detectors.torchvision.detector import TorchvisionDetector
from detectors.torchvision.fixed_regions import FixedRegions
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.teacher import TeacherIdentity

MASK_REGIONS = 16
"""Regions of an image whose masks a student learns from: the ones that the teacher is surest of."""
MASKS_AT_ONCE = 32
"""Regions that the mask head looks at together when it predicts: 26 MB of each of its activations."""
CERTAIN = -30.0
"""Logit of every class but background, of the regions that fill up an image with fewer."""
DECODED_ROWS, DECODED_CONFIDENCE = 300, 0.001
"""Rows that decoded outputs hold for each image, and the lowest score there."""


@dataclass(frozen=True)
class Proposals:
    """What the first stage says of B images.

    Attributes:
        features: levels of the pyramid by name.
        objectness: `(B·N, 1)` logits of all anchors, images one after another.
        deltas: `(B·N, 4)` from anchors to boxes.
        anchors: `(N, 4)` of each image.
        regions: `(R, 4)` of each image, pixels, without a gradient; at least one.
        size: height and width of the images.
    """

    features: dict[str, Tensor]
    objectness: Tensor
    deltas: Tensor
    anchors: list[Tensor]
    regions: list[Tensor]
    size: tuple[int, int]


class TwoStageDetector(TorchvisionDetector):
    """Implements `detectors.protocol.Detector`."""

    def __init__(self, identity: TeacherIdentity, network: Any) -> None:
        super().__init__(identity, network)
        for part in (network.rpn, network.roi_heads):
            sampler = part.fg_bg_sampler
            part.fg_bg_sampler = EvenSampler(sampler.batch_size_per_image, sampler.positive_fraction)

    def propose(self, images: Tensor, regions: list[Tensor] | None = None) -> Proposals:
        """The first stage on images; `regions` are taken instead of its own where they are given."""
        rpn = self.network.rpn
        batch = self.prepared(images)
        batch.image_sizes *= len(images)
        features = self.network.backbone(batch.tensors)
        objectness, deltas = rpn.head(list(features.values()))
        anchors = rpn.anchor_generator(batch, list(features.values()))
        levels = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        if regions is None:
            boxes = rpn.box_coder.decode(deltas.detach(), anchors).view(len(images), -1, 4)
            regions, _ = rpn.filter_proposals(boxes, objectness, batch.image_sizes, levels)
        height, width = batch.image_sizes[0]
        whole = deltas.new_tensor([[0, 0, width, height]])
        regions = [each.detach() if len(each) else whole for each in regions]
        return Proposals(features, objectness, deltas, anchors, regions, (height, width))

    def classified(self, found: Proposals, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The second stage on regions of each image: class logits `(ΣR, outputs)` and box deltas `(ΣR, outputs, 4)`."""
        heads = self.network.roi_heads
        pooled = heads.box_roi_pool(found.features, regions, [found.size] * len(regions))
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        return logits, deltas.unflatten(1, (-1, 4))

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`. Branches: objectness of anchors, classes of regions; then the masks of the surest regions.

        A region has one box for each class: the one for the class that the detector compared with finds likeliest.
        """
        found = self.propose(images, like.raw["proposals"].regions if like else None)
        counts = [len(each) for each in found.regions]
        logits, deltas = self.classified(found, found.regions)
        category = like.raw["category"] if like else logits.detach()[:, 1:].argmax(dim=1) + 1
        edges = deltas[torch.arange(len(deltas), device=deltas.device), category]
        raw: dict[str, Any] = {"proposals": found, "category": category}
        binary: tuple[BinaryOutputs, ...] = ()
        if self.network.roi_heads.has_mask():
            raw["masks"] = like.raw["masks"] if like else self._surest(found, logits.detach(), edges.detach(), category)
            binary = (self._masks(found, raw["masks"]),)
        classes = pad_sequence(list(logits.split(counts)), batch_first=True, padding_value=CERTAIN).transpose(1, 2)
        missing = torch.arange(classes.shape[2], device=classes.device) >= classes.new_tensor(counts)[:, None]
        background = classes[:, :1].masked_fill(missing[:, None], 0.0)
        boxes = pad_sequence(list(edges.split(counts)), batch_first=True).transpose(1, 2)
        batch = len(images)
        return HeadOutputs(
            class_logits=(found.objectness.view(batch, 1, -1), torch.cat((background, classes[:, 1:]), dim=1)),
            box_logits=(found.deltas.view(batch, -1, 4).transpose(1, 2)[:, :, None], boxes[:, :, None]),
            raw=raw,
            categorical=(False, True),
            binary=binary,
        )

    def _surest(self, found: Proposals, logits: Tensor, edges: Tensor, category: Tensor) -> list[dict[str, Tensor]]:
        """Boxes, classes and confidence of the regions of each image whose masks are compared."""
        counts = [len(each) for each in found.regions]
        confidence = logits.softmax(dim=1)[torch.arange(len(logits), device=logits.device), category]
        boxes = self._boxes(edges[:, None], found)[:, 0]
        chosen = []
        for box, classes, sure in zip(
            boxes.split(counts), category.split(counts), confidence.split(counts), strict=True
        ):
            best = sure.topk(min(MASK_REGIONS, len(sure))).indices
            chosen.append({"boxes": box[best], "category": classes[best], "confidence": sure[best]})
        return chosen

    def _masks(self, found: Proposals, chosen: list[dict[str, Tensor]]) -> BinaryOutputs:
        """Mask logits of regions, `(B, pixels, K)`; images with fewer are filled up with weight 0."""
        boxes = [each["boxes"] for each in chosen]
        category = torch.cat([each["category"] for each in chosen])
        logits = self._mask_logits(found.features, boxes, found.size, category).flatten(1)
        padded = pad_sequence(list(logits.split([len(each) for each in boxes])), batch_first=True)
        weights = pad_sequence([each["confidence"] for each in chosen], batch_first=True)
        return BinaryOutputs(padded.transpose(1, 2), weights)

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`: both stages' losses of the library. Labels have no masks: those have no loss."""
        return self._loss(outputs.raw["proposals"], labels)

    def detection_loss(self, images: Tensor, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`."""
        return self._loss(self.propose(images), labels)

    def _loss(self, found: Proposals, labels: Sequence[Detections]) -> Tensor:
        rpn, heads = self.network.rpn, self.network.roi_heads
        targets = self.targets(labels, found.deltas.device)
        matched, boxes = rpn.assign_targets_to_anchors(found.anchors, targets)
        offsets = rpn.box_coder.encode(boxes, found.anchors)
        losses = list(rpn.compute_loss(found.objectness, found.deltas, matched, offsets))
        for target in targets:
            target["masks"] = target["boxes"][:0]  # the library asks whether there are any, and reads them nowhere here
        regions, _, classes, deltas = heads.select_training_samples(list(found.regions), targets)
        logits, edges = self.classified(found, regions)
        losses += fastrcnn_loss(logits, edges.flatten(1), classes, deltas)
        return torch.stack(losses).sum()

    @torch.no_grad()
    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        found = self.propose(images)
        counts = [len(each) for each in found.regions]
        logits, deltas = self.classified(found, found.regions)
        scores = self.of_classes(logits.softmax(dim=1))
        boxes = self._boxes(self.of_classes(deltas.transpose(1, 2)).transpose(1, 2), found)
        left = [
            best_boxes(each, sure, limits, self.nms_iou)
            for each, sure in zip(boxes.split(counts), scores.split(counts), strict=True)
        ]
        if not limits.masks or self.predicts is not ShapeKind.MASK:
            return left
        return [self._with_masks(each, found, image) for image, each in enumerate(left)]

    @property
    def predicts(self) -> ShapeKind:
        """See `Detector`."""
        return ShapeKind.MASK if self.network.roi_heads.has_mask() else ShapeKind.BOX

    def _with_masks(self, found: Detections, proposals: Proposals, image: int) -> Detections:
        """Detections of an image of the batch with their masks."""
        features = {name: level[image : image + 1] for name, level in proposals.features.items()}
        numbers = torch.tensor(self.architecture.labels, device=found.classes.device)[found.classes]
        logits = [
            self._mask_logits(features, [boxes], proposals.size, category)
            for boxes, category in zip(found.boxes.split(MASKS_AT_ONCE), numbers.split(MASKS_AT_ONCE), strict=True)
        ]
        return replace(found, shapes=RegionMasks(torch.cat(logits).sigmoid(), found.boxes, ImageSize(*proposals.size)))

    def _mask_logits(
        self, features: dict[str, Tensor], boxes: list[Tensor], size: tuple[int, int], category: Tensor
    ) -> Tensor:
        """`(ΣR, h, w)` of regions of each image, for one class each."""
        heads = self.network.roi_heads
        pooled = heads.mask_roi_pool(features, boxes, [size] * len(boxes))
        logits: Tensor = heads.mask_predictor(heads.mask_head(pooled))
        return logits[torch.arange(len(logits), device=logits.device), category]

    def _boxes(self, deltas: Tensor, found: Proposals) -> Tensor:
        """Boxes `(ΣR, C, 4)` of deltas `(ΣR, C, 4)`, clipped to the image."""
        decoded = self.network.roi_heads.box_coder.decode(deltas.flatten(1), found.regions)
        height, width = found.size
        return decoded.clamp(min=0).minimum(decoded.new_tensor([width, height, width, height]))

    def decoded(self, images: Tensor) -> Tensor:
        """See `Detector`: rows of the boxes that NMS leaves, filled up with rows of score 0."""
        found = self.predict(images, Suppression(DECODED_CONFIDENCE, max_detections=DECODED_ROWS))
        rows = images.new_zeros(len(images), DECODED_ROWS, 6)
        for number, each in enumerate(found):
            rows[number, : len(each)] = torch.cat((each.boxes, each.scores[:, None], each.classes[:, None]), dim=1)
        return rows

    @property
    def end_to_end(self) -> bool:
        """See `Detector`: NMS lies between the stages and is part of what the network gives out."""
        return True

    def deployed(self) -> nn.Module:
        """See `Detector`: with a fixed number of regions; no masks."""
        twin = self.copy()
        twin.fold_batch_norm()
        twin.network.cpu()
        return FixedRegions(twin, DECODED_ROWS, DECODED_CONFIDENCE)

    @property
    def nms_iou(self) -> float:
        """See `BaseDetector`."""
        return float(self.network.roi_heads.nms_thresh)

    def head(self) -> list[str]:
        """See `TorchvisionDetector`."""
        return ["rpn", "roi_heads"]

    def output_layers(self) -> list[str]:
        """See `Layers.output`."""
        outputs = ["rpn.head.cls_logits", "rpn.head.bbox_pred"]
        outputs += ["roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"]
        if self.network.roi_heads.has_mask():
            outputs.append("roi_heads.mask_predictor.mask_fcn_logits")
        return outputs


class EvenSampler:
    """Takes the place of torchvision's `BalancedPositiveNegativeSampler`: evenly spaced candidates, not random ones.

    Results depend on no global random numbers, and equal labels are learnt from equal anchors.

    Args:
        batch_size_per_image: candidates to take of an image.
        positive_fraction: largest share of objects among them.
    """

    def __init__(self, batch_size_per_image: int, positive_fraction: float) -> None:
        self.batch_size_per_image = batch_size_per_image
        self.positive_fraction = positive_fraction

    def __call__(self, matched_idxs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Masks of the objects and of the background taken; labels of candidates are ≥ 1, 0, and -1 for neither."""
        positives, negatives = [], []
        for labels in matched_idxs:
            objects, background = (torch.nonzero(mask).flatten() for mask in (labels >= 1, labels == 0))
            wanted = min(len(objects), int(self.batch_size_per_image * self.positive_fraction))
            positives.append(_mask(labels, _evenly(objects, wanted)))
            negatives.append(_mask(labels, _evenly(background, self.batch_size_per_image - wanted)))
        return positives, negatives


def _evenly(candidates: Tensor, wanted: int) -> Tensor:
    if len(candidates) <= wanted:
        return candidates
    return candidates[torch.arange(wanted, device=candidates.device) * len(candidates) // max(wanted, 1)]


def _mask(like: Tensor, chosen: Tensor) -> Tensor:
    mask = torch.zeros_like(like, dtype=torch.bool)
    mask[chosen] = True
    return mask
