"""The images and labels of a calibration set, in batches, in order or shuffled and augmented."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

from detectors.detections import Detections
from schemas.training_terms import AugmentationConfig
from stages.shards import CalibrationSet

KEPT_BYTES = 256 * 2**20
"""Decoded images that stay in memory; of a larger set the first ones do, and the others are decoded at each use."""


class ImageBatches:
    """Batches of a verified set.

    Args:
        calibration_set: the set; its images are decoded when they are first needed.
        device: where batches go.
    """

    def __init__(self, calibration_set: CalibrationSet, device: torch.device) -> None:
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
        augment = augmentation(config, self.padding)
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
            yield images, [Detections.of(target["boxes"], target["labels"]).to(self._device) for _, target in pairs]

    def _image(self, index: int) -> Tensor:
        if index in self._decoded:
            return self._decoded[index]
        image = torch.from_numpy(self._samples[index].image().copy()).permute(2, 0, 1)
        if image.nbytes <= self._room:
            self._decoded[index] = image
            self._room -= image.nbytes
        return image

    def _sample(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        image = self._image(index)
        labels = Detections.from_labels(self._samples[index].labels)
        size = (image.shape[1], image.shape[2])
        boxes = tv_tensors.BoundingBoxes(labels.boxes, format="XYXY", canvas_size=size)  # type: ignore[call-overload]
        return tv_tensors.Image(image), {"boxes": boxes, "labels": labels.classes}

    def _stack(self, images: list[Tensor]) -> Tensor:
        batch = torch.stack([image.as_subclass(Tensor) for image in images]).to(self._device)
        return (batch.float() / 255).contiguous(memory_format=torch.channels_last)


def augmentation(config: AugmentationConfig, padding: int) -> v2.Transform:
    """Transforms of an 8-bit image and its boxes that keep the labels true."""
    low, high = 1 - config.scale, 1 + config.scale
    shift = (config.shift, config.shift)
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomAffine(degrees=0, translate=shift, scale=(low, high), fill=padding,
                            interpolation=v2.InterpolationMode.BILINEAR),
            v2.ColorJitter(brightness=config.brightness),
            v2.ClampBoundingBoxes(),
            v2.SanitizeBoundingBoxes(min_size=4),
        ]
    )  # fmt: skip
