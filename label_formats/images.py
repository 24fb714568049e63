"""The images everything is measured on, with their labels. Imports no torch."""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.errors import InputError
from stages.storage import file_digest

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
"""Width and height, pixels."""
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
"""Of images in a folder, in small letters."""

ORIENTATION = 0x0112
"""The EXIF tag that says how a camera was held."""
TURNED = (5, 6, 7, 8)
"""Its values that exchange width and height."""
UNREADABLE = (
    UnidentifiedImageError, OSError, SyntaxError, ValueError, LookupError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError, ImportError,
)  # fmt: skip
"""What Pillow raises on files that are not images, or not whole. LookupError: a PNG header that is too short.
ImportError: Ultralytics, once imported, makes Pillow look for a HEIC plugin before it calls a file unidentified."""


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
    """

    id: int
    source: Path | Pixels
    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    labelled_size: Size | None = None

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
    """

    name: str
    format: Literal["coco", "yolo", "voc", "rendered", "photos", "synthetic"]
    images: Sequence[ValidationImage]
    category_ids: dict[int, int] = field(default_factory=dict)
    without_area: int = 0

    def __post_init__(self) -> None:
        """Raise `InputError` when there is nothing to measure."""
        if not self.images:
            raise InputError(f"validation data {self.name}: holds no image; check data and images")
        if not any((~image.crowd).any() for image in self.images):
            raise InputError(f"validation data {self.name}: holds no box to find; add labels, or check data")

    @property
    def boxes(self) -> int:
        """Number of labels, crowd regions included."""
        return sum(len(image.boxes) for image in self.images)


class ValidationSource(Protocol):
    """Validation data of some format, found but not read for a teacher yet."""

    def digest(self) -> str:
        """sha256 (hex) over images and labels, in order."""
        ...

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """The labelled images, for a teacher of these class names."""
        ...


def read_image(path: Path) -> Pixels:
    """An image file as `(height, width, 3)` uint8 RGB, turned as its EXIF orientation says.

    Ultralytics reads images (`cv2.imdecode`) and their sizes (`exif_size`) turned, so labels are for the turned image.

    Raises:
        InputError: the file is missing or cannot be decoded.
    """
    try:
        with Image.open(path) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def image_size(path: Path) -> Size:
    """Width and height of an image file as `read_image` returns it, from its header alone.

    Raises:
        InputError: the file is missing or is not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def files_digest(files: Iterable[Path]) -> str:
    """sha256 (hex) over the contents of files, in order.

    Raises:
        InputError: a file cannot be read.
    """
    total = hashlib.sha256()
    with ThreadPoolExecutor() as pool:
        for digest in pool.map(file_digest, files):
            total.update(digest.encode())
    return total.hexdigest()


def image_ids(images: Sequence[Path]) -> list[int]:
    """File names that are numbers, as Ultralytics does; the position, from 1, where one is not or two are equal."""
    numbers = [int(path.stem) for path in images if path.stem.isdecimal()]
    return numbers if len(set(numbers)) == len(images) else list(range(1, len(images) + 1))


def some(names: Iterable[object], limit: int = 5) -> str:
    """The first few of many names, for an error."""
    listed = list(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(str(name) for name in listed[:limit]) + more


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = "not an image"
    if not isinstance(error, UnidentifiedImageError | ImportError):
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
    return InputError(f"image {path}: cannot be decoded ({reason}); replace it, or take it out of the validation data")
