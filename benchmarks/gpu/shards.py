"""A set made on the device and one made on the CPU, of the same settings: both have to verify."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from detectors.source import checkpoint_digest
from schemas.calibration_set import MANIFEST, CalibrationSetManifest
from schemas.errors import VerificationError
from schemas.provenance import Provenance
from schemas.synth_config import InversionConfig, LabelConfig, SynthConfig
from schemas.teacher import TeacherSource
from stages.output import Job, Output
from stages.ranks import Rank
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage
from synth_job.job import synthesize

IMAGES, ITERATIONS = 4, 10


def both_verify(source: TeacherSource, device: torch.device, size: int, folder: Path) -> dict[str, Any]:
    """Make both sets in `folder`, open them as qat does, decode every image; what they share.

    Raises:
        VerificationError: one of them is not what its manifest says, or they claim different settings.
    """
    own, cpu = (made(source, name, size, folder / place) for place, name in (("own", str(device)), ("cpu", "cpu")))
    if own.manifest.provenance.key != cpu.manifest.provenance.key:
        raise VerificationError("the sets of one configuration claim different settings")
    differences = [
        np.abs(one.image().astype(np.int16) - other.image().astype(np.int16))
        for one, other in zip(own.samples, cpu.samples, strict=True)
    ]
    return {
        "images": len(differences),
        "same_bytes": own.manifest.digest == cpu.manifest.digest,
        "mean_pixel_difference": float(np.mean([difference.mean() for difference in differences])),
    }


def made(source: TeacherSource, device: str, size: int, folder: Path) -> CalibrationSet:
    """A small set, verified as every reader verifies it."""
    settings = SynthConfig(
        teacher=source, image_size=size, images=IMAGES, shard_size=IMAGES // 2, device=device,
        labels=LabelConfig(iterations=ITERATIONS, warm_up=ITERATIONS // 2, interval=ITERATIONS // 2),
        inversion=InversionConfig(iterations=ITERATIONS),
    )  # fmt: skip
    wanted = Provenance.of("synth", settings.keyed(), {"teacher": checkpoint_digest(source)})
    job = Job(Stage("synth"), Output(folder / MANIFEST, CalibrationSetManifest, wanted, False), Rank())
    with job.output.claim(job.stage, job.rank):
        synthesize(settings, job)
    return open_calibration_set(folder)
