"""From distances to a verdict: real images show what is near, and planted copies how sharp the check is."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from pipeline.privacy.copies import KINDS
from pipeline.privacy.measures import Measure
from pipeline.privacy.nearest import Nearest
from pipeline.privacy.real_images import RealImages
from schemas.privacy import (
    METHOD,
    ComparedSample,
    NearestImage,
    PlantedCopies,
    PrivacyRecord,
    PrivacyReport,
    RealDistances,
    Verdict,
)
from schemas.version import code_version
from stages.shards import CalibrationSet

QUANTILE = 0.01
"""A synthetic image looks like a copy if it is nearer to a real one than all but this share of real images are."""
PLAIN = ("as it is", "JPEG")
"""Kinds of planted copies that the check must find to say anything."""
ENOUGH = 0.9
"""Share of them."""


@dataclass(frozen=True)
class Measured:
    """What one measure found, query by query.

    Attributes:
        index: `(Q,)` the nearest real image.
        distances: `(Q,)` to it.
        ratios: `(Q,)` by the distance to the second nearest one.
        real: what is near by this measure.
    """

    index: NDArray[np.int64]
    distances: NDArray[np.float64]
    ratios: NDArray[np.float64]
    real: RealDistances

    @classmethod
    def of(cls, measure: Measure, nearest: Nearest, first_real: int) -> "Measured":
        """From what was found for all queries, of which those from `first_real` on are real images."""
        distances, ratios = nearest.distances()[:, 0], nearest.ratios()
        near = max(float(np.quantile(distances[first_real:], QUANTILE)), measure.floor)
        real = RealDistances(
            measure=measure.name,
            network=measure.network,
            images=len(distances) - first_real,
            median=float(np.median(distances[first_real:])),
            near=near,
            near_each_other=float((distances[first_real:] < near).mean()),
            ratio=float(np.quantile(ratios[first_real:], QUANTILE)),
        )
        return cls(nearest.index, distances, ratios, real)

    def copy_like(self) -> NDArray[np.bool_]:
        """`(Q,)` which queries look like copies."""
        stands_out = (self.ratios < self.real.ratio) & (self.distances < self.real.median)
        flags: NDArray[np.bool_] = (self.distances < self.real.near) | stands_out
        return flags


@dataclass(frozen=True)
class Findings:
    """What the check says, with the images that it speaks of."""

    calibration_set: CalibrationSet
    real: RealImages
    report: PrivacyReport


def judged(
    calibration_set: CalibrationSet, real: RealImages, found: Sequence[tuple[Measure, Nearest]], copied: int
) -> Findings:
    """Findings from the nearest real images of the set's images, of `copied` copies of each kind, and of real images.

    Args:
        calibration_set: the set.
        real: the real images.
        found: by each measure, what is nearest to all of these, in this order.
        copied: number of real images of which copies were planted.
    """
    samples = len(calibration_set.samples)
    planted = slice(samples, samples + len(KINDS) * copied)
    measured = [Measured.of(measure, nearest, planted.stop) for measure, nearest in found]
    any_near = np.logical_or.reduce([each.copy_like() for each in measured])
    caught = any_near[planted].reshape(len(KINDS), copied).sum(axis=1)
    copies = tuple(PlantedCopies(kind=k, planted=copied, found=int(n)) for k, n in zip(KINDS, caught, strict=True))
    copy_like = int(any_near[:samples].sum())
    record = PrivacyRecord(
        method=METHOD,
        verdict=_verdict(copy_like, copies),
        images=samples,
        copy_like=copy_like,
        real_images=len(real.files),
        measures=tuple(each.real.measure for each in measured),
        planted=copies,
        created=datetime.now(UTC).replace(microsecond=0),
        code_version=code_version(),
    )
    report = PrivacyReport(
        set_digest=calibration_set.manifest.digest,
        record=record,
        left_out=real.left_out,
        real=tuple(each.real for each in measured),
        samples=_compared(samples, real, measured),
    )
    return Findings(calibration_set, real, report)


def _compared(samples: int, real: RealImages, measured: Sequence[Measured]) -> tuple[ComparedSample, ...]:
    flags = [each.copy_like() for each in measured]
    return tuple(
        ComparedSample(
            sample=number,
            nearest=tuple(
                NearestImage(
                    measure=each.real.measure,
                    image=real.name(int(each.index[number])),
                    distance=float(each.distances[number]),
                    ratio=float(each.ratios[number]),
                    copy_like=bool(near[number]),
                )
                for each, near in zip(measured, flags, strict=True)
            ),
        )
        for number in range(samples)
    )


def _verdict(copy_like: int, copies: Sequence[PlantedCopies]) -> Verdict:
    if copy_like:
        return Verdict.COPIES
    plain = [each for each in copies if each.kind in PLAIN]
    sharp = sum(each.found for each in plain) >= ENOUGH * sum(each.planted for each in plain)
    return Verdict.NOTHING_FOUND if sharp else Verdict.INCONCLUSIVE
