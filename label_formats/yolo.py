"""YOLO labels: `images/` and `labels/` side by side, one text file per image. Imports no torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from os.path import exists, isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from label_formats.data_yaml import DATA, DataYaml, is_data_yaml, read_data_yaml
from label_formats.files import count_of, read_lines, repeated_labels, shown
from label_formats.given import GivenLabels, unit_labels
from label_formats.images import FoundImages, Size, ValidationImage, ValidationSet, files_digest, find_images, image_ids
from label_formats.images import image_size as size_of
from label_formats.objects import FurtherLabels
from label_formats.yolo_layout import (
    IMAGES,
    LABELS,
    check_places,
    image_folders,
    in_labels_folder,
    label_files_below,
    label_way,
    listed_images,
)
from label_formats.yolo_rows import (
    YoloClasses,
    YoloRows,
    any_names,
    check_agrees,
    check_rows_known,
    has_area,
    label_text,
    read_rows,
)
from schemas.errors import InputError
from schemas.labels import ImageLabels
from stages.storage import write_text

SMALLEST = 10
"""Shortest side of an image that Ultralytics takes into a data set, pixels."""


@dataclass(frozen=True)
class YoloData:
    """Implements `ValidationSource` for images with label files.

    Attributes:
        folder: what was named, for messages.
        sources: folders of images, and text files that list images; none for `images/` in the folder.
        data: the `data.yaml` that names the classes; None where labels count the teacher's.
        beside: a `data.yaml` in the folder, which may not contradict the teacher.
    """

    folder: Path
    sources: tuple[Path, ...] = ()
    data: DataYaml | None = None
    beside: Path | None = None

    @cached_property
    def _folders(self) -> list[Path]:
        return [source for source in self.sources or (self.folder / IMAGES,) if not isfile(source)]

    @cached_property
    def _found(self) -> FoundImages:
        roots = self.data.roots() if self.data else []
        found = [find_images(folder) for folder in self._folders]
        found += [listed_images(source, roots) for source in self.sources if isfile(source)]
        left_out = tuple(remark for each in found for remark in each.left_out)
        return FoundImages(sorted({image for each in found for image in each.files}), left_out)

    @property
    def images(self) -> list[Path]:
        """Image files in order, those in sub-folders and linked folders included."""
        return self._found.files

    @cached_property
    def _labels(self) -> list[Path]:
        """Where the label file of each image is, or would be."""
        return list(map(label_way(self.images), self.images))

    def digest(self) -> str:
        """See `ValidationSource`."""
        labels = [label for label in self._labels if isfile(label)]
        return files_digest([*self.images, *labels, *([self.data.path] if self.data else [])])

    def check(self) -> None:
        """See `ValidationSource`."""
        self._read(any_names(self.data))

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; class indices are the teacher's, or those of `data.yaml`.

        Raises:
            InputError: a line that is not a box of a class the teacher knows, a label in the wrong folder, or nothing
                to measure.
        """
        if self.beside is not None:
            check_agrees(self.beside, class_names)
        return self._read(class_names)

    def _read(self, class_names: Sequence[str]) -> ValidationSet:
        known = YoloClasses.of(self.data, class_names)
        every = zip(image_ids(self.images), self.images, map(size_of, self.images), self._labels, strict=True)
        wanted = [each for each in every if min(each[2]) >= SMALLEST]
        rows = [self._rows(label, known) for *_, label in wanted]
        check_rows_known(self.data, rows, class_names)
        places = check_places(self._folders, self.images, self._labels)
        images = [_image(*each[:3], found, known) for each, found in zip(wanted, rows, strict=True)]
        small = len(self.images) - len(wanted)
        tiny = [count_of(small, f"image below {SMALLEST} pixels", f"images below {SMALLEST} pixels")] if small else []
        return ValidationSet(
            name=str(self.folder),
            format="yolo",
            images=images,
            category_ids={mine: theirs for theirs, mine in enumerate(known.index_of) if mine is not None},
            without_area=sum(not has_area(edges) for each in rows for edges in each.edges),
            left_out=(*self._found.left_out, *places, *tiny, *repeated_labels(sum(each.duplicates for each in rows))),
        )

    def _rows(self, label: Path, known: YoloClasses) -> YoloRows:
        points = self.data.points if self.data else None
        return read_rows(label, len(known.index_of), known.told_by, points) if label.exists() else YoloRows([], [])


def yolo_data(path: Path, split: str | None) -> YoloData:
    """The data of a folder, of a text file that lists images, or of a `data.yaml`, of one split where there are any.

    Raises:
        ConfigError: a split is named, and there are none.
        InputError: the file does not say enough, or there is no such split.
    """
    if is_data_yaml(path):
        data = read_data_yaml(path)
        return YoloData(path, tuple(data.sources(split or "val")), data)
    if isfile(path):
        return YoloData(path, (path,))
    folders = image_folders(path, split)
    beside = path / DATA if isfile(path / DATA) else None
    return (
        YoloData(path, (), None, beside) if folders == (path / IMAGES,) else YoloData(folders[0], folders, None, beside)
    )


