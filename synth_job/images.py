"""The images of a shard: batch after batch, from coarse to fine, made again where an inversion diverges."""

import torch
from torch import Tensor

from detectors.protocol import Detector
from schemas.image_size import ImageSize
from schemas.synth_config import Initialisation, InversionConfig, SynthConfig
from stages.pixels import Pixels
from stages.stage import Stage
from synth_job.divergence import Attempts
from synth_job.initialisation import enlarged, initial_images, sample_generator
from synth_job.inversion import Course, Inversion, Watch
from synth_job.label_sampling import SampledLabels
from synth_job.loss_record import LossRecord


class ImageMaker:
    """Makes the images of one shard after another.

    Args:
        teacher: the full-precision detector.
        inversion: of that teacher.
        settings: of the stage.
        size: of the images.
        losses: takes the loss terms where it is given.
    """

    def __init__(
        self,
        teacher: Detector,
        inversion: Inversion,
        settings: SynthConfig,
        size: ImageSize,
        losses: LossRecord | None = None,
    ) -> None:
        self._inversion, self._settings, self._losses = inversion, settings, losses
        self._schedule = levels(settings.inversion, size, teacher.identity.stride, teacher.smallest_input)

    def make(self, sampled: SampledLabels, indices: range, stage: Stage, attempts: Attempts) -> list[Pixels]:
        """Images for the labels of the samples `indices`.

        Raises:
            InputError: an inversion diverges, whatever the random numbers.
        """
        config = self._settings.inversion
        pixels: list[Pixels] = []
        batches = -(-len(indices) // config.batch)
        advance = stage.counter(batches * config.iterations, "inversion", unit="iteration")
        change = f"inversion.learning_rate (now {config.learning_rate:g}) or inversion.weights"
        for start in range(0, len(indices), config.batch):
            batch = slice(start, start + config.batch)
            terms: list[Tensor] | None = [] if self._losses else None
            watch = Watch(advance, terms=terms)

            def attempt_at(attempt: int, batch: slice = batch, watch: Watch = watch) -> Tensor:
                if watch.terms is not None:
                    watch.terms.clear()  # of an attempt that diverged
                return self._batch(sampled, indices, batch, attempt, watch)

            pixels += to_pixels(attempts.run("inversion", indices[batch], change, attempt_at))
            if self._losses and terms:
                self._losses.write("inversion", terms, indices[batch][0] // config.batch * config.iterations)
        return pixels

    def _batch(self, sampled: SampledLabels, indices: range, batch: slice, attempt: int, watch: Watch) -> Tensor:
        """One attempt at the images of a batch, `(B, 3, H, W)`."""
        settings = self._settings
        if settings.initialisation is Initialisation.SAMPLED:
            images = sampled.images[batch]
        else:
            smallest, _ = self._schedule[0]
            images = initial_images(settings.initialisation, settings.seed, indices[batch], smallest, attempt)
        generator = sample_generator(settings.seed, indices[batch][0], attempt)
        for level, iterations in self._schedule:
            course = Course.of(settings.inversion, iterations)
            images = self._inversion.run(enlarged(images, level), sampled.at(level)[batch], course, generator, watch)
        return images


def levels(config: InversionConfig, size: ImageSize, stride: int, smallest: int = 0) -> list[tuple[ImageSize, int]]:
    """Size and iterations of each resolution that images of `size` are optimised at in turn.

    Sides are multiples of `stride`, and none is below `smallest`.
    """
    shares = config.levels_at(size)
    share, rest = divmod(config.iterations, len(shares))
    iterations: dict[ImageSize, int] = {}
    for number, level in enumerate(shares):
        at = size.scaled(level, stride, smallest)
        iterations[at] = iterations.get(at, 0) + share + (rest if number == len(shares) - 1 else 0)
    return list(iterations.items())


def to_pixels(images: Tensor) -> list[Pixels]:
    """`(B, 3, H, W)` float in [0, 1] as 8-bit `(H, W, 3)` images."""
    return list((images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())
