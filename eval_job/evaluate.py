"""Running a detector over the validation images."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.shapes.shapes import Placement
from label_formats.images import ValidationImage
from schemas.eval_config import EvalConfig
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity
from stages.pixels import Pixels
from stages.stage import Stage

READERS = 2
"""Threads that read the next batch while the detector looks at this one."""

Batches = Sequence[Sequence[ValidationImage]]


class Predictor(Protocol):
    """The part of a detector that evaluation needs; an exported model has it too."""

    identity: TeacherIdentity

    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        ...

    def letterbox(self, image: NDArray[np.uint8], size: ImageSize) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """See `Detector`."""
        ...


@dataclass(frozen=True)
class Prediction:
    """What a detector finds.

    Attributes:
        detections: of each image, best first, boxes in pixels of the image, on the CPU.
        seconds_per_image: forward pass and NMS, median over the batches.
    """

    detections: list[Detections]
    seconds_per_image: float


@dataclass(frozen=True)
class _Prepared:
    """A letterboxed image and the way back: its scale, (left, top) border, and size before, all in pixels."""

    canvas: Pixels
    scale: float
    border: tuple[int, int]
    width: int
    height: int


@dataclass(frozen=True)
class InferenceSettings:
    """How a detector looks at images.

    Attributes:
        image_size: what images are letterboxed to.
        batch: images per forward pass.
        limits: which boxes are left.
    """

    image_size: ImageSize
    batch: int
    limits: Suppression = field(default_factory=lambda: Suppression(0.001))


def predict(
    detector: Predictor,
    images: Sequence[ValidationImage],
    device: torch.device,
    settings: InferenceSettings,
    track: Callable[[Batches], Iterable[Sequence[ValidationImage]]] = iter,
) -> Prediction:
    """Predictions of `detector` on every image.

    Args:
        detector: on `device`.
        images: at least one.
        device: where it runs.
        settings: size, batch and suppression.
        track: iterates the batches, and may report or stop.

    Raises:
        InputError: an image cannot be decoded, or is not the one that was labelled.
    """
    batches = [images[start : start + settings.batch] for start in range(0, len(images), settings.batch)]
    detections: list[Detections] = []
    seconds: list[float] = []
    for prepared, _ in zip(_read_ahead(detector, batches, settings.image_size), track(batches), strict=True):
        pixels = network_input([image.canvas for image in prepared], device)
        start = _now(device)
        found = detector.predict(pixels, settings.limits)
        seconds.append((_now(device) - start) / len(prepared))
        detections += [_in_image(each, image) for each, image in zip(found, prepared, strict=True)]
    return Prediction(detections, statistics.median(seconds))


@dataclass(frozen=True)
class Looking:
    """How every detector of an evaluation looks at images.

    Attributes:
        config: of the evaluation.
        image_size: what images are letterboxed to.
        device: where detectors run.
        stage: shows progress, and may be asked to stop.
    """

    config: EvalConfig
    image_size: ImageSize
    device: torch.device
    stage: Stage

    def predict(self, detector: Predictor, images: Sequence[ValidationImage], name: str) -> Prediction:
        """See `predict`; `name` is shown with the progress."""
        config = self.config
        limits = Suppression(config.confidence, config.iou, config.max_detections, masks=True)
        settings = InferenceSettings(self.image_size, config.batch, limits)
        return predict(detector, images, self.device, settings, partial(self._track, name))

    def _track(self, name: str, batches: Batches) -> Iterator[Sequence[ValidationImage]]:
        for batch in self.stage.reporter.track(batches, name, unit="batch"):
            self.stage.stop_here_if_asked()
            yield batch


def network_input(canvases: Sequence[Pixels], device: torch.device) -> Tensor:
    """`(B, 3, H, W)` float network input in [0, 1] from `(H, W, 3)` uint8 RGB images of one size."""
    images = torch.from_numpy(np.stack(canvases)).to(device).permute(0, 3, 1, 2)
    return (images.float() / 255).contiguous()


def _read_ahead(detector: Predictor, batches: Batches, image_size: ImageSize) -> Iterator[list[_Prepared]]:
    def prepare(image: ValidationImage) -> _Prepared:
        pixels = image.pixels()
        canvas, scale, border = detector.letterbox(pixels, image_size)
        return _Prepared(canvas, scale, border, width=pixels.shape[1], height=pixels.shape[0])

    with ThreadPoolExecutor(READERS) as pool:
        ahead = pool.map(prepare, batches[0])
        for following in [*batches[1:], []]:
            prepared = list(ahead)
            ahead = pool.map(prepare, following)
            yield prepared


def _in_image(found: Detections, image: _Prepared) -> Detections:
    """Detections on a letterboxed canvas, in pixels of the image it shows and clipped to it."""
    left, top = image.border
    corners = (found.boxes.cpu() - torch.tensor([left, top, left, top])) / image.scale
    limits = torch.tensor([image.width, image.height, image.width, image.height])
    shapes = found.shapes
    if shapes is not None:
        place = Placement(image.scale, image.border, image.width, image.height)
        shapes = shapes.placed(place).to(torch.device("cpu"))
    return Detections(corners.clamp(min=0).minimum(limits), found.classes.cpu(), found.scores.cpu(), shapes)


def _now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
