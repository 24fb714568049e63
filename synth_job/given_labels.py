"""Somebody's labels without their images: COCO JSON, YOLO txt or Pascal VOC XML files."""

from pathlib import Path
from typing import TYPE_CHECKING

from label_formats.files import shown
from label_formats.find import given_digest, read_given
from schemas.errors import InputError
from schemas.files import expanded

if TYPE_CHECKING:
    from collections.abc import Callable

    from detectors.detections import Detections


def given_labels_digest(path: Path) -> str:
    """Digest of the label file, or of all label files of a folder by name and content.

    Raises:
        InputError: there is nothing here.
    """
    return given_digest(expanded(path))


def read_given_labels(
    path: Path, class_names: tuple[str, ...], tell: "Callable[[str], None]" = lambda _: None, shape: float = 1.0
) -> "list[Detections]":
    """Labels of each image that has any, on the unit square.

    Images are letterboxed into the shape that is asked for: they fill it across or downwards, and are centred the other
    way. YOLO files know no image size: their boxes are taken as if images had that shape. Crowd regions (COCO) and
    difficult objects (VOC) are left out.

    Args:
        path: see `LabelConfig.path`.
        class_names: the teacher's.
        tell: is told in one line what of the labels is left out.
        shape: width over height of the images that are made; both sides are 1 here.

    Raises:
        InputError: no labels, unreadable ones, or classes the teacher does not know.
    """
    from detectors.detections import Detections

    given = read_given(expanded(path), class_names, shape)
    left_out = f" ({'; '.join(given.left_out)})" if given.left_out else ""
    if not given.images:
        raise InputError(f"labels.path {shown(path)}: holds no box{left_out}; point it at labels that do")
    if left_out:
        tell(f"labels.path {shown(path)}: left out{left_out}")
    return [Detections.of(image.boxes.tolist(), image.classes.tolist()) for image in given.images]
