"""The rows of a YOLO label file, and what their class indices mean. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from label_formats.boxes import Box, boxes_inside
from label_formats.classes import check_known, index_by_name
from label_formats.data_yaml import DataYaml, read_data_yaml
from label_formats.files import count_of, cut, read_lines, shown
from schemas.errors import InputError
from schemas.labels import BoxLabel, ImageLabels
from stages.drawing import label_outlines

ANY_CLASSES = 100_000
"""Bound of class indices where there is no teacher yet."""
TOLERANCE = 0.01
"""How far outside the image a coordinate may lie, as a share of its side; Ultralytics takes the same."""


@dataclass(frozen=True)
class YoloClasses:
    """What the class indices of label files mean to a teacher.

    Attributes:
        index_of: the teacher's class index of each index in the files; None where the teacher knows no such class.
        told_by: who says how many there are, for an error.
    """

    index_of: tuple[int | None, ...]
    told_by: str

    @classmethod
    def of_teacher(cls, class_names: Sequence[str]) -> "YoloClasses":
        """The teacher's own indices."""
        index_by_name(class_names)
        count = len(class_names)
        told_by = (
            f"but the teacher's {count} classes are 0 to {count - 1}; correct the label, or evaluate a teacher of "
            "these classes"
        )
        if count == ANY_CLASSES:
            told_by = "but class indices are whole numbers from 0; correct the label"
        return cls(tuple(range(count)), told_by)

    @classmethod
    def of_data(cls, data: DataYaml, class_names: Sequence[str]) -> "YoloClasses":
        """Those of a `data.yaml`, matched by name; without names there, as many as the teacher has."""
        if data.names is None and data.classes != len(class_names):
            raise InputError(
                f"{shown(data.path)}: says nc: {data.classes} without names, and the teacher knows {len(class_names)} "
                "classes; add names, so that labels can be matched"
            )
        index_of = index_by_name(class_names)
        names = data.names or tuple(class_names)
        told_by = (
            f"but {shown(data.path)} names {count_of(len(names), 'class', 'classes')}, 0 to {len(names) - 1}; correct "
            "names there, or set data to the folder of images/ and labels/, whose labels count the teacher's classes"
        )
        return cls(tuple(index_of.get(name) for name in names), told_by)

    @classmethod
    def of(cls, data: DataYaml | None, class_names: Sequence[str]) -> "YoloClasses":
        """Those of a `data.yaml` where there is one, else the teacher's own."""
        return cls.of_data(data, class_names) if data else cls.of_teacher(class_names)


@dataclass(frozen=True)
class YoloRows:
    """The boxes of one label file, a row that is there twice but once.

    Attributes:
        classes: class index of each box, as the file counts.
        edges: [x1, y1, x2, y2] of each box as shares of the image, not cut at its edges.
        duplicates: rows that were there again.
        outlines: x1, y1, x2, y2, … of each object's polygon as shares of the image; empty for a box.
        keypoints: x, y and visibility of each object's points likewise; empty where the data has none.
    """

    classes: list[int]
    edges: list[Sequence[float]]
    duplicates: int = 0
    outlines: tuple[Sequence[float], ...] = ()
    keypoints: tuple[Sequence[float], ...] = ()


def any_names(data: DataYaml | None) -> Sequence[str]:
    """Class names of a teacher that knows every label, where there is none yet."""
    if data and data.names:
        return data.names
    return [str(index) for index in range(data.classes if data else ANY_CLASSES)]


def check_agrees(path: Path, class_names: Sequence[str]) -> None:
    """Hold a `data.yaml` beside labels that count the teacher's classes against them; one that says too little passes.

    Raises:
        InputError: it calls a class otherwise than the teacher does.
    """
    try:
        names = read_data_yaml(path).names or ()
    except InputError:
        return
    for index, (theirs, mine) in enumerate(zip(names, class_names, strict=False)):
        if theirs != mine:
            raise InputError(
                f"{shown(path)}: calls class {index} {cut(theirs)!r}, the teacher calls it {cut(mine)!r}; name this "
                "file instead of the folder, so that labels are matched by name"
            )


def check_rows_known(data: DataYaml | None, rows: Iterable[YoloRows], class_names: Sequence[str]) -> None:
    """Refuse boxes of classes of a `data.yaml` that the teacher does not know.

    Raises:
        InputError: there are such.
    """
    if data and data.names:
        used = {index for each in rows for index in each.classes}
        unknown = [name for index, name in enumerate(data.names) if index in used and name not in class_names]
        check_known(data.path, "boxes of classes", unknown, class_names)


def read_rows(path: Path, classes: int, told_by: str, points: tuple[int, int] | None = None) -> YoloRows:
    """A label file, checked: `class cx cy w h` a line, or `class x1 y1 x2 y2 x3 y3 …`, polygons that boxes bound.

    Args:
        path: of the file.
        classes: number of classes; indices lie below.
        told_by: who says so, for an error.
        points: how many keypoints follow each box, and numbers of each (2 or 3); None for data without any.

    Raises:
        InputError: it cannot be read, or a line is no such label; boxes and polygons are mixed.
    """
    rows: dict[tuple[float, ...], Sequence[float]] = {}
    count = 0
    kinds = set()
    for number, line in enumerate(read_lines(path), start=1):
        if fields := line.split():
            where = f"{shown(path)}, line {number}"
            numbers = (
                _pose(fields, classes, told_by, where, points) if points else _numbers(fields, classes, told_by, where)
            )
            count += 1
            kinds.add(len(numbers) == 5 or points is not None)
            if len(kinds) > 1:
                raise InputError(
                    f"{where}: mixes boxes and polygons in one file, which the Ultralytics reader drops; write one kind"
                )
            rows.setdefault(tuple(np.array(numbers, np.float32).tolist()), numbers)
    found = [row[1:] for row in rows.values()]
    classes_of, edges = [int(row[0]) for row in rows.values()], [_edges(row[:4] if points else row) for row in found]
    if points:
        return YoloRows(classes_of, edges, count - len(rows), keypoints=tuple(row[4:] for row in found))
    return YoloRows(classes_of, edges, count - len(rows), tuple(row if len(row) > 4 else () for row in found))


