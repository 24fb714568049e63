"""The images everything is measured on, with their labels. Imports no torch."""

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os.path import exists, isfile
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from label_formats.files import content_digest, count_of, files_below, is_hidden, shown, some
from label_formats.objects import NOTHING, FurtherLabels
from schemas.errors import InputError
from stages.pixels import UNREADABLE, Pixels, check_image, rgb_pixels

Size = tuple[int, int]
"""Width and height, pixels."""
IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".mpo",
    ".png",
    ".tif",
    ".tiff",
    ".webp",
)
"""Of images in a folder, in small letters: those of the Ultralytics reader, less the next."""
REFUSED_SUFFIXES = (".dng", ".heic", ".heif")
"""Of images that the Ultralytics reader takes too, but that need a library of their own."""
OTHER_PICTURES = (".exr", ".gif", ".jfif", ".jxl", ".pbm", ".pgm", ".pnm", ".ppm", ".raw", ".svg", ".tga")
"""Of pictures that neither reader takes, though somebody may believe so."""
CONTENT = ("AVIF", "BMP", "DIB", "JPEG", "JPEG2000", "PNG", "TIFF", "WEBP")
"""What a file may hold, whatever its name says, as Pillow calls it: no format that starts a program to be read."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
TURNED = (5, 6, 7, 8)
"""Its values that exchange width and height."""


@dataclass(frozen=True)
class ValidationImage:
    """One image with its labels.

    Attributes:
        id: `image_id` in COCO results.
        source: the image file, or the rendered `(height, width, 3)` RGB pixels.
        boxes: `(N, 4)` float32, [x1, y1, x2, y2] in pixels of the image.
        classes: `(N,)` int64, indices into the teacher's class names.
        crowd: `(N,)` bool, COCO crowd regions and VOC difficult objects: neither found nor missed.
        labelled_size: the size the labels were made for, where they say so.
        further: what the labels say beside boxes.
    """

    id: int
    source: Path | Pixels
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    labelled_size: Size | None = None
    further: FurtherLabels = NOTHING

    def pixels(self) -> Pixels:
        """The image, `(height, width, 3)` uint8 RGB.

        Raises:
            InputError: it cannot be decoded, or is not of the size its labels are for.
        """
        if not isinstance(self.source, Path):
            return self.source
        pixels = read_image(self.source)
        size = (pixels.shape[1], pixels.shape[0])
        if self.labelled_size not in (None, size):
            raise InputError(
                f"image {self.source}: is {size[0]} x {size[1]} pixels as displayed, its labels are for "
                f"{self.labelled_size[0]} x {self.labelled_size[1]}; put the labelled image there, or label this one"
            )
        return pixels

    def size(self) -> Size:
        """Width and height, from the header of the file alone.

        Raises:
            InputError: the file is missing or is not an image.
        """
        if isinstance(self.source, Path):
            return image_size(self.source)
        return self.source.shape[1], self.source.shape[0]


@dataclass(frozen=True)
class ValidationSet:
    """Labelled images, classes as the teacher counts them.

    Attributes:
        category_ids: class index to `category_id` in COCO results; classes that the data does not know are absent.
        without_area: labels left out because they have no area, as the Ultralytics converter does.
        left_out: what else of the data is not measured, or is measured without a label: `3 hidden files`.
    """

    name: str
    format: Literal["coco", "yolo", "voc", "rendered", "photos", "synthetic"]
    images: Sequence[ValidationImage]
    category_ids: dict[int, int] = field(default_factory=dict)
    without_area: int = 0
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `InputError` when there is nothing to measure."""
        if not self.images:
            raise InputError(f"validation data {self.name}: holds no image; check data and images")
        if any((~image.crowd).any() for image in self.images):
            return
        if self.boxes:
            raise InputError(
                f"validation data {self.name}: holds no box to find: all {self.boxes} are crowd regions (iscrowd: 1) "
                "or difficult objects, which are neither found nor missed; correct that mark where it is wrong"
            )
        also = f" ({'; '.join(self.left_out)})" if self.left_out else ""
        raise InputError(f"validation data {self.name}: holds no box to find{also}; add labels, or check data")

    @property
    def boxes(self) -> int:
        """Number of labels, crowd regions included."""
        return sum(len(image.boxes) for image in self.images)

    @property
    def remarks(self) -> str:
        """What of the data is left out, on one line; empty where nothing is."""
        without_area = (count_of(self.without_area, "box without area", "boxes without area"),)
        return "; ".join((without_area if self.without_area else ()) + self.left_out)


