"""Somebody's labels without their images: COCO JSON or YOLO txt files."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.base import canonical_digest
from schemas.errors import InputError
from schemas.storage import file_digest

if TYPE_CHECKING:
    from detectors.detections import Detections


def given_labels_digest(path: Path) -> str:
    """Digest of the label file, or of all txt files of a folder by name and content.

    Raises:
        InputError: there is nothing here.
    """
    if path.is_file():
        return file_digest(path)
    return canonical_digest({file.name: file_digest(file) for file in _txt_files(path)})


def read_given_labels(path: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    """Labels of each image that has any, on the unit square.

    The longer side of an image becomes 1, the shorter one is centred, as letterboxing does. YOLO files know no image
    size: their boxes are taken as if images were square.

    Raises:
        InputError: no labels, unreadable ones, or classes the teacher does not know.
    """
    labels = _read_coco(path, class_names) if path.is_file() else _read_yolo(path, class_names)
    if not labels:
        raise InputError(f"labels.path {path}: holds no box; point it at labels that do")
    return labels


def _read_coco(path: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    from detectors.detections import Detections

    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sizes = {image["id"]: (float(image["width"]), float(image["height"])) for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        annotations = [row for row in content["annotations"] if not row.get("iscrowd")]
        rows = [(row["image_id"], names[row["category_id"]], [float(v) for v in row["bbox"]]) for row in annotations]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"labels.path {path}: not COCO instances JSON ({type(error).__name__}: {error})") from error
    unknown = sorted({name for _, name, _ in rows} - set(class_names))
    if unknown:
        raise InputError(f"labels.path {path}: the teacher knows no class {', '.join(unknown[:5])}; rename or remove them")
    boxes: dict[Any, list[list[float]]] = {}
    classes: dict[Any, list[int]] = {}
    for image, name, (x, y, w, h) in rows:
        if image not in sizes:
            raise InputError(f"labels.path {path}: an annotation names image {image}, which is not listed under images")
        if w <= 0 or h <= 0:
            continue
        width, height = sizes[image]
        side = max(width, height)
        left, top = (side - width) / 2 + x, (side - height) / 2 + y
        boxes.setdefault(image, []).append([left / side, top / side, (left + w) / side, (top + h) / side])
        classes.setdefault(image, []).append(class_names.index(name))
    return [Detections.of(boxes[image], classes[image]) for image in boxes]


def _read_yolo(folder: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    from detectors.detections import Detections

    labels = []
    for file in _txt_files(folder):
        boxes, classes = [], []
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.strip():
                continue
            try:
                category, x, y, w, h = (float(part) for part in line.split()[:5])
            except ValueError as error:
                raise InputError(f"{file}:{number}: not a YOLO label; write `class x y w h`, shares of the image") from error
            if not 0 <= category < len(class_names) or category != int(category):
                raise InputError(f"{file}:{number}: class {category:g}, the teacher knows 0 to {len(class_names) - 1}")
            boxes.append([max(x - w / 2, 0.0), max(y - h / 2, 0.0), min(x + w / 2, 1.0), min(y + h / 2, 1.0)])
            classes.append(int(category))
        if boxes:
            labels.append(Detections.of(boxes, classes))
    return labels


def _txt_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(f"labels.path {folder}: neither a COCO JSON file nor a folder with YOLO txt files")
    return files
