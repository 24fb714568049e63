"""Pixels are read as they are shown, or refused; nothing is decoded that does not fit into memory."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from stages.pixels import MAX_PIXELS, rgb_pixels

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)


def read(path: Path) -> NDArray[np.uint8]:
    with Image.open(path) as image:
        return rgb_pixels(image)


@pytest.mark.parametrize("name", ["grey.png", "grey.tif", "grey.jp2", "colour.png", "colour.tif"])
def test_16_bits_are_read_as_the_library_reads_them(tmp_path: Path, name: str) -> None:
    cv2 = pytest.importorskip("cv2")
    from ultralytics.utils.patches import imread

    path = tmp_path / name
    cv2.imwrite(str(path), RAMP if "grey" in name else np.dstack([RAMP, RAMP // 2, RAMP // 3]))
    theirs = imread(path)
    assert theirs is not None and theirs.dtype == np.uint8
    np.testing.assert_array_equal(read(path), theirs[:, :, ::-1])


def test_16_bit_grey_is_as_bright_as_8_bit_grey(tmp_path: Path) -> None:
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(grey).save(tmp_path / "8.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16.png")
    np.testing.assert_array_equal(read(tmp_path / "8.png"), read(tmp_path / "16.png"))


@pytest.mark.parametrize("kind", ["float", "integers", "lab", "white is zero", "12 bits"])
def test_values_that_do_not_say_how_they_are_shown_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.tif"
    if kind == "lab":
        profiles = (ImageCms.createProfile(name) for name in ("sRGB", "LAB"))
        transform = ImageCms.buildTransform(*profiles, "RGB", "LAB")
        converted = ImageCms.applyTransform(Image.new("RGB", (16, 16), "red"), transform)
        assert converted is not None
        converted.save(path)
    elif kind == "float":
        Image.fromarray(RAMP.astype(np.float32) / 65535).save(path)
    elif kind == "integers":
        Image.fromarray(RAMP.astype(np.int32)).save(path)
    else:
        Image.fromarray(RAMP).save(path)

        old = (262, 3, 1, 1) if kind == "white is zero" else (258, 3, 1, 16)
        new = (262, 3, 1, 0) if kind == "white is zero" else (258, 3, 1, 12)
        packed = [struct.pack("<HHIH", *each) for each in (old, new)]
        content = path.read_bytes()
        assert content.count(packed[0]) == 1
        path.write_bytes(content.replace(*packed))
    with pytest.raises(ValueError, match="save it as 8-bit grey or colour"):
        read(path)


def test_an_image_too_large_for_memory_is_refused_before_it_is_decoded() -> None:
    buffer = io.BytesIO()
    Image.new("1", (8193, 8192)).save(buffer, format="PNG")
    with Image.open(buffer) as image, pytest.raises(ValueError, match="is 8193 x 8192 pixels; at most"):
        rgb_pixels(image)
    assert MAX_PIXELS < 8193 * 8192