def _pose(fields: list[str], classes: int, told_by: str, where: str, points: tuple[int, int]) -> list[float]:
    """Class, box and keypoints of a line, x, y and visibility each."""
    count, numbers = points
    if len(fields) != 5 + count * numbers:
        raise InputError(
            f"{where}: got {len(fields)} numbers; write `class cx cy w h`, then {numbers} for each of {count} "
            "keypoints, as kpt_shape in the data.yaml says"
        )
    box = _numbers(fields[:5], classes, told_by, where)
    try:
        values = [float(text) for text in fields[5:]]
    except ValueError as error:
        raise InputError(f"{where}: a keypoint holds something that is not a number ({cut(error)})") from error
    found: list[float] = []
    for start in range(0, len(values), numbers):
        x, y, *seen = values[start : start + numbers]
        there = -TOLERANCE <= x <= 1 + TOLERANCE and -TOLERANCE <= y <= 1 + TOLERANCE
        if not there or not all(0 <= value <= 2 for value in seen):
            raise InputError(
                f"{where}: keypoints must be shares of the image side, 0 to 1, then a visibility of 0 to 2"
            )
        found += [x, y, seen[0] if seen else 2.0]
    return [*box, *found]


def _numbers(fields: list[str], classes: int, told_by: str, where: str) -> list[float]:
    """Class and coordinates of a line."""
    try:
        category, *numbers = (float(text) for text in fields)
    except ValueError as error:
        raise InputError(
            f"{where}: holds something that is not a number ({cut(error)}); write `class cx cy w h`, shares of the "
            "image, or take the file out of the labels"
        ) from error
    if len(numbers) != 4 and (len(numbers) < 6 or len(numbers) % 2):
        raise InputError(
            f"{where}: got {len(fields)} numbers; write `class cx cy w h`, or a class and at least three x y pairs"
        )
    if not category.is_integer() or not 0 <= category < classes:
        raise InputError(f"{where}: class index {cut(fields[0])}, {told_by}")
    if not all(-TOLERANCE <= number <= 1 + TOLERANCE for number in numbers):
        raise InputError(f"{where}: coordinates must be shares of the image side, 0 to 1; divide them by its pixels")
    if len(numbers) == 4 and min(numbers[2:]) < 0:
        raise InputError(f"{where}: a box of negative width or height; correct the line")
    return [category, *numbers]


def _edges(numbers: Sequence[float]) -> Sequence[float]:
    """x1, y1, x2, y2 of a box (centre and size) or of a polygon's bounds."""
    if len(numbers) == 4:
        x, y, w, h = numbers
        return x - w / 2, y - h / 2, x + w / 2, y + h / 2
    across, down = numbers[::2], numbers[1::2]
    return min(across), min(down), max(across), max(down)


def has_area(edges: Sequence[float]) -> bool:
    """Whether [x1, y1, x2, y2] is a box."""
    x1, y1, x2, y2 = edges
    return x2 > x1 and y2 > y1


def label_text(labels: ImageLabels) -> str:
    """The content of a label file for the labels of a set's image, cut at its edges.

    A row is a box; a polygon where each object of the image has a mask or a turned box, of which a mask's largest part
    is kept; a box and keypoints where each has those.
    """
    pairs = boxes_inside(labels)
    outlined = all(label.segmentation or label.turned for label, _ in pairs)
    points = {len(label.keypoints or ()) for label, _ in pairs}
    lines = []
    for label, box in pairs:
        if outlined:
            numbers = _polygon(label, box, labels)
        else:
            numbers = _box(box, labels) + (_points(label, labels) if len(points) == 1 else [])
        lines.append(" ".join([str(label.category_id), *(f"{number:.9f}" for number in numbers)]) + "\n")
    return "".join(lines)


def _box(box: Box, labels: ImageLabels) -> list[float]:
    """Centre and size as shares of the image."""
    x, y, w, h = box
    return [(x + w / 2) / labels.width, (y + h / 2) / labels.height, w / labels.width, h / labels.height]


def _points(label: BoxLabel, labels: ImageLabels) -> list[float]:
    """x, y as shares of the image, cut at its edges, and visibility of each keypoint."""
    points = np.array(label.keypoints or (), dtype=np.float64).reshape(-1, 3) / (labels.width, labels.height, 1)
    points[:, :2] = points[:, :2].clip(0, 1)
    numbers: list[float] = points.flatten().tolist()
    return numbers


def _polygon(label: BoxLabel, box: Box, labels: ImageLabels) -> list[float]:
    """The largest outline of an object as shares of the image, or the corners of its box where a mask has none."""
    x, y, w, h = box
    outlines = label_outlines(label) or [[x, y, x + w, y, x + w, y + h, x, y + h]]
    corners = max((np.array(each).reshape(-1, 2) for each in outlines), key=_area)
    shares: list[float] = np.clip(corners / (labels.width, labels.height), 0, 1).flatten().tolist()
    return shares


def _area(corners: NDArray[np.float64]) -> float:
    x, y = corners.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