class ValidationSource(Protocol):
    """Validation data of some format, found but not read for a teacher yet."""

    def digest(self) -> str:
        """sha256 (hex) over images and labels, in order."""
        ...

    def check(self) -> None:
        """Find out what can be known to be wrong before there is a teacher; raises `InputError`."""
        ...

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """The labelled images, for a teacher of these class names."""
        ...


@dataclass(frozen=True)
class FoundImages:
    """The images below a folder, in order, and how many files are none."""

    files: list[Path]
    left_out: tuple[str, ...]


def find_images(folder: Path) -> FoundImages:
    """The images below a folder, as the Ultralytics reader finds them: linked folders count, hidden ones do not.

    Raises:
        InputError: the folder cannot be listed, or holds images of a format that is not read here.
    """
    images: list[Path] = []
    refused: list[Path] = []
    hidden = others = 0
    for path in files_below(folder):
        suffix = path.suffix.lower()
        if suffix in (*IMAGE_SUFFIXES, *REFUSED_SUFFIXES):
            if is_hidden(path, folder):
                hidden += 1
            else:
                (images if suffix in IMAGE_SUFFIXES else refused).append(path)
        elif suffix in OTHER_PICTURES:
            others += 1
    if refused:
        raise InputError(
            f"{shown(folder)}: holds {count_of(len(refused), 'image')} of a format that is not read here "
            f"({some(sorted(path.name for path in refused), 3)}); convert them to JPEG or PNG"
        )
    left_out = [count_of(hidden, "hidden image file")] if hidden else []
    left_out += [count_of(others, "file of another kind of picture", "files of another kind of picture")] * bool(others)
    return FoundImages(sorted(images), tuple(left_out))


def read_image(path: Path) -> Pixels:
    """An image file as `(height, width, 3)` uint8 RGB, turned as its EXIF orientation says.

    Ultralytics reads images (`cv2.imdecode`) and their sizes (`exif_size`) turned, so labels are for the turned image.

    Raises:
        InputError: the file is missing, is too large, cannot be decoded, or holds values that are no colours.
    """
    try:
        with _opened(path) as image:
            check_image(image)
            ImageOps.exif_transpose(image, in_place=True)
            return rgb_pixels(image)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def image_size(path: Path) -> Size:
    """Width and height of an image file as `read_image` returns it, from its header alone.

    Raises:
        InputError: the file is missing, is not an image, or is one that `read_image` refuses by its header.
    """
    try:
        with _opened(path) as image:
            check_image(image)
            width, height = image.size
            turned = image.getexif().get(ORIENTATION) in TURNED
            if turned and image.format == "TIFF":  # releases of Pillow differ in whether the header is turned already
                ImageOps.exif_transpose(image, in_place=True)
                return image.size
            return (height, width) if turned else (width, height)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def _opened(path: Path) -> Image.Image:
    if exists(path) and not isfile(path):  # a pipe would be waited for without end
        raise ValueError("not a file")
    if path.suffix.lower() in REFUSED_SUFFIXES:
        raise ValueError("a format that is not read here: convert it to JPEG or PNG")
    Image.init()  # once; a build of Pillow may lack a format
    return Image.open(path, formats=[name for name in CONTENT if name in Image.OPEN])


def files_digest(files: Iterable[Path]) -> str:
    """sha256 (hex) over the contents of files, in order.

    Raises:
        InputError: a file cannot be read.
    """
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for digest in pool.map(content_digest, files):
            total.update(digest.encode())
    return total.hexdigest()


def image_ids(images: Sequence[Path]) -> list[int]:
    """File names that are numbers, as Ultralytics does; the position, from 1, where one is not or two are equal."""
    numbers = [int(path.stem) for path in images if path.stem.isdecimal()]
    return numbers if len(set(numbers)) == len(images) else list(range(1, len(images) + 1))


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = "not an image"
    if not isinstance(error, UnidentifiedImageError | ImportError):
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
    return InputError(
        f"image {shown(path)}: cannot be decoded ({reason}); replace it, or take it out of the validation data"
    )
