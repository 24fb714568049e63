"""Where YOLO data lie: folders of images, their splits, and the label file of each image."""

import re
from collections.abc import Callable, Sequence
from os.path import isfile
from pathlib import Path

from label_formats.data_yaml import DATA
from label_formats.files import NAME_LISTS, count_of, files_below, is_hidden, read_lines, shown, some, visible
from label_formats.images import IMAGE_SUFFIXES, FoundImages
from schemas.errors import ConfigError, InputError

IMAGES, LABELS = "images", "labels"
SPLIT_FOLDER = re.compile("(train|val|valid|validation|test)[0-9]{0,4}", re.IGNORECASE)
"""How people call the folders of splits: val, valid, val2017."""
ALIKE = {"val": ("val", "valid", "validation")}


def image_folders(folder: Path, split: str | None) -> tuple[Path, ...]:
    """The folder of images that a folder of YOLO data stands for, of one split where it has splits.

    Splits are folders below `images/` (`images/val`) or below the folder itself (`valid/images`, `obj/val`).

    Args:
        folder: with `images/`, with folders of splits, or itself a folder of images.
        split: name of a split; None for val where there are splits.

    Raises:
        ConfigError: a split is named, and there are none.
        InputError: there are splits, and not the one that is wanted, or several of its name, or images beside them.
    """
    top = folder / IMAGES if (folder / IMAGES).is_dir() else folder
    if not top.is_dir():
        return (top,)
    inside = visible(top.iterdir())
    below = {
        path.name: path
        for path in inside
        if path.is_dir() and (SPLIT_FOLDER.fullmatch(path.name) or path.name == split)
    }
    splits = {name: path / IMAGES if (path / IMAGES).is_dir() else path for name, path in below.items()}
    if split is None and any(path.suffix.lower() in IMAGE_SUFFIXES for path in inside):
        if len(splits) > 1:
            raise InputError(
                f"{shown(top)}: holds images beside folders of splits ({some(sorted(splits), 8)}); set split to one of "
                "them, or move the images"
            )
        return (top,)
    if splits:
        return (_chosen(folder, splits, split),)
    if split is not None:
        raise ConfigError(
            f"split: got {split!r}, but {shown(folder)} has no folders of splits; leave split out, or set data to the "
            f"folder of images that is meant, or to a {DATA}"
        )
    return (top,)


def _chosen(folder: Path, splits: dict[str, Path], split: str | None) -> Path:
    wanted = split or "val"
    if wanted in splits:
        return splits[wanted]
    alike = [name for name in splits if name.lower().rstrip("0123456789") in ALIKE.get(wanted, (wanted,))]
    if len(alike) == 1:
        return splits[alike[0]]
    what = f"more than one split {wanted!r}" if alike else f"no split {wanted!r}"
    raise InputError(f"{shown(folder)}: has {what}; set split to one of {some(sorted(splits), 8)}")


def listed_images(path: Path, roots: Sequence[Path]) -> FoundImages:
    """The images that a text file lists, one path a line.

    Args:
        path: of the file.
        roots: folders that relative paths may count from, after that of the file.

    Raises:
        InputError: it cannot be read, or names an image that is not there.
    """
    lines = [line.strip() for line in read_lines(path)]
    names = [line for line in lines if Path(line).suffix.lower() in IMAGE_SUFFIXES]
    bases = (path.absolute().parent, *roots, Path.cwd())
    files: dict[Path, None] = {}
    missing = []
    for name in names:
        file = next((base / name for base in bases if isfile(base / name)), None)
        if file is None:
            missing.append(name)
        else:
            files[file] = None
    if missing:
        raise InputError(f"{shown(path)}: images it lists are not there ({some(missing)}); correct their paths")
    others = sum(map(bool, lines)) - len(names)
    left_out = [count_of(others, "line that names no image", "lines that name no image")] if others else []
    repeated = len(names) - len(files)
    left_out += [count_of(repeated, "image that is listed again", "images that are listed again")] if repeated else []
    return FoundImages(sorted(files), tuple(left_out))


def in_labels_folder(image: Path) -> Path:
    """Label file of an image, as the Ultralytics reader has it: `labels` for the last `images` above it."""
    parts = list(image.absolute().parts)
    above = [number for number, part in enumerate(parts[:-1]) if part == IMAGES and number]
    if above:
        parts[above[-1]] = LABELS
    return Path(*parts).with_suffix(".txt")


def _where_links_lead(image: Path) -> Path:
    return in_labels_folder(image.parent.resolve() / image.name)


def _beside(image: Path) -> Path:
    return image.with_suffix(".txt")


WAYS: tuple[Callable[[Path], Path], ...] = (in_labels_folder, _where_links_lead, _beside)
"""From an image to its label file, the first that is right for any image of a data set is right for all."""


def label_way(images: Sequence[Path]) -> Callable[[Path], Path]:
    """How the label files of these images are found."""
    return next((way for way in WAYS if any(isfile(way(image)) for image in images)), WAYS[0])


def label_files_below(folder: Path) -> list[Path]:
    """The text files below a folder that may hold labels, in order: no hidden ones, no lists of class names."""
    files = (path for path in files_below(folder) if path.suffix == ".txt" and not is_hidden(path, folder))
    return sorted(path for path in files if path.name not in NAME_LISTS and not path.name.startswith("README"))


def check_places(folders: Sequence[Path], images: Sequence[Path], labels: Sequence[Path]) -> tuple[str, ...]:
    """Hold images against label files: what has no partner is counted, what lies in the wrong folder is refused.

    Args:
        folders: of the images.
        images: the images.
        labels: where the label file of each is looked for.

    Raises:
        InputError: a label file lies in another folder than the one of its image, where it would not be seen.
    """
    alone = {label: image for image, label in zip(images, labels, strict=True) if not isfile(label)}
    way = label_way(images)
    tops = dict.fromkeys(way(folder / "any").parent for folder in folders)
    strays = {path for top in tops if top.is_dir() for path in label_files_below(top)} - set(labels)
    by_stem = {path.stem: path for path in sorted(strays)}
    for label, image in sorted(alone.items()):
        elsewhere = by_stem.get(image.stem) or _further_up(label, image)
        if elsewhere is not None:
            raise InputError(
                f"{shown(elsewhere)}: lies in another folder than the label file of {shown(image)}, which is looked "
                f"for as {shown(label)}; {LABELS}/ has the same folders as {IMAGES}/: move what lies wrong"
            )
    remarks = [f"{count_of(len(alone), 'image')} without a label file (background)"] if alone else []
    remarks += [f"{count_of(len(strays), 'label file')} without an image"] if strays else []
    return tuple(remarks)


def _further_up(label: Path, image: Path) -> Path | None:
    """A label file of the same name in a folder above, below `labels`, that is of no image there."""
    if LABELS not in label.parts[:-2]:
        return None
    pictures = image.parent
    for folder in label.parents[1:]:
        pictures = pictures.parent
        found = folder / label.name
        if isfile(found) and not any(isfile(pictures / f"{image.stem}{suffix}") for suffix in IMAGE_SUFFIXES):
            return found
        if folder.name == LABELS:
            return None
    return None
