"""A two-stage detector as it is exported: every image has the same number of regions, so that sizes stay fixed.

The first stage gives the network's own largest number of regions, best first. Where an image has fewer, the rest are
empty boxes whose scores count as 0. Apart from these it computes what `TwoStageDetector.decoded` does.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection.image_list import ImageList

from detectors.regions import POINTS, REMOVED, keep_best, pool_levels
from detectors.suppression import MAX_CANDIDATES
from detectors.torchvision.detector import TorchvisionDetector
from detectors.torchvision.models import AlignedPooling

PROBE_SIDE = 128
"""Side of the image that a pooling learns the scales of its levels from, pixels."""


class FixedRegions(nn.Module):
    """Images to end-to-end rows, with free batch and size.

    Args:
        detector: a two-stage detector, on the CPU.
        rows: of the output, for each image.
        confidence: lowest score of a row.
    """

    def __init__(self, detector: TorchvisionDetector, rows: int, confidence: float) -> None:
        super().__init__()
        self.network = detector.network
        self._detector = detector
        self._rows = rows
        self._confidence = confidence
        rpn = self.network.rpn
        self._regions = min(int(rpn.post_nms_top_n()), int(rpn.pre_nms_top_n()) * len(rpn.anchor_generator.sizes))
        pool = self.network.roi_heads.box_roi_pool
        if not isinstance(pool, AlignedPooling) and pool.scales is None:
            with torch.no_grad():  # the library's pooling works its scales out when it is first called
                detector.decoded(torch.zeros(1, 3, PROBE_SIDE, PROBE_SIDE))

    def forward(self, images: Tensor) -> Tensor:
        """`(B, rows, 6)`, [x1, y1, x2, y2, score, class], of `(B, 3, H, W)`; rows that are not used are 0."""
        size = (images.shape[2], images.shape[3])
        prepared = self._detector.prepared(images)
        features = self.network.backbone(prepared.tensors)
        regions, there = self.proposed(prepared, features, size)
        logits, deltas = self.classified(features, regions)
        scores = self._detector.of_classes(logits.softmax(dim=2)) * there[..., None]
        return self.rows(regions, scores, deltas, size)

    def proposed(self, images: ImageList, features: dict[str, Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Regions `(B, K, 4)` of the first stage, best first, and which are there, `(B, K)` float."""
        rpn, levels = self.network.rpn, list(features.values())
        anchors = rpn.anchor_generator(images, levels)[0]
        boxes, scores, start = [], [], 0
        for objectness, deltas in zip(*rpn.head(levels), strict=True):
            logits = objectness.permute(0, 2, 3, 1).flatten(1)
            moves = deltas.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3)
            found = self._of_level(logits, moves, anchors[start : start + logits.shape[1]], size)
            start = start + logits.shape[1]
            boxes.append(found[0])
            scores.append(found[1])
        best, order = torch.cat(scores, dim=1).topk(self._regions, dim=1)
        regions = torch.cat(boxes, dim=1).gather(1, order[..., None].expand(-1, -1, 4))
        there = (best > REMOVED).float()
        # Where nothing is left, the whole image is the one region.
        none = F.pad(1 - there[:, :1], (0, self._regions - 1))
        corner = torch.stack((none * 0, none * 0, none * size[1], none * size[0]), dim=2)
        return regions * there[..., None] + corner, there + none

    def _of_level(self, logits: Tensor, moves: Tensor, anchors: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The best anchors of a level as boxes `(B, n, 4)`, and scores after suppression `(B, n)`.

        Args:
            logits: `(B, N)` of all its anchors.
            moves: `(B, N, 4)` from anchors to boxes.
            anchors: `(N, 4)`.
            size: height and width of the images.
        """
        rpn = self.network.rpn
        count = int(rpn.pre_nms_top_n())
        # A small image has fewer anchors: the rest are empty, so that there are always as many.
        logits = F.pad(logits, (0, count), value=-torch.inf)
        moves, anchors = F.pad(moves, (0, 0, 0, count)), F.pad(anchors, (0, 0, 0, count))
        best, order = logits.topk(count, dim=1)
        moves = moves.gather(1, order[..., None].expand(-1, -1, 4))
        boxes = rpn.box_coder.decode_single(moves.flatten(0, 1), anchors[order.flatten()])
        boxes = clipped(boxes.unflatten(0, (-1, count)), size)
        width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
        sure = best.sigmoid()
        large = (width >= rpn.min_size) & (height >= rpn.min_size) & (sure >= rpn.score_thresh) & (best > -torch.inf)
        scores = torch.where(large, sure, REMOVED)
        return boxes, keep_best(boxes, scores, rpn.nms_thresh, REMOVED / 2, self._regions)

    def classified(self, features: dict[str, Tensor], regions: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits `(B, K, outputs)` and box deltas `(B, K, outputs, 4)` of regions `(B, K, 4)`."""
        heads, count = self.network.roi_heads, self._regions
        image = torch.arange(regions.shape[0], device=regions.device, dtype=regions.dtype)
        numbered = torch.cat((image[:, None, None].expand(-1, count, 1), regions), dim=2).flatten(0, 1)
        pooled = pooled_regions(heads.box_roi_pool, features, numbered)
        logits, deltas = heads.box_predictor(heads.box_head(pooled))
        return logits.unflatten(0, (-1, count)), deltas.unflatten(1, (-1, 4)).unflatten(0, (-1, count))

    def rows(self, regions: Tensor, scores: Tensor, deltas: Tensor, size: tuple[int, int]) -> Tensor:
        """The boxes that suppression within each class leaves, best first.

        Args:
            regions: `(B, K, 4)`.
            scores: `(B, K, C)` of the classes that have a name.
            deltas: `(B, K, outputs, 4)`.
            size: height and width of the images.
        """
        chosen = self._detector.of_classes(deltas.transpose(2, 3)).transpose(2, 3)
        classes, count = chosen.shape[2], self._regions
        decoded = self.network.roi_heads.box_coder.decode(chosen.flatten(0, 1).flatten(1), [regions.flatten(0, 1)])
        boxes = clipped(decoded.unflatten(0, (-1, count)), size).transpose(1, 2)  # (B, C, K, 4)
        scores = scores.transpose(1, 2)
        if classes * count > MAX_CANDIDATES:
            fewest = scores.flatten(1).topk(MAX_CANDIDATES, dim=1).values[:, -1]
            scores = torch.where(scores >= fewest[:, None, None], scores, 0.0)
        kept = keep_best(
            boxes.flatten(0, 1), scores.flatten(0, 1), self._detector.nms_iou, self._confidence, self._rows
        ).unflatten(0, (-1, classes))
        rows = min(self._rows, classes * count)
        best, order = kept.flatten(1).topk(rows, dim=1)
        corners = boxes.flatten(1, 2).gather(1, order[..., None].expand(-1, -1, 4))
        category = torch.div(order, count, rounding_mode="floor").to(best.dtype)
        found = torch.cat((corners, best[..., None], category[..., None]), dim=2) * (best > REMOVED)[..., None]
        return F.pad(found, (0, 0, 0, self._rows - rows))


def clipped(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Corners `(..., 4)` inside an image of this height and width, pixels."""
    left, top, right, bottom = boxes.unbind(dim=-1)
    left, right = (edges.clamp(0, size[1]) for edges in (left, right))
    top, bottom = (edges.clamp(0, size[0]) for edges in (top, bottom))
    return torch.stack((left, top, right, bottom), dim=-1)


def pooled_regions(pool: Any, features: dict[str, Tensor], regions: Tensor) -> Tensor:
    """Features `(R, C, side, side)` of regions `(R, 5)`, [image, corners in pixels], as the network pools them."""
    maps = [features[name] for name in pool.featmap_names if name in features]
    side = pool.output_size[0]
    if isinstance(pool, AlignedPooling):
        scales = [pool.scale(number) for number in range(len(maps))]
        return pool_levels(maps, regions, pool.levels(regions[:, 1:], len(maps)), scales, side, True)
    assert pool.sampling_ratio == POINTS  # as torchvision and `on_backbone` build it
    return pool_levels(maps, regions, pool.map_levels([regions[:, 1:]]), list(pool.scales), side, False)
