"""Masks: as values on a grid while images form and students learn, run-length coded where there are many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco
from torch import Tensor
from torch.nn import functional as F

from detectors.shapes.shapes import Placement, Shapes
from schemas.errors import VerificationError
from schemas.image_size import ImageSize
from schemas.labels import Mask, ShapeKind
from stages.drawing import mask_outlines
from stages.run_lengths import decode_mask

CHUNK = 16_000_000
"""Pixels that are enlarged at a time: floats of as many masks as fit."""


@dataclass(frozen=True)
class MaskShapes(Shapes):
    """Masks as values, positive where the object is, on a grid that covers the image.

    Attributes:
        values: `(N, h, w)` float.
        size: of the image, pixels.
        boxes: `(N, 4)` that cut the masks, in pixels; None where nothing is cut.
    """

    values: Tensor
    size: ImageSize
    boxes: Tensor | None = None
    kind = ShapeKind.MASK

    @classmethod
    def of(cls, masks: Tensor) -> MaskShapes:
        """Of `(N, H, W)` bool, at the size of the image."""
        return cls(masks.float() * 2 - 1, ImageSize(*masks.shape[1:]))

    @classmethod
    def ellipses(cls, boxes: Tensor, size: ImageSize) -> MaskShapes:
        """The ellipse in each of the boxes `(N, 4)`: what an object of unknown outline is taken for."""
        rows = torch.arange(size.height, device=boxes.device, dtype=boxes.dtype)[None, :, None] + 0.5
        columns = torch.arange(size.width, device=boxes.device, dtype=boxes.dtype)[None, None] + 0.5
        centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]).clamp(min=1) / 2
        (x, y), (a, b) = ((part[:, :, None, None]).unbind(dim=1) for part in (centres, halves))
        return cls(1 - ((columns - x) / a).square() - ((rows - y) / b).square(), size)

    def __len__(self) -> int:
        return len(self.values)

    def at(self, height: int, width: int) -> Tensor:
        """The masks on another grid, `(N, height, width)` bool."""
        parts = [
            self._part(slice(first, first + count), height, width)
            for count in [max(1, CHUNK // (height * width))]
            for first in range(0, len(self), count)
        ]
        return torch.cat(parts) if parts else self.values.new_zeros((0, height, width), dtype=torch.bool)

    def _part(self, which: slice, height: int, width: int) -> Tensor:
        values = self.values[which]
        if values.shape[1:] != (height, width):
            smaller = height < values.shape[1]
            values = F.interpolate(values[None].float(), (height, width), mode="bilinear", antialias=smaller)[0]
        inside = values > 0
        if self.boxes is None:
            return inside
        x1, y1, x2, y2 = (self.boxes[which] * self._per_pixel(height, width))[:, :, None, None].unbind(dim=1)
        rows = torch.arange(height, device=values.device)[None, :, None]
        columns = torch.arange(width, device=values.device)[None, None]
        return inside & (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)

    def _per_pixel(self, height: int, width: int) -> Tensor:
        across, down = width / self.size.width, height / self.size.height
        return self.values.new_tensor([across, down, across, down])

    def _whole(self) -> Tensor:
        """At the size of the image."""
        return self.at(self.size.height, self.size.width)

    def select(self, keep: Tensor) -> Self:
        """See `Shapes`."""
        return type(self)(self.values[keep], self.size, None if self.boxes is None else self.boxes[keep])

    def to(self, device: torch.device) -> Self:
        """See `Shapes`."""
        return type(self)(self.values.to(device), self.size, None if self.boxes is None else self.boxes.to(device))

    def scaled(self, across: float, down: float) -> Self:
        """See `Shapes`: the grid still covers the image."""
        size = ImageSize(max(1, round(self.size.height * down)), max(1, round(self.size.width * across)))
        factors = self.values.new_tensor([across, down, across, down])
        return type(self)(self.values, size, None if self.boxes is None else self.boxes * factors)

    def flipped(self, width: int, mirror: tuple[int, ...] = ()) -> Self:
        """See `Shapes`."""
        return type(self)(MaskShapes.of(self._whole()).values.flip(2), self.size)

    def moved(self, right: int, down: int, size: ImageSize) -> Self:
        """See `Shapes`."""
        values = MaskShapes.of(self._whole()).values
        if (right, down) == (0, 0):
            return type(self)(values, self.size)
        moved = torch.full_like(values, -1.0)
        height, width = values.shape[1:]
        into = (slice(max(down, 0), height + min(down, 0)), slice(max(right, 0), width + min(right, 0)))
        out = (slice(max(-down, 0), height + min(-down, 0)), slice(max(-right, 0), width + min(-right, 0)))
        moved[:, into[0], into[1]] = values[:, out[0], out[1]]
        return type(self)(moved, self.size)

    def placed(self, image: Placement) -> CodedMasks:
        """See `Shapes`: coded, and few at a time, since masks at the size of photographs are large."""
        size = ImageSize(image.height, image.width)
        count = max(1, CHUNK // size.pixels)
        boxes = None
        if self.boxes is not None:
            boxes = (self.boxes - self.boxes.new_tensor([*image.border, *image.border])) / image.scale
        codes: list[dict[str, Any]] = []
        for part in (slice(first, first + count) for first in range(0, len(self), count)):
            seen = F.grid_sample(
                self.values[None, part].float(), self._grid(image), padding_mode="border", align_corners=False
            )[0]
            codes += encoded(MaskShapes(seen, size, None if boxes is None else boxes[part])._whole())
        return CodedMasks(tuple(codes), size)

    def _grid(self, image: Placement) -> Tensor:
        """Where the middles of an image's pixels lie on the grid, `(1, H, W, 2)` in [-1, 1]."""
        left, top = image.border
        x, y = (
            (torch.arange(side, device=self.values.device) + 0.5) * image.scale + first
            for side, first in ((image.width, left), (image.height, top))
        )
        points = torch.meshgrid(x * 2 / self.size.width - 1, y * 2 / self.size.height - 1, indexing="xy")
        return torch.stack(points, dim=2)[None]

    def coded(self) -> CodedMasks:
        """Run-length coded, at the size of the image."""
        return CodedMasks(tuple(encoded(self._whole())), self.size)

    def fields(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return self.coded().fields()

    def results(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return self.coded().results()

    def polygons(self) -> list[list[list[float]]]:
        """See `Shapes`."""
        return [mask_outlines(mask) for mask in self._whole().byte().cpu().numpy()]

    def targets(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """See `Shapes`."""
        from torchvision import tv_tensors

        return {"masks": tv_tensors.Mask(self.at(*canvas).byte())}

    def of_targets(self, targets: dict[str, Tensor], mirror: tuple[int, ...] | None = None) -> MaskShapes:
        """See `Shapes`."""
        return MaskShapes.of(targets["masks"].as_subclass(Tensor) > 0)


@dataclass(frozen=True)
class CodedMasks(Shapes):
    """Masks as COCO's run lengths, a few hundred bytes each.

    Attributes:
        codes: `size` and `counts` (bytes) of each.
        size: of the image, pixels.
    """

    codes: tuple[dict[str, Any], ...]
    size: ImageSize
    kind = ShapeKind.MASK

    @classmethod
    def of_labels(cls, masks: Sequence[Mask], size: ImageSize) -> CodedMasks:
        """As they are stored; checked where they are decoded."""
        return cls(tuple({"size": list(each.size), "counts": each.counts.encode()} for each in masks), size)

    def decoded(self) -> MaskShapes:
        """As values.

        Raises:
            VerificationError: the run lengths are not those of a mask of that size.
        """
        size = (self.size.height, self.size.width)
        try:
            masks = [decode(code) for code in self.codes]
        except ValueError as error:
            raise VerificationError(f"a mask's run lengths do not decode ({error})") from error
        return MaskShapes.of(torch.from_numpy(np.array(masks, dtype=np.uint8).reshape(-1, *size)) > 0)

    def __len__(self) -> int:
        return len(self.codes)

    def select(self, keep: Tensor) -> Self:
        """See `Shapes`."""
        indices = torch.arange(len(self))[keep.cpu()].tolist()
        return type(self)(tuple(self.codes[index] for index in indices), self.size)

    def to(self, device: torch.device) -> Self:
        """See `Shapes`: codes are on no device."""
        return self

    def scaled(self, across: float, down: float) -> Self:
        """See `Shapes`."""
        return type(self)(*_parts(self.decoded().scaled(across, down).coded()))

    def flipped(self, width: int, mirror: tuple[int, ...] = ()) -> Self:
        """See `Shapes`."""
        return type(self)(*_parts(self.decoded().flipped(width).coded()))

    def moved(self, right: int, down: int, size: ImageSize) -> Self:
        """See `Shapes`."""
        return type(self)(*_parts(self.decoded().moved(right, down, size).coded()))

    def placed(self, image: Placement) -> CodedMasks:
        """See `Shapes`."""
        return self.decoded().placed(image)

    def fields(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        return [
            {"segmentation": Mask(size=(self.size.height, self.size.width), counts=code["counts"].decode())}
            for code in self.codes
        ]

    def results(self) -> list[dict[str, Any]]:
        """See `Shapes`."""
        areas = (float(coco.area(code)) for code in self.codes)
        codes = (code | {"counts": code["counts"].decode()} for code in self.codes)
        return [{"segmentation": code, "area": area} for code, area in zip(codes, areas, strict=True)]

    def polygons(self) -> list[list[list[float]]]:
        """See `Shapes`."""
        return [mask_outlines(decode(code)) for code in self.codes]

    def targets(self, canvas: tuple[int, int]) -> dict[str, Tensor]:
        """See `Shapes`."""
        return self.decoded().targets(canvas)

    def of_targets(self, targets: dict[str, Tensor], mirror: tuple[int, ...] | None = None) -> MaskShapes:
        """See `Shapes`."""
        return MaskShapes.of(targets["masks"].as_subclass(Tensor) > 0)


def decode(code: dict[str, Any]) -> NDArray[np.uint8]:
    """A mask `(H, W)` of COCO's run lengths.

    Raises:
        ValueError: they are not those of a mask of that size.
    """
    height, width = code["size"]
    counts = code["counts"]
    return decode_mask(counts.decode() if isinstance(counts, bytes) else counts, height, width)


def encoded(masks: Tensor) -> list[dict[str, Any]]:
    """COCO's run lengths of `(N, H, W)` bool."""
    pixels = masks.byte().cpu().numpy()
    return [coco.encode(np.asfortranarray(mask)) for mask in pixels]


def _parts(masks: CodedMasks) -> tuple[tuple[dict[str, Any], ...], ImageSize]:
    return masks.codes, masks.size
