"""Pascal VOC annotations: what their XML says, read without trusting it.

The files come from anybody, so the parser takes no document type: without one there is no entity, neither one that
grows (entity bombs) nor one that reads files or addresses. What is left to bound is size, depth and the number of
elements. That is what defusedxml would do, in three lines on the standard library's parser, so it is no dependency.
"""

import math
from dataclasses import dataclass, field
from os.path import isfile
from pathlib import Path
from xml.parsers import expat

from label_formats.files import NAME_LISTS, cut, read_bytes, read_lines, shown, some, visible
from schemas.errors import InputError

ANNOTATIONS, PICTURES, SPLITS = "Annotations", "JPEGImages", Path("ImageSets") / "Main"
"""Folders of a VOC data set."""
MAX_BYTES, MAX_ELEMENTS, MAX_DEPTH = 4 * 2**20, 100_000, 16
"""Bounds of one file; those of the challenge have up to 60 objects in 12 KB, 4 deep."""


@dataclass(frozen=True)
class VocObject:
    """An `object` element.

    Attributes:
        name: of its class.
        box: [x1, y1, x2, y2] in pixels, edges between pixels: a VOC box holds pixels xmin to xmax, counted from 1, so
            that x1 is xmin - 1 and x2 is xmax. Areas and overlaps are then those of the VOC development kit.
        difficult: marked as hard to recognise; neither found nor missed in evaluation.
    """

    name: str
    box: tuple[float, float, float, float]
    difficult: bool


@dataclass(frozen=True)
class VocAnnotation:
    """One file of annotations.

    Attributes:
        size: (width, height) in pixels, None where the file does not say.
        objects: one that is there twice but once.
        duplicates: objects that were there again.
    """

    size: tuple[int, int] | None
    objects: tuple[VocObject, ...]
    duplicates: int = 0


def annotation_files(path: Path) -> list[Path]:
    """The annotation files that `path` names, in order.

    Args:
        path: a VOC folder (with `Annotations/`), a folder of XML files, or a list of names in `ImageSets/Main`.

    Raises:
        InputError: there is none, a list names one that is not there, or a folder has several lists to choose from.
    """
    if isfile(path):
        folder = list_root(path) / ANNOTATIONS
        files = [folder / f"{name}.xml" for name in _names(path)]
        if missing := [file.name for file in files if not isfile(file)]:
            raise InputError(
                f"{shown(path)}: names {len(missing)} files that are not in {folder} ({cut(missing[0])} for one)"
            )
    else:
        lists = [file.name for file in visible((path / SPLITS).glob("*.txt")) if "_" not in file.stem]
        if len(lists) > 1:
            raise InputError(
                f"{shown(path)}: has lists of images to choose from; name one of {some(lists, 8)} in {path / SPLITS} "
                "instead of the folder"
            )
        if lists:
            return annotation_files(path / SPLITS / lists[0])
        folder = path / ANNOTATIONS if (path / ANNOTATIONS).is_dir() else path
        files = visible(folder.glob("*.xml"))
    if not files:
        raise InputError(f"{shown(path)}: names no Pascal VOC annotation; a VOC folder has {ANNOTATIONS}/*.xml")
    return files


def is_voc(path: Path) -> bool:
    """Whether `path` is what `annotation_files` takes, by its place alone; text files beside XML are YOLO labels."""
    if isfile(path):
        return path.suffix == ".txt" and (list_root(path) / ANNOTATIONS).is_dir()
    if (path / ANNOTATIONS).is_dir():
        return True
    return bool(visible(path.glob("*.xml"))) and not [
        p for p in visible(path.glob("*.txt")) if p.name not in NAME_LISTS
    ]


def list_root(path: Path) -> Path:
    """The VOC folder of a list in `ImageSets/Main`; where the list lies so high that there is none, the list itself."""
    above = path.absolute().parents
    return above[len(SPLITS.parts)] if len(above) > len(SPLITS.parts) else path


def read_annotation(path: Path) -> VocAnnotation:
    """One file, checked.

    Raises:
        InputError: it cannot be read, is larger than any annotation, has a document type, or is not a VOC annotation.
    """
    root = _parse(path)
    if root.name != "annotation":
        raise InputError(f"{shown(path)}: not a Pascal VOC annotation (its root is {root.name[:40]!r})")
    try:
        objects = tuple(_object(element) for element in root.children if element.name == "object")
        size = root.child("size")
        width, height = (round(size.number(side)) for side in ("width", "height")) if size else (0, 0)
    except ValueError as error:
        raise InputError(
            f"{shown(path)}: not a Pascal VOC annotation ({cut(error, 160)}); correct it, or remove it"
        ) from error
    once = tuple(dict.fromkeys(objects))
    return VocAnnotation((width, height) if width > 0 and height > 0 else None, once, len(objects) - len(once))


@dataclass
class _Element:
    name: str
    children: list["_Element"] = field(default_factory=list)
    text: str = ""

    def child(self, name: str) -> "_Element | None":
        return next((child for child in self.children if child.name == name), None)

    def number(self, name: str) -> float:
        """The value of a child; raises `ValueError`."""
        child = self.child(name)
        if child is None:
            raise ValueError(f"{self.name} has no {name}")
        value = float(child.text)
        if not math.isfinite(value) or abs(value) > 1e9:
            raise ValueError(f"{name} is {child.text.strip()[:20]!r}")
        return value


def _object(element: _Element) -> VocObject:
    name, box, difficult = element.child("name"), element.child("bndbox"), element.child("difficult")
    if name is None or not name.text.strip():
        raise ValueError("an object has no name")
    if box is None:
        raise ValueError(f"an object {name.text.strip()[:40]!r} has no bndbox")
    x1, y1, x2, y2 = (box.number(edge) for edge in ("xmin", "ymin", "xmax", "ymax"))
    return VocObject(
        name=name.text.strip(),
        box=(max(x1 - 1, 0.0), max(y1 - 1, 0.0), x2, y2),
        difficult=difficult is not None and element.number("difficult") != 0,
    )


def _parse(path: Path) -> _Element:
    content = read_bytes(path, MAX_BYTES)
    top = _Element("")
    open_elements, count = [top], 0

    def start(name: str, _attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1
        if count > MAX_ELEMENTS or len(open_elements) > MAX_DEPTH:
            raise ValueError("more elements, or deeper ones, than any annotation has")
        parts.clear()
        element = _Element(name)
        open_elements[-1].children.append(element)
        open_elements.append(element)

    def text(data: str) -> None:
        parts.append(data)

    def end(_name: str) -> None:
        element = open_elements.pop()
        if not element.children:
            element.text = "".join(parts)
        parts.clear()

    def document_type(*_: object) -> None:
        raise ValueError("it has a document type, which could declare entities; remove the DOCTYPE")

    parts: list[str] = []
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = document_type
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, text
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        raise InputError(f"{shown(path)}: not a Pascal VOC annotation ({cut(error, 160)})") from error
    return top.children[0]


def _names(split: Path) -> list[str]:
    """The names of a list, each once; lists of one class have a second column, which is no matter here."""
    names = [line.split()[0] for line in read_lines(split) if line.strip()]
    if outside := [name for name in names if "/" in name or "\\" in name or "\0" in name or name.startswith(".")]:
        raise InputError(f"{shown(split)}: {outside[0][:80]!r} is not the name of an annotation; write one name a line")
    return list(dict.fromkeys(names))
