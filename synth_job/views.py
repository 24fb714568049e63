"""Random views of forming images, and the labels that belong to them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.detections import Detections
from schemas.image_size import ImageSize
from schemas.synth_config import ViewConfig


@dataclass(frozen=True)
class View:
    """One way to look at images: flipped, shifted cyclically, resized.

    Attributes:
        size: of the images.
        flipped: mirrored left to right.
        shift: then moved right and down by this many pixels.
        resized: then resized to this.
        mirror: the keypoint that each is in a mirrored image.
    """

    size: ImageSize
    flipped: bool
    shift: tuple[int, int]
    resized: ImageSize
    mirror: tuple[int, ...] = ()

    @classmethod
    def draw(
        cls, config: ViewConfig, size: ImageSize, stride: int, generator: torch.Generator, smallest: int = 0
    ) -> "View":
        """A random view of images of `size` for a network of `stride` that takes sides of `smallest` pixels or more."""
        flipped = bool(torch.rand((), generator=generator) < config.flip)
        right, down = (
            int(torch.randint(-reach, reach + 1, (), generator=generator))
            for reach in (round(config.shift * size.width), round(config.shift * size.height))
        )
        scale = config.scales[int(torch.randint(len(config.scales), (), generator=generator))]
        return cls(size, flipped, (right, down), size.scaled(scale, stride, smallest))

    def of_images(self, images: Tensor) -> Tensor:
        """The view of `(B, 3, H, W)` images of `size`, in the size `resized`, differentiable."""
        if self.flipped:
            images = images.flip(3)
        if self.shift != (0, 0):
            images = images.roll((self.shift[1], self.shift[0]), (2, 3))
        if self.resized != self.size:
            resized = (self.resized.height, self.resized.width)
            images = F.interpolate(images, size=resized, mode="bilinear", antialias=True)
        return images

    def of_labels(self, labels: Detections) -> Detections:
        """Boxes and shapes as the view shows them, cut at its border; what the shift wraps around is not labelled."""
        boxes = labels.boxes
        if self.flipped:
            width = self.size.width
            boxes = torch.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), dim=1)
        boxes = (boxes + boxes.new_tensor([*self.shift, *self.shift])).clamp(min=0)
        shapes = labels.shapes
        if shapes is not None:
            shapes = (shapes.flipped(self.size.width, self.mirror) if self.flipped else shapes).moved(
                *self.shift, self.size
            )
        cut = Detections(boxes.minimum(boxes.new_tensor(self.size.corners)), labels.classes, labels.scores, shapes)
        return cut.scaled(self.resized.width / self.size.width, self.resized.height / self.size.height)
