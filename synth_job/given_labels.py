"""Somebody's labels without their images: COCO JSON, YOLO txt or Pascal VOC XML files."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from label_formats.pascal_voc import annotation_files, is_voc, read_annotation
from schemas.base import canonical_digest
from schemas.errors import InputError
from stages.storage import file_digest

if TYPE_CHECKING:
    from detectors.detections import Detections


def given_labels_digest(path: Path) -> str:
    """Digest of the label file, or of all label files of a folder by name and content.

    Raises:
        InputError: there is nothing here.
    """
    if is_voc(path):
        return canonical_digest({file.name: file_digest(file) for file in annotation_files(path)})
    if path.is_file():
        return file_digest(path)
    return canonical_digest({file.name: file_digest(file) for file in _txt_files(path)})


def read_given_labels(path: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    """Labels of each image that has any, on the unit square.

    The longer side of an image becomes 1, the shorter one is centred, as letterboxing does. YOLO files know no image
    size: their boxes are taken as if images were square. Crowd regions (COCO) and difficult objects (VOC) are left out.

    Raises:
        InputError: no labels, unreadable ones, or classes the teacher does not know.
    """
    read = _read_voc if is_voc(path) else _read_coco if path.is_file() else _read_yolo
    labels = read(path, class_names)
    if not labels:
        raise InputError(f"labels.path {path}: holds no box; point it at labels that do")
    return labels


def _read_coco(path: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        sizes = {image["id"]: (float(image["width"]), float(image["height"])) for image in content["images"]}
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        annotations = [row for row in content["annotations"] if not row.get("iscrowd")]
        rows: list[tuple[Any, ...]] = []
        for row in annotations:
            x, y, w, h = (float(value) for value in row["bbox"])
            rows.append((row["image_id"], names[row["category_id"]], x, y, x + w, y + h))
        unlisted = {image for image, *_ in rows} - sizes.keys()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise InputError(f"labels.path {path}: not COCO instances JSON ({type(error).__name__}: {error})") from error
    if unlisted:
        raise InputError(
            f"labels.path {path}: an annotation names image {unlisted.pop()}, which is not listed under images"
        )
    return _on_unit_squares(path, rows, sizes, class_names)


def _read_voc(path: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    rows: list[tuple[Any, ...]] = []
    sizes: dict[Any, tuple[float, float]] = {}
    for file in annotation_files(path):
        annotation = read_annotation(file)
        objects = [each for each in annotation.objects if not each.difficult]
        if objects and annotation.size is None:
            raise InputError(f"labels.path {file}: does not say the size of its image; add a size element")
        sizes[file.stem] = annotation.size or (0, 0)
        rows += [(file.stem, each.name, *each.box) for each in objects]
    return _on_unit_squares(path, rows, sizes, class_names)


def _on_unit_squares(
    path: Path, rows: list[tuple[Any, ...]], sizes: dict[Any, tuple[float, float]], class_names: tuple[str, ...]
) -> "list[Detections]":
    """Labels of each image, from rows of (image, class name, x1, y1, x2, y2) in pixels and the images' sizes."""
    from detectors.detections import Detections

    unknown = sorted({name for _, name, *_ in rows} - set(class_names))
    if unknown:
        raise InputError(
            f"labels.path {path}: the teacher knows no class {', '.join(unknown[:5])}; rename or remove them"
        )
    boxes: dict[Any, list[list[float]]] = {}
    classes: dict[Any, list[int]] = {}
    for image, name, *edges in rows:
        width, height = sizes[image]
        if not (all(map(math.isfinite, edges)) and 0 < width < math.inf and 0 < height < math.inf):
            raise InputError(f"labels.path {path}: image {image} has a size or a box that is not finite and positive")
        x1, x2 = (min(max(edge, 0.0), width) for edge in edges[::2])
        y1, y2 = (min(max(edge, 0.0), height) for edge in edges[1::2])
        if x2 <= x1 or y2 <= y1:
            continue  # no area inside the image
        side = max(width, height)
        left, top = (side - width) / 2, (side - height) / 2
        boxes.setdefault(image, []).append(
            [(left + x1) / side, (top + y1) / side, (left + x2) / side, (top + y2) / side]
        )
        classes.setdefault(image, []).append(class_names.index(name))
    return [Detections.of(boxes[image], classes[image]) for image in boxes]


def _read_yolo(folder: Path, class_names: tuple[str, ...]) -> "list[Detections]":
    from detectors.detections import Detections

    labels = []
    for file in _txt_files(folder):
        boxes, classes = [], []
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read ({error}); replace the file") from error
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                category, *numbers = (float(part) for part in line.split())
                x1, y1, x2, y2 = _yolo_edges(numbers)
            except ValueError as error:
                raise InputError(
                    f"{file}:{number}: not a YOLO label; write `class x y w h`, shares of the image, or a polygon"
                ) from error
            if not 0 <= category < len(class_names) or category != int(category):
                raise InputError(f"{file}:{number}: class {category:g}, the teacher knows 0 to {len(class_names) - 1}")
            if x2 > x1 and y2 > y1:
                boxes.append([x1, y1, x2, y2])
                classes.append(int(category))
        if boxes:
            labels.append(Detections.of(boxes, classes))
    return labels


def _yolo_edges(numbers: list[float]) -> list[float]:
    """x1, y1, x2, y2 of a box (centre and size) or of a polygon's bounds (three or more corners), clipped to 0..1."""
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise ValueError(f"{len(numbers)} coordinates")
    if not all(-0.01 <= number <= 1.01 for number in numbers):
        raise ValueError("a coordinate is not a share of the image")
    if len(numbers) == 4:
        x, y, w, h = numbers
        edges = [x - w / 2, y - h / 2, x + w / 2, y + h / 2]
    else:
        edges = [min(numbers[::2]), min(numbers[1::2]), max(numbers[::2]), max(numbers[1::2])]
    return [min(max(edge, 0.0), 1.0) for edge in edges]


def _txt_files(folder: Path) -> list[Path]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError(f"labels.path {folder}: neither a COCO JSON file nor a folder with YOLO txt or VOC XML files")
    return files
