from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from label_formats.images import ValidationImage, image_size, read_image
from schemas.errors import InputError


def labelled(path: Path, size: tuple[int, int] | None) -> ValidationImage:
    return ValidationImage(1, path, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, np.bool_), size)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_every_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    Image.new("RGB", (5, 3), "white").convert(mode).save(tmp_path / "a.png")

    pixels = read_image(tmp_path / "a.png")

    assert (pixels.shape, pixels.dtype) == ((3, 5, 3), np.uint8)
    assert pixels.min() == 255


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_from_the_header_is_that_of_the_pixels(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)

    height, width, _ = read_image(tmp_path / "a.jpg").shape

    assert image_size(tmp_path / "a.jpg") == (width, height) == ((4, 6) if orientation > 4 else (6, 4))


def test_a_truncated_image_is_named(tmp_path: Path) -> None:
    path = tmp_path / "half.png"
    Image.effect_noise((64, 64), 50).save(path)
    path.write_bytes(path.read_bytes()[:1000])

    with pytest.raises(InputError, match=r"image .*half\.png: cannot be decoded"):
        read_image(path)


def test_an_image_of_another_size_than_labelled_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (6, 4)).save(path)

    assert labelled(path, (6, 4)).pixels().shape == (4, 6, 3)
    assert labelled(path, None).pixels().shape == (4, 6, 3)
    with pytest.raises(InputError, match="is 6 x 4 pixels as displayed, its labels are for 4 x 6"):
        labelled(path, (4, 6)).pixels()
