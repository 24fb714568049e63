"""The shapes of stored labels, and of those of validation data."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from detectors.shapes.masks import CodedMasks, decode
from detectors.shapes.points import Keypoints, TurnedBoxes, keypoints_of, turned_of
from detectors.shapes.shapes import Shapes
from label_formats.objects import FurtherLabels, Segmentation
from schemas.errors import InputError
from schemas.image_size import ImageSize
from schemas.labels import ImageLabels, ShapeKind
from stages.drawing import mask_outlines

PER_CORNER = 2
"""Numbers of a corner of a polygon."""


def shapes_of(labels: ImageLabels) -> Shapes | None:
    """The shapes of an image's labels, of the kind that each of them has; None where there is none."""
    boxes = list(labels.boxes)
    masks = [box.segmentation for box in boxes if box.segmentation is not None]
    if boxes and len(masks) == len(boxes):
        return CodedMasks.of_labels(masks, ImageSize(labels.height, labels.width)).decoded()
    counts = {len(box.keypoints or ()) for box in boxes}
    if boxes and len(counts) == 1 and 0 not in counts:
        return keypoints_of(boxes)
    if boxes and all(box.turned is not None for box in boxes):
        return turned_of(boxes)
    return None


def shapes_of_data(further: FurtherLabels, kind: ShapeKind, size: ImageSize, where: str) -> Shapes | None:
    """What the labels of an image say of its objects beside boxes; None where they say nothing of that kind.

    Args:
        further: what they say.
        kind: of shape that is asked for.
        size: of the image.
        where: what the labels came from; an error starts with it.

    Raises:
        InputError: a mask is none.
    """
    segmentations, points = further.segmentations, further.keypoints
    if kind is ShapeKind.KEYPOINTS and points is not None:
        areas = None if further.areas is None else torch.from_numpy(further.areas)
        return Keypoints(torch.from_numpy(points), areas=areas)
    if segmentations is None:
        return None
    try:
        if kind is ShapeKind.MASK:
            return CodedMasks(tuple(coded(each, size) for each in segmentations), size)
        if kind is ShapeKind.TURNED_BOX:
            return TurnedBoxes.around([polygon_of(each, size) for each in segmentations])
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            f"{where}: a segmentation is no polygon or mask of COCO ({str(error)[:100]}); correct it"
        ) from error
    return None


def coded(segmentation: Segmentation, size: ImageSize) -> dict[str, Any]:
    """COCO's run lengths of a segmentation, cut at the edges of the image."""
    if isinstance(segmentation, dict):
        counts, sides = segmentation["counts"], tuple(segmentation["size"])
        if sides != (size.height, size.width):
            raise ValueError(f"of {sides}, in an image of {(size.height, size.width)}")
        code = {"size": list(sides), "counts": counts.encode() if isinstance(counts, str) else counts}
        if isinstance(counts, list):
            if sum(counts) != size.pixels or min(counts) < 0:
                raise ValueError("its run lengths are not those of the image")
            code = coco.frPyObjects({"size": list(sides), "counts": counts}, *sides)
        decode(code)  # refuses what is no mask
        return code
    polygons = [_inside(polygon, size).flatten().tolist() for polygon in segmentation]
    return dict(coco.merge(coco.frPyObjects(polygons, size.height, size.width)))


def polygon_of(segmentation: Segmentation, size: ImageSize) -> NDArray[np.float32]:
    """The corners `(P, 2)` of a segmentation, all its parts together."""
    parts = mask_outlines(decode(coded(segmentation, size))) if isinstance(segmentation, dict) else segmentation
    return np.concatenate([np.array(part, dtype=np.float32).reshape(-1, PER_CORNER) for part in parts])


def _inside(polygon: Sequence[float], size: ImageSize) -> NDArray[np.float64]:
    points = np.array(polygon, dtype=np.float64).reshape(-1, PER_CORNER)
    if len(points) < 3:
        raise ValueError("a polygon has three corners or more")
    return np.clip(points, 0, [size.width, size.height])
