"""Compare a set with the real images that its teacher may have seen. The story of `zsq set privacy`."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from label_formats.images import read_image
from pipeline.privacy.copies import KINDS, altered
from pipeline.privacy.findings import Findings, judged
from pipeline.privacy.measures import Measure
from pipeline.privacy.nearest import NOBODY, Nearest
from pipeline.privacy.prepared import Floats, Prepared, prepare, prepared
from pipeline.privacy.real_images import RealImages, find_real_images
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity
from stages.shards import open_calibration_set
from stages.stage import Stage

SAMPLED = 500
"""Most real images whose nearest other one is looked for."""
PLANTED = 24
"""Most real images of which altered copies are planted."""


def check_privacy(
    folder: Path, against: Path, choose: Callable[[TeacherIdentity], Sequence[Measure]], stage: Stage
) -> Findings:
    """Compare each image of the set in `folder` with its nearest real images below `against`.

    Three things are looked for among the real images: those of the set; altered copies of real images, to see whether
    the check finds them; and some real images themselves, to know how near they are to each other.

    Args:
        folder: the set.
        against: folder of real images. It is only read, and of all but a batch of them nothing is held.
        choose: by what to compare a set of this teacher; an image looks like a copy if it does by any of these.
        stage: reports, and stops between batches.

    Raises:
        ConfigError: `against` is, holds or lies in the set's folder.
        InputError: there is no set, no such folder, too few images in it, or one that cannot be read.
        VerificationError: the set is damaged.
    """
    calibration_set = open_calibration_set(folder)
    measures = choose(calibration_set.manifest.teacher)
    real = find_real_images(against, folder, stage)
    generator = np.random.default_rng(0)
    sampled = np.sort(generator.choice(len(real.files), min(SAMPLED, len(real.files)), replace=False))
    sample = [image for batch in real.batches(sampled.tolist(), "sample", stage) for image in batch]
    for measure in measures:
        measure.learn(sample)
    copied = sampled[:: -(-len(sampled) // PLANTED)]
    wanted = _Wanted(measures)
    for batch in prepared(calibration_set.samples, lambda each: each.image()):
        stage.stop_here_if_asked()
        wanted.add(batch)
    wanted.add(_copies(real, copied, calibration_set.manifest.image_size, generator, stage))
    wanted.add(sample, sampled)
    found = [Nearest(queries, wanted.own) for queries in wanted.queries]
    first = 0
    for batch in real.batches(range(len(real.files)), "compare", stage):
        for nearest, measure in zip(found, measures, strict=True):
            nearest.update(measure.references(batch), first)
        first += len(batch)
    return judged(calibration_set, real, list(zip(measures, found, strict=True)), len(copied))


class _Wanted:
    """What is looked for among the real images, as each measure sees it."""

    def __init__(self, measures: Sequence[Measure]) -> None:
        self._measures = measures
        self.queries: list[list[Floats]] = [[] for _ in measures]
        self.own: list[int] = []

    def add(self, images: Iterable[Prepared], own: NDArray[np.int64] | None = None) -> None:
        """Look for these, too; `own`: the index that each of them has among the real images."""
        for number, image in enumerate(images):
            for queries, measure in zip(self.queries, self._measures, strict=True):
                queries.append(measure.queries(image))
            self.own.append(NOBODY if own is None else int(own[number]))


def _copies(
    real: RealImages, copied: NDArray[np.int64], size: ImageSize, generator: np.random.Generator, stage: Stage
) -> Iterable[Prepared]:
    """Altered copies of the chosen images: those of one kind, then those of the next."""
    for kind in stage.reporter.track(list(KINDS), "plant", unit="kind"):
        for index in copied:
            stage.stop_here_if_asked()
            yield prepare(altered(read_image(real.files[index]), kind, size, generator))
