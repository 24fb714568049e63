"""A size reads back as it was written, squares as the integers that they always were."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.base import validate_config
from schemas.errors import ConfigError
from schemas.image_size import ImageSize
from schemas.run_config import RunConfig
from schemas.synth_config import InversionConfig, SynthConfig

SIDES = st.integers(32, 4096)


@given(SIDES, SIDES)
def test_it_survives_json_and_its_text(height: int, width: int) -> None:
    config = SynthConfig(image_size=ImageSize(height, width))
    stored = json.loads(config.to_json())["image_size"]
    assert stored == (height if height == width else [height, width])
    assert SynthConfig.model_validate_json(config.to_json()) == config
    assert ImageSize.parse(str(config.image_size)) == config.image_size


def test_a_square_is_the_integer_that_it_was_before() -> None:
    assert SynthConfig(image_size=640).keyed()["image_size"] == 640
    assert SynthConfig(image_size=640) == SynthConfig(image_size=[640, 640])  # type: ignore[arg-type]
    assert str(ImageSize.square(640)) == "640"


def test_height_comes_before_width() -> None:
    size = ImageSize.parse("384x640")
    assert (size.height, size.width, size.shape) == (384, 640, 640 / 384)
    assert size == ImageSize.parse("384X640") == ImageSize.of([384, 640])
    assert size.corners == (640, 384, 640, 384)
    assert size.in_words == "384x640 px (height x width)"


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (16, "got 16, each side takes 32 pixels or more"),
        ([384, 16], r"got \[384, 16\], each side takes 32 pixels or more"),
        ([384, 5000], "each side takes at most 4096 pixels"),
        ([384], r"takes a side in pixels for a square, or \[height, width\]"),
        ([384, 640, 3], "takes a side in pixels"),
        ([384, 640.0], "takes a side in pixels"),
        ([True, 640], "takes a side in pixels"),
        (640.5, "takes a side in pixels"),
        (True, "takes a side in pixels"),
        ("384x640", "takes a side in pixels"),
        ({"height": 384}, "takes a side in pixels"),
    ],
)
def test_what_is_no_size_is_one_clear_line(value: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"^x: image_size: .*{reason}"):
        validate_config(RunConfig, {"image_size": value}, "x")


@pytest.mark.parametrize("text", ["", "x", "640x", "x640", "384x640x3", "-32", "384 x 640", "6.4", "٣٢", "9" * 10])
def test_what_is_no_size_on_a_command_line_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write the side in pixels for a square, as in 640, or height x width"):
        ImageSize.parse(text)


@given(SIDES, SIDES, st.floats(0.1, 4), st.sampled_from([1, 32, 64]))
def test_a_share_of_it_keeps_its_shape_as_far_as_the_stride_allows(
    height: int, width: int, share: float, stride: int
) -> None:
    scaled = ImageSize(height, width).scaled(share, stride, smallest=stride)
    for side, original in ((scaled.height, height), (scaled.width, width)):
        assert side % stride == 0 and side >= stride
        assert abs(side - share * original) <= max(stride / 2, stride - share * original)


def test_levels_follow_the_longer_side() -> None:
    assert InversionConfig().levels_at(ImageSize(384, 640)) == (0.5, 0.5, 0.5, 1.0)
    assert InversionConfig().levels_at(ImageSize(384, 480)) == (1.0,)
