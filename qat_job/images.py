"""The images and labels of a calibration set, in batches, in order or shuffled and augmented."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detectors.detections import Detections
from detectors.shapes.shapes import Shapes
from schemas.training_terms import AugmentationConfig
from stages.shards import CalibrationSet

KEPT_BYTES = 256 * 2**20
"""Decoded images that stay in memory; of a larger set the first ones do, and the others are decoded at each use."""


class ImageBatches:
    """Batches of a verified set.

    Args:
        calibration_set: the set; its images are decoded when they are first needed.
        device: where batches go.
        mirror: the keypoint that each is in a mirrored image; None where images must not be mirrored.
    """

    def __init__(
        self, calibration_set: CalibrationSet, device: torch.device, mirror: tuple[int, ...] | None = ()
    ) -> None:
        self._mirror = mirror
        self._samples = calibration_set.samples
        self._device = device
        self._decoded: dict[int, Tensor] = {}
        self._room = KEPT_BYTES
        self.padding = calibration_set.manifest.teacher.pixels.padding

    def __len__(self) -> int:
        return len(self._samples)

    def in_order(self, images: int, batch: int) -> Iterator[Tensor]:
        """The first `images` images, `(B, 3, H, W)` in [0, 1]."""
        count = min(images, len(self))
        for start in range(0, count, batch):
            yield self._stack([self._image(k) for k in range(start, min(start + batch, count))])

    def labels(self, images: int) -> list[Detections]:
        """The labels of the first `images` images, on the CPU."""
        return [Detections.from_labels(sample.labels) for sample in self._samples[:images]]

    def shuffled(
        self,
        steps: int,
        batch: int,
        seed: int,
        config: AugmentationConfig,
        first: int = 0,
        share: slice = slice(None),
    ) -> Iterator[tuple[Tensor, list[Detections]]]:
        """Batches of steps `first` to `steps` of augmented images with their labels, every image once per epoch.

        The order and the augmentation of step k depend on the seed alone; batches before `first` are not decoded, nor
        is what lies outside the `share` of a batch that is this process's.
        """
        augment = augmentation(config, self.padding, mirrors=self._mirror is not None)
        order = np.random.default_rng(seed)
        queue: list[int] = []
        for step in range(steps):
            while len(queue) < batch:
                queue += order.permutation(len(self)).tolist()
            chosen, queue = queue[:batch], queue[batch:]
            if step < first:
                continue
            pairs = []
            with torch.random.fork_rng(devices=[]):
                for position in range(batch)[share]:
                    torch.manual_seed(int(np.random.SeedSequence([seed, step, position]).generate_state(1)[0]))
                    pairs.append(augment(*self._sample(chosen[position])))
            images = self._stack([image for image, _ in pairs])
            yield images, [labels_of(target, self._mirror).to(self._device) for _, target in pairs]

    def _image(self, index: int) -> Tensor:
        if index in self._decoded:
            return self._decoded[index]
        image = torch.from_numpy(self._samples[index].image().copy()).permute(2, 0, 1)
        if image.nbytes <= self._room:
            self._decoded[index] = image
            self._room -= image.nbytes
        return image

    def _sample(self, index: int) -> tuple[Tensor, dict[str, Any]]:
        image = self._image(index)
        labels = Detections.from_labels(self._samples[index].labels)
        size = (image.shape[1], image.shape[2])
        boxes = tv_tensors.BoundingBoxes(labels.boxes, format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        target: dict[str, Any] = {"boxes": boxes, "labels": labels.classes}
        if labels.shapes is not None:
            witness = tv_tensors.KeyPoints([[0.0, 0.0], [1.0, 0.0]], canvas_size=size)  # type: ignore[call-overload]
            further = {"objects": torch.arange(len(labels)), "witness": witness, "shapes": Opaque(labels.shapes)}
            target |= further | labels.shapes.targets(size)
        return tv_tensors.Image(image), target

    def _stack(self, images: list[Tensor]) -> Tensor:
        batch = torch.stack([image.as_subclass(Tensor) for image in images]).to(self._device)
        return (batch.float() / 255).contiguous(memory_format=torch.channels_last)


@dataclass(frozen=True)
class Opaque:
    """What transforms pass on as it is: the shapes that a target is made of."""

    shapes: Shapes


def labels_of(target: dict[str, Any], mirror: tuple[int, ...] | None = ()) -> Detections:
    """The labels of a transformed image: the boxes that are left of it, and their shapes; for `mirror` see above."""
    boxes, classes = target["boxes"], target["labels"]
    if "shapes" not in target:
        return Detections.of(boxes, classes)
    left = target["objects"]
    kept = {name: target[name] for name in ("masks", "points", "seen", "corners") if name in target}
    for name, value in kept.items():
        if name != "masks":  # which are left out with their boxes
            kept[name] = tv_tensors.wrap(value[left], like=value) if name != "seen" else value[left]
    first, second = target["witness"].as_subclass(Tensor)[:, 0].tolist()
    return Detections.of(
        boxes, classes, shapes=target["shapes"].shapes.of_targets(kept, mirror if first > second else None)
    )


def augmentation(config: AugmentationConfig, padding: int, mirrors: bool = True) -> v2.Transform:
    """Transforms of an 8-bit image and its labels that keep these true; it `mirrors` where that is known how."""
    low, high = 1 - config.scale, 1 + config.scale
    shift = (config.shift, config.shift)
    fill = {tv_tensors.Image: padding, "others": 0}
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(config.flip if mirrors else 0.0),
            v2.RandomAffine(
                degrees=0, translate=shift, scale=(low, high), fill=fill, interpolation=v2.InterpolationMode.BILINEAR
            ),
            v2.ColorJitter(brightness=config.brightness),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=4, labels_getter=_per_object),
        ]
    )


def _per_object(inputs: tuple[Tensor, dict[str, Any]]) -> tuple[Tensor, ...]:
    """What goes with the boxes that are left out."""
    target = inputs[1]
    return tuple(target[name] for name in ("labels", "objects") if name in target)
