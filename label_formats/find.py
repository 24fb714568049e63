"""From a path to the reader of its format, the same for validation data and for given labels. Imports no torch."""

import os
from collections.abc import Sequence
from os.path import exists, isfile
from pathlib import Path
from typing import Literal

from label_formats.coco import FILE_NAMES, CocoData, given_coco, own_names
from label_formats.data_yaml import DATA, is_data_yaml, read_data_yaml
from label_formats.files import content_digest, shown, visible
from label_formats.given import GivenLabels
from label_formats.images import ValidationSource
from label_formats.pascal_voc import ANNOTATIONS, PICTURES, SPLITS, annotation_files, is_voc, list_root, read_annotation
from label_formats.voc import VocData, class_names_of, given_voc
from label_formats.yolo import given_label_files, given_yolo, yolo_data
from label_formats.yolo_layout import IMAGES, LABELS, in_labels_folder
from label_formats.yolo_rows import any_names, check_agrees
from schemas.base import canonical_digest
from schemas.errors import ConfigError, InputError
from schemas.files import expanded
from stages.container import where_images_lie

FormatName = Literal["coco", "yolo", "voc"]


def format_of(path: Path) -> FormatName:
    """The format of labels, by the kind of file or by what lies in the folder."""
    if not exists(path):
        return "yolo"
    if isfile(path):
        if is_voc(path):
            return "voc"
        return "yolo" if is_data_yaml(path) or path.suffix.lower() == ".txt" else "coco"
    if isfile(coco_file(path)):
        return "coco"
    return "voc" if is_voc(path) and not (path / IMAGES).is_dir() else "yolo"


def coco_file(path: Path) -> Path:
    """A COCO file itself, or the one in a folder."""
    return next((path / name for name in FILE_NAMES if isfile(path / name)), path)


def find_labelled_images(path: Path, images: str | None, split: str | None) -> ValidationSource:
    """Labelled images at `path`.

    Args:
        path: COCO JSON file, `data.yaml`, list of images, or folder in COCO, VOC or YOLO format.
        images: image folder of a COCO file; None for `images/` beside it, or the folder of the file.
        split: which split of data that have several; None for val in YOLO format.

    Raises:
        InputError: there is nothing of these formats.
        ConfigError: `images` is set for data that bring their own images, or `split` for data without splits.
    """
    found = format_of(path)
    if found == "coco":
        _refuse_split(path, split)
        return _coco_data(coco_file(path), images)
    if images:
        raise ConfigError(f"images: got {images!r}, but data is {str(path)!r}; images goes with a COCO JSON file only")
    if not exists(path):
        raise InputError(f"validation data {shown(path)}: no such file or folder; check data{where_images_lie()}")
    if found == "voc":
        return VocData(_voc_list(path, split))
    data = yolo_data(path, split)
    if path.is_dir() and not (path / IMAGES).is_dir() and not data.images:
        raise InputError(
            f"validation data {shown(path)}: a folder needs {FILE_NAMES[0]} (COCO), {IMAGES}/ and labels/ (YOLO) or "
            f"{ANNOTATIONS}/ and {PICTURES}/ (Pascal VOC); check data"
        )
    return data


def read_given(path: Path, class_names: Sequence[str], shape: float = 1.0) -> GivenLabels:
    """Labels without their images: COCO JSON, `data.yaml`, or a folder in COCO, VOC or YOLO format.

    Images whose size is known are letterboxed into a canvas of that shape, width over height.

    Raises:
        InputError: no labels, unreadable ones, or classes the teacher does not know.
    """
    found = format_of(path)
    if found == "coco":
        return given_coco(coco_file(path), class_names, shape)
    if found == "voc":
        return given_voc(path, class_names, shape)
    for beside in (path / DATA, *([path.parent / DATA] if path.name == LABELS else [])):
        if isfile(beside):
            check_agrees(beside, class_names)
    return given_yolo(path, class_names)


def check_given(path: Path) -> None:
    """Find out what of given labels can be known to be wrong before there is a teacher.

    Raises:
        InputError: see `read_given`.
    """
    found = format_of(path)
    if found == "coco":
        given_coco(coco_file(path), own_names(coco_file(path)))
    elif found == "voc":
        given_voc(path, class_names_of(map(read_annotation, annotation_files(path))))
    else:
        given_yolo(path, any_names(read_data_yaml(path) if is_data_yaml(path) else None))


def given_digest(path: Path) -> str:
    """Digest of the label file, or of all label files of a folder by name and content.

    Raises:
        InputError: there is nothing here.
    """
    found = format_of(path)
    if found == "coco":
        return content_digest(coco_file(path))
    files = annotation_files(path) if found == "voc" else given_label_files(path)
    top = os.path.commonpath([file.parent for file in files])
    digests = {os.path.relpath(file, top): content_digest(file) for file in files}
    return canonical_digest(digests | ({path.suffix: content_digest(path)} if is_data_yaml(path) else {}))


def folders_read(path: Path) -> list[Path]:
    """A file or folder of labelled images and what is read besides, less the images of a COCO file.

    Raises:
        InputError: a `data.yaml` does not say enough.
    """
    if isfile(path) and is_voc(path):
        return [list_root(path)]
    if is_data_yaml(path) and isfile(path):
        data = read_data_yaml(path)
        sources = [source for split in data.entries for source in data.sources(split, lambda _: True)]
        return [path, *(folder for source in sources if source.exists() for folder in _with_labels(source))]
    return _with_labels(path) if path.is_dir() and format_of(path) == "yolo" else [path]


def _with_labels(source: Path) -> list[Path]:
    labels = in_labels_folder(source / "any").parent
    return [source, labels] if labels.is_dir() and not labels.is_relative_to(source) else [source]


def _coco_data(path: Path, images: str | None) -> CocoData:
    folder = expanded(images) if images else coco_images(path)
    if not folder.is_dir():
        raise InputError(
            f"validation images {shown(folder)}: no such folder; set images to the image folder of {shown(path)}"
        )
    return CocoData(path, folder)


def coco_images(path: Path) -> Path:
    """The image folder of a COCO file where none is named."""
    beside = path.parent / IMAGES
    return beside if beside.is_dir() else path.parent


def _voc_list(path: Path, split: str | None) -> Path:
    """The list of a split in a VOC folder; the folder itself where no split is named."""
    if split is None:
        return path
    if isfile(chosen := path / SPLITS / f"{split}.txt"):
        return chosen
    lists = [file.stem for file in visible((path / SPLITS).glob("*.txt")) if "_" not in file.stem]
    if not lists:
        _refuse_split(path, split)
    raise InputError(f"{shown(path)}: has no list {split!r}; set split to one of {', '.join(lists[:8])}")


def _refuse_split(path: Path, split: str | None) -> None:
    if split is not None:
        raise ConfigError(f"split: got {split!r}, but {shown(path)} has no splits; leave split out")
