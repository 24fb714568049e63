"""Label sampling: the boxes and classes that synthetic images are made for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.overlap import box_iou
from detectors.protocol import Detector, Suppression
from schemas.image_size import ImageSize
from schemas.labels import ImageLabels, LabelOrigin, ShapeKind
from schemas.synth_config import LabelConfig, LabelSource
from stages.stage import Stage
from synth_job.divergence import Attempts
from synth_job.initialisation import initial_images, sample_generator
from synth_job.inversion import Course, Inversion, Watch
from synth_job.loss_record import LossRecord

SIDE_RANGE = (0.2, 0.8)
"""Width and height of a random box are uniform in this range, shares of the image side (arXiv 2507.16782)."""
MULTI_BOXES = (2, 5)
"""`multi` draws this many boxes, uniformly."""
MULTI_OVERLAP = 0.2
"""Highest IoU between boxes of a `multi` image."""
MAX_DETECTIONS = 100


@dataclass(frozen=True)
class SampledLabels:
    """Labels of consecutive samples, for images of `size`.

    Attributes:
        size: what the boxes refer to.
        detections: boxes of each image.
        origins: origin of each box of each image.
        images: the images that adaptive sampling ended with, `(B, 3, H, W)` of `size`; empty for other sources.
    """

    size: ImageSize
    detections: list[Detections]
    origins: list[list[LabelOrigin]]
    images: Tensor

    def at(self, size: ImageSize) -> list[Detections]:
        """The boxes of each image at another size."""
        across, down = size.width / self.size.width, size.height / self.size.height
        return [found.scaled(across, down) for found in self.detections]

    def labels(self, size: ImageSize) -> list[ImageLabels]:
        """As stored beside images of `size`."""
        return [found.to_labels(size, origins) for found, origins in zip(self.at(size), self.origins, strict=True)]


class LabelSampler:
    """Draws the labels of any sample of a set; sample k depends on (seed, k) and its batch.

    Args:
        teacher: decides in adaptive sampling.
        config: source and its settings.
        seed: of the set.
        record: takes the loss terms of adaptive sampling, where it is given.
        inversion: of the teacher, where others use it too.
        given: labels of the source of that name, on the unit square.
    """

    def __init__(
        self,
        teacher: Detector,
        config: LabelConfig,
        seed: int,
        record: LossRecord | None = None,
        *,
        inversion: Inversion | None = None,
        given: Sequence[Detections] = (),
    ) -> None:
        self._record = record
        self._inversion = inversion or Inversion(teacher)
        self._teacher = teacher
        self._config = config
        self._seed = seed
        self._classes = len(teacher.identity.class_names)
        self._given = given

    def sample(self, indices: range, image_size: ImageSize, stage: Stage, attempts: Attempts) -> SampledLabels:
        """Labels of the samples `indices`, for `image_size` (adaptive sampling: of that shape, at `labels.size`).

        Raises:
            InputError: adaptive sampling diverges, whatever the random numbers.
        """
        if self._config.source is LabelSource.ADAPTIVE:
            return self._adaptive(indices, self._sampling_size(image_size), stage, attempts)
        width, height = image_size.width, image_size.height
        detections = self._shaped(indices, [self._drawn(index).scaled(width, height) for index in indices], image_size)
        origin = LabelOrigin.GIVEN if self._given else LabelOrigin.SAMPLED
        return SampledLabels(image_size, detections, [[origin] * len(found) for found in detections], torch.empty(0))

    def _drawn(self, index: int) -> Detections:
        """Labels of one sample on the unit square, from a source that looks at no image."""
        generator = sample_generator(self._seed, index)
        match self._config.source:
            case LabelSource.GIVEN:
                return self._given[index % len(self._given)]
            case LabelSource.TILE:
                return tile_boxes(generator, self._classes)
            case LabelSource.MULTI:
                return separate_boxes(generator, self._classes)
            case _:
                return random_boxes(generator, self._classes, 1)

    def _shaped(self, indices: range, drawn: list[Detections], size: ImageSize) -> list[Detections]:
        """Drawn boxes with the shapes that the head expects there: what it sees on images that show nothing yet."""
        if self._teacher.sees is ShapeKind.BOX:
            return drawn
        device = next(self._teacher.network.parameters()).device
        shaped: list[Detections] = []
        for start in range(0, len(indices), self._config.batch):
            batch = slice(start, start + self._config.batch)
            images = initial_images(self._config.initialisation, self._seed, indices[batch], size)
            shaped += self._teacher.shaped(images.to(device), drawn[batch])
        return shaped

    def _sampling_size(self, image_size: ImageSize) -> ImageSize:
        """The size at which adaptive sampling forms images."""
        share = self._config.size / image_size.longer
        return image_size.scaled(share, self._teacher.identity.stride, self._teacher.smallest_input)

    def _adaptive(self, indices: range, size: ImageSize, stage: Stage, attempts: Attempts) -> SampledLabels:
        config = self._config
        detections: list[Detections] = []
        origins: list[list[LabelOrigin]] = []
        images: list[Tensor] = []
        batches = [indices[start : start + config.batch] for start in range(0, len(indices), config.batch)]
        advance = stage.counter(len(batches) * config.iterations, "label sampling", unit="iteration")
        change = f"labels.learning_rate (now {config.learning_rate:g}) or labels.weights"
        for batch in batches:
            made, relabelling = attempts.run(
                "label sampling", batch, change, partial(self._adaptive_batch, batch, size, advance)
            )
            images.append(made)
            detections += relabelling.labels()
            origins += relabelling.origins
        return SampledLabels(size, detections, origins, torch.cat(images))

    def _adaptive_batch(
        self, batch: range, size: ImageSize, advance: Callable[[], None], attempt: int
    ) -> tuple[Tensor, "AdaptiveRelabelling"]:
        """One attempt at the samples of a batch: their images on the CPU, and their labels."""
        config = self._config
        generators = [sample_generator(self._seed, index, attempt) for index in batch]
        drawn = [random_boxes(generator, self._classes, 1).scaled(size.width, size.height) for generator in generators]
        relabelling = AdaptiveRelabelling(self._teacher, config, self._shaped(batch, drawn, size), size)
        terms: list[Tensor] | None = [] if self._record else None
        images = self._inversion.run(
            initial_images(config.initialisation, self._seed, batch, size, attempt),
            relabelling.labels(),
            Course.of(config),
            sample_generator(self._seed, batch[0], attempt),
            Watch(advance, relabelling.after_step, terms),
        )
        if self._record and terms:
            self._record.write("label sampling", terms, batch[0] // config.batch * config.iterations)
        return images.cpu(), relabelling


class AdaptiveRelabelling:
    """The labels of a batch of forming images, as the teacher adds and removes boxes (arXiv 2507.16782).

    Args:
        teacher: looks at the images.
        config: when it looks and what counts.
        start: one random box per image, in pixels.
        size: of the images.
    """

    def __init__(self, teacher: Detector, config: LabelConfig, start: list[Detections], size: ImageSize) -> None:
        self._pixels = size.pixels
        self._teacher = teacher
        self._config = config
        self._labels = start
        self.origins = [[LabelOrigin.SAMPLED] * len(label) for label in start]

    def labels(self) -> list[Detections]:
        """The current labels of each image."""
        return list(self._labels)

    def after_step(self, step: int, images: Tensor) -> list[Detections] | None:
        """Relabel when it is time; None when nothing is due."""
        config = self._config
        done = step + 1
        if done < config.warm_up or done % config.interval:
            return None
        found = self._teacher.predict(
            images, Suppression(config.confidence, max_detections=MAX_DETECTIONS, multi_label=False)
        )
        for number, predictions in enumerate(found):
            self._labels[number], self.origins[number] = self._relabel(
                self._labels[number], self.origins[number], predictions.to(torch.device("cpu"))
            )
        self._labels = self._teacher.shaped(images, self._labels)
        return [label.to(images.device) for label in self._labels]

    def _relabel(
        self, current: Detections, origins: list[LabelOrigin], predictions: Detections
    ) -> tuple[Detections, list[LabelOrigin]]:
        kept = supported(current, predictions, self._config.overlap)
        boxes, classes, scores = [
            list(part) for part in (current.boxes[kept], current.classes[kept], current.scores[kept])
        ]
        origins = [origin for origin, keep in zip(origins, kept.tolist(), strict=True) if keep]
        for box, category, score in zip(predictions.boxes, predictions.classes, predictions.scores, strict=True):
            area = float((box[2] - box[0]) * (box[3] - box[1])) / self._pixels
            if not self._config.min_area <= area <= self._config.max_area:
                continue
            if float(box_iou(box[None], torch.stack(boxes)).max()) >= self._config.overlap:
                continue
            boxes.append(box)
            classes.append(category)
            scores.append(score)
            origins.append(LabelOrigin.RELABELLED)
        return Detections(torch.stack(boxes), torch.stack(classes), torch.stack(scores)), origins


def supported(current: Detections, predictions: Detections, overlap: float) -> Tensor:
    """Mask of the boxes that a prediction of their class supports (IoU ≥ `overlap`); never empty.

    Where no box is supported, the one that any prediction overlaps most stays.
    """
    if not len(predictions):
        return torch.arange(len(current)) == 0
    same_class = current.classes[:, None] == predictions.classes[None]
    iou = box_iou(current.boxes, predictions.boxes)
    kept = ((iou >= overlap) & same_class).any(dim=1)
    if not kept.any():
        kept[iou.max(dim=1).values.argmax()] = True
    return kept


def random_boxes(generator: torch.Generator, classes: int, count: int) -> Detections:
    """`count` boxes on the unit square: w, h ~ U(0.2, 0.8), centre uniform where it fits, class uniform."""
    low, high = SIDE_RANGE
    sides = low + (high - low) * torch.rand(count, 2, generator=generator)
    corner = torch.rand(count, 2, generator=generator) * (1 - sides)
    category = torch.randint(classes, (count,), generator=generator)
    return Detections.of(torch.cat((corner, corner + sides), dim=1), category)


def tile_boxes(generator: torch.Generator, classes: int) -> Detections:
    """Four boxes on the unit square that fill its quarters, classes uniform."""
    corners = torch.tensor([[x, y, x + 0.5, y + 0.5] for y in (0.0, 0.5) for x in (0.0, 0.5)])
    return Detections.of(corners, torch.randint(classes, (4,), generator=generator))


def separate_boxes(generator: torch.Generator, classes: int) -> Detections:
    """Two to five random boxes on the unit square that overlap little; fewer where they do not fit."""
    low, high = MULTI_BOXES
    wanted = int(torch.randint(low, high + 1, (1,), generator=generator))
    drawn = random_boxes(generator, classes, 10 * wanted)
    kept: list[int] = []
    for candidate in range(len(drawn)):
        apart = not kept or float(box_iou(drawn.boxes[candidate, None], drawn.boxes[kept]).max()) <= MULTI_OVERLAP
        if apart and len(kept) < wanted:
            kept.append(candidate)
    return drawn.select(torch.tensor(kept))
