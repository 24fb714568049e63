"""Random views of forming images, and the labels that belong to them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.detections import Detections
from schemas.synth_config import ViewConfig


@dataclass(frozen=True)
class View:
    """One way to look at square images: flipped, shifted cyclically, resized.

    Attributes:
        size: side of the images, pixels.
        flipped: mirrored left to right.
        shift: then moved right and down by this many pixels.
        resized: then resized to this side, pixels.
    """

    size: int
    flipped: bool
    shift: tuple[int, int]
    resized: int

    @classmethod
    def draw(cls, config: ViewConfig, size: int, stride: int, generator: torch.Generator, smallest: int = 0) -> "View":
        """A random view of images of `size` pixels for a network of `stride` that takes `smallest` pixels or more."""
        flipped = bool(torch.rand((), generator=generator) < config.flip)
        reach = round(config.shift * size)
        right, down = torch.randint(-reach, reach + 1, (2,), generator=generator).tolist()
        scale = config.scales[int(torch.randint(len(config.scales), (), generator=generator))]
        return cls(size, flipped, (right, down), max(stride, smallest, round(size * scale / stride) * stride))

    def of_images(self, images: Tensor) -> Tensor:
        """The view of `(B, 3, size, size)` images, `(B, 3, resized, resized)`, differentiable."""
        if self.flipped:
            images = images.flip(3)
        if self.shift != (0, 0):
            images = images.roll((self.shift[1], self.shift[0]), (2, 3))
        if self.resized != self.size:
            images = F.interpolate(images, size=self.resized, mode="bilinear", antialias=True)
        return images

    def of_labels(self, labels: Detections) -> Detections:
        """The boxes as the view shows them, cut at its border; what the shift wraps around is not labelled."""
        boxes = labels.boxes
        if self.flipped:
            boxes = torch.stack((self.size - boxes[:, 2], boxes[:, 1], self.size - boxes[:, 0], boxes[:, 3]), dim=1)
        boxes = (boxes + boxes.new_tensor([*self.shift, *self.shift])).clamp(0, self.size) * (self.resized / self.size)
        return Detections(boxes, labels.classes, labels.scores)
