"""Altered copies of real images, which the check plants to see whether it would find them."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from schemas.image_size import ImageSize
from stages.pixels import Pixels

LETTERBOX = 114
JPEG_QUALITY = 30
CROPPED = 0.75
"""Share of each side that is left of a cropped copy."""
NOISE = 15.0
"""Deviation of the noise of a noisy copy, of 255."""
BRIGHTER = 1.4

Altered = Callable[[Image.Image, np.random.Generator], Image.Image]


def letterboxed(image: Image.Image, size: ImageSize) -> Image.Image:
    """The image as sets hold it: shrunk or enlarged to fit, its borders grey."""
    return ImageOps.pad(image, (size.width, size.height), Image.Resampling.BICUBIC, color=(LETTERBOX,) * 3)


def altered(pixels: Pixels, kind: str, size: ImageSize, generator: np.random.Generator) -> Pixels:
    """A copy of a real image, `(H, W, 3)`, with what `KINDS` names done to it."""
    copy = letterboxed(KINDS[kind](Image.fromarray(pixels), generator), size)
    if kind == "noise":  # over the borders too, as over a whole synthetic image
        noise = generator.normal(0, NOISE, (size.height, size.width, 3))
        return (np.asarray(copy) + noise).clip(0, 255).astype(np.uint8)
    return np.asarray(copy)


def _recompressed(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=JPEG_QUALITY)
    with Image.open(buffer) as again:
        return again.convert("RGB")


def _cropped(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    width, height = (max(1, round(CROPPED * length)) for length in image.size)
    left = int(generator.integers(0, image.width - width + 1))
    upper = int(generator.integers(0, image.height - height + 1))
    return image.crop((left, upper, left + width, upper + height))


KINDS: dict[str, Altered] = {
    "as it is": lambda image, _: image,
    "JPEG": _recompressed,
    "cropped": _cropped,
    "centre square": lambda image, _: ImageOps.fit(image, (min(image.size),) * 2),
    "mirrored": lambda image, _: ImageOps.mirror(image),
    "noise": lambda image, _: image,
    "brighter": lambda image, _: ImageEnhance.Brightness(image).enhance(BRIGHTER),
    "grey": lambda image, _: image.convert("L").convert("RGB"),
}
"""What is planted, always letterboxed: the image; recompressed with JPEG of quality 30; three quarters of each side;
its middle; mirrored; with noise of deviation 15 of 255; 1.4 times as bright; without colour."""
