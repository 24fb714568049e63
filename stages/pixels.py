"""From an opened image file to 8-bit RGB: read right, or refused. One rule for validation images and for shards."""

import struct
import warnings
import zlib

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]
"""`(height, width, 3)` RGB."""
MAX_PIXELS = 64 * 2**20
"""Largest image that is decoded, 8192 x 8192: a file of half a megabyte can claim gigabytes."""
UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    ImportError,
)
"""What Pillow raises on bytes that are no whole image. LookupError: a header chunk that is too short. ImportError:
Ultralytics, once imported, makes Pillow look for a HEIC plugin before it calls a file unidentified."""

EXACT = frozenset(("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr"))
"""Modes of 8 bits or fewer, which Pillow converts to RGB as they are shown."""
GREY_16 = ("I;16", "I;16L", "I;16B")
TIFF_BITS, TIFF_SHOWN_AS, TIFF_BLACK_IS_ZERO = 258, 262, 1
"""TIFF tags of the bits of a sample and of how samples are shown, and the one way that 16 bits are read."""

# Pillow warns above 89 million pixels; `check_image` refuses before that, in a line of its own.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


def check_image(image: Image.Image) -> None:
    """Refuse an opened image before it is decoded.

    Raises:
        ValueError: it has more than `MAX_PIXELS` pixels, or values that do not say how they are shown (float, LAB).
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(f"is {width} x {height} pixels; at most {MAX_PIXELS:,} are read, which is 8192 x 8192")
    if image.mode not in EXACT and not _is_grey_16(image):
        raise ValueError(f"its pixels are of mode {image.mode}, not of 8 or 16 bits; save it as 8-bit grey or colour")


def rgb_pixels(image: Image.Image) -> Pixels:
    """An opened image as `(height, width, 3)` uint8 RGB.

    Of 16-bit grey the high byte is taken, as the Ultralytics library does and Pillow does for 16-bit colours.

    Raises:
        ValueError: see `check_image`.
        UNREADABLE: it is not whole.
    """
    check_image(image)
    if image.mode in GREY_16:
        grey = (np.asarray(image) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _is_grey_16(image: Image.Image) -> bool:
    """Whether it is 16-bit grey from black to white; a TIFF may hold 12 bits in that mode, or white as zero."""
    if image.mode not in GREY_16:
        return False
    tags = getattr(image, "tag_v2", None)
    return tags is None or (tags.get(TIFF_BITS), tags.get(TIFF_SHOWN_AS)) == ((16,), TIFF_BLACK_IS_ZERO)
