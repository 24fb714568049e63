"""The height and width of images: a square in most settings, or a rectangle such as those of 16:9 cameras."""

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

SMALLEST_SIDE, LARGEST_SIDE = 32, 4096
"""Sides that are taken, pixels."""
TAKES = "takes a side in pixels for a square, or [height, width]"


@dataclass(frozen=True, order=True)
class ImageSize:
    """A size in pixels. Documents and settings hold it as one integer where it is a square, else as [height, width]."""

    height: int
    width: int

    @classmethod
    def square(cls, side: int) -> "ImageSize":
        """The square of a side."""
        return cls(side, side)

    @classmethod
    def of(cls, value: object) -> "ImageSize":
        """From a side, or from [height, width].

        Raises:
            ValueError: it is neither.
        """
        if isinstance(value, ImageSize):
            return value
        sides = value if isinstance(value, list | tuple) else [value, value]
        if len(sides) != 2 or not all(type(side) is int for side in sides):  # true and false are integers to Python
            raise ValueError(TAKES)
        return cls(*sides)

    @classmethod
    def parse(cls, text: str) -> "ImageSize":
        """From a command line: `640`, or `384x640`, height before width.

        Raises:
            ValueError: it is neither.
        """
        sides = text.lower().split("x")
        if len(sides) > 2 or not all(side.isascii() and side.isdigit() and len(side) < 10 for side in sides):
            raise ValueError("write the side in pixels for a square, as in 640, or height x width, as in 384x640")
        return cls(int(sides[0]), int(sides[-1]))

    @property
    def is_square(self) -> bool:
        """Whether height and width are the same."""
        return self.height == self.width

    @property
    def longer(self) -> int:
        """The longer side."""
        return max(self.height, self.width)

    @property
    def shorter(self) -> int:
        """The shorter side."""
        return min(self.height, self.width)

    @property
    def pixels(self) -> int:
        """Number of pixels."""
        return self.height * self.width

    @property
    def shape(self) -> float:
        """Width over height."""
        return self.width / self.height

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """What [x1, y1, x2, y2] of a box as shares of the sides are multiplied by to be pixels."""
        return (self.width, self.height, self.width, self.height)

    def scaled(self, share: float, stride: int, smallest: int = 0) -> "ImageSize":
        """About `share` of it: each side the nearest multiple of `stride` that is not below `smallest` or 0."""
        height, width = (
            max(stride, smallest, round(share * side / stride) * stride) for side in (self.height, self.width)
        )
        return ImageSize(height, width)

    def plain(self) -> int | list[int]:
        """As documents hold it."""
        return self.height if self.is_square else [self.height, self.width]

    def __str__(self) -> str:
        return str(self.height) if self.is_square else f"{self.height}x{self.width}"

    @property
    def in_words(self) -> str:
        """With its unit, for a person."""
        return f"{self} px" if self.is_square else f"{self} px (height x width)"


@dataclass(frozen=True)
class Sides:
    """Marks a field as a size with each side in a range: `Annotated[ImageSize, Sides(32, 4096)]`."""

    smallest: int = 1
    largest: int | None = None

    def validated(self, value: object) -> ImageSize:
        """The size that a document or a setting holds.

        Raises:
            ValueError: it is none, or a side is out of the range.
        """
        size = ImageSize.of(value)
        if size.shorter < self.smallest:
            raise ValueError(f"each side takes {self.smallest} pixels or more")
        if self.largest is not None and size.longer > self.largest:
            raise ValueError(f"each side takes at most {self.largest} pixels")
        return size

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self.validated, serialization=core_schema.plain_serializer_function_ser_schema(ImageSize.plain)
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        side: dict[str, Any] = {"type": "integer", "minimum": self.smallest}
        if self.largest is not None:
            side["maximum"] = self.largest
        return {"anyOf": [side, {"type": "array", "items": side, "minItems": 2, "maxItems": 2}]}