def given_yolo(path: Path, class_names: Sequence[str]) -> GivenLabels:
    """The labels of each image that has any; boxes are shares of the sides, as the files know no size.

    Args:
        path: folder of label files or of a data set, or `data.yaml`, of which the training images' labels count.
        class_names: the teacher's.

    Raises:
        InputError: there are no label files, or a line is no box of a class the teacher knows.
    """
    data = read_data_yaml(path) if is_data_yaml(path) else None
    known = YoloClasses.of(data, class_names)
    points = data.points if data else None
    rows = [read_rows(file, len(known.index_of), known.told_by, points) for file in given_label_files(path)]
    check_rows_known(data, rows, class_names)
    images = []
    for each in rows:
        cut = [[min(max(edge, 0.0), 1.0) for edge in edges] for edges in each.edges]
        kept = [(index, edges) for index, edges in zip(each.classes, cut, strict=True) if has_area(edges)]
        if kept:
            images.append(unit_labels([edges for _, edges in kept], [known.index_of[index] or 0 for index, _ in kept]))
    return GivenLabels(images, repeated_labels(sum(each.duplicates for each in rows)))


def given_label_files(path: Path) -> list[Path]:
    """The label files that `labels.path` names, in order.

    Raises:
        InputError: there is none.
    """
    if is_data_yaml(path):
        sources = read_data_yaml(path).sources("train", lambda path: exists(path) or isdir(_labels_of(path)))
        files = sorted({file for source in sources for file in _labels_of_source(source)})
    else:
        files = _first_labels(path / LABELS, path, _labels_of(path))
    if not files:
        raise InputError(f"{shown(path)}: neither a COCO JSON file nor a folder with YOLO txt or VOC XML files")
    return files


def _labels_of_source(source: Path) -> list[Path]:
    """The label files of a folder of images or of a list of images; the images themselves need not be there."""
    if isfile(source):
        images = [source.absolute().parent / line.strip() for line in read_lines(source) if line.strip()]
        return [label for label in map(in_labels_folder, images) if isfile(label)]
    return _first_labels(_labels_of(source), source)


def _first_labels(*folders: Path) -> list[Path]:
    """The label files of the first folder that has any."""
    below = (label_files_below(folder) for folder in folders if isdir(folder))
    return next((files for files in below if files), [])


def _labels_of(images: Path) -> Path:
    """Folder of the label files of a folder of images."""
    return in_labels_folder(images / "any").parent


def write_yolo(folder: Path, note: str, class_names: Sequence[str], images: Iterable[tuple[str, ImageLabels]]) -> None:
    """Write label files into `folder`/labels, then `data.yaml`.

    Args:
        folder: that holds `images/`.
        note: a comment at the head of `data.yaml`.
        class_names: name of each class index.
        images: file name and labels of each image.

    Raises:
        InputError: the folder cannot be written, or objects differ in their number of keypoints.
    """
    points: set[int] = set()
    for name, labels in images:
        write_text((folder / LABELS / name).with_suffix(".txt"), label_text(labels))
        points |= {len(box.keypoints or ()) for box in labels.boxes}
    # Without `path`, which Ultralytics resolves by its own settings, all is found beside the file.
    data: dict[str, Any] = {"train": IMAGES, "val": IMAGES, "names": dict(enumerate(class_names))}
    if any(points):
        if len(points) > 1:
            raise InputError(
                f"{folder}: some objects have keypoints and others do not, or another number of them, which label "
                "files cannot say; export as coco"
            )
        data["kpt_shape"] = [points.pop(), 3]
    write_text(folder / DATA, f"# {note}\n" + yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _image(number: int, path: Path, size: Size, rows: YoloRows, known: YoloClasses) -> ValidationImage:
    width, height = size
    area = [has_area(edges) for edges in rows.edges]
    kept = [(index, edges) for index, edges, has in zip(rows.classes, rows.edges, area, strict=True) if has]
    sides: NDArray[np.float64] = np.array([width, height, width, height])
    return ValidationImage(
        id=number,
        source=path,
        boxes=(np.array([edges for _, edges in kept]).reshape(-1, 4) * sides).astype(np.float32),
        classes=np.array([known.index_of[index] for index, _ in kept], dtype=np.int64),
        crowd=np.zeros(len(kept), dtype=np.bool_),
        further=_further(rows, area, size),
    )


def _further(rows: YoloRows, kept: Sequence[bool], size: Size) -> FurtherLabels:
    """Polygons and keypoints of the rows that are `kept`, in pixels."""
    outlines, points = (list(compress(each, kept)) for each in (rows.outlines, rows.keypoints))
    return FurtherLabels(
        segmentations=[[(np.array(each).reshape(-1, 2) * size).flatten().tolist()] for each in outlines]
        if outlines and all(outlines)
        else None,
        keypoints=(np.array(points).reshape(len(points), -1, 3) * [*size, 1]).astype(np.float32) if points else None,
    )
