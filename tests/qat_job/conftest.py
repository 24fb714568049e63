"""A small teacher, a small calibration set it knows, and the command as a user runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner, Result

from detectors.detections import Detections
from detectors.embedded.scenes import VALIDATION_SEED, render_scene
from detectors.protocol import Detector
from qat_job.__main__ import main
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics
from schemas.image_size import ImageSize
from schemas.labels import LabelOrigin
from schemas.provenance import Provenance
from schemas.synth_config import SynthConfig
from stages.shards import write_shard
from stages.storage import write_text

TINY: dict[str, Any] = {
    "bits.weight_bits": 4,
    "bits.activation_bits": 8,
    "steps": 2,
    "batch": 2,
    "calibration_images": 2,
    "keep_better": False,  # two steps may well end further away
    "device": "cpu",
    "targets": [],
}


@pytest.fixture(scope="session")
def teacher(small_teacher: Detector) -> Detector:
    """The small detector of scenes; tests must not change it."""
    return small_teacher


@pytest.fixture(scope="session")
def write_set(teacher: Detector) -> Callable[..., Path]:
    """Write a set of four rendered scenes, cut to `size`, as synth would; `teacher` fields can be changed."""

    def write(folder: Path, size: int | list[int] = 96, **identity: Any) -> Path:
        cut = ImageSize.of(size)
        config = SynthConfig(image_size=cut, images=4, shard_size=4)
        provenance = Provenance.of("synth", config.keyed(), {"teacher": teacher.identity.sha256})
        samples = []
        for index in range(4):
            scene = render_scene(VALIDATION_SEED, index)
            found = Detections.of(torch.from_numpy(scene.boxes), torch.from_numpy(scene.classes))
            labels = found.to_labels(cut, [LabelOrigin.SAMPLED] * len(found))
            samples.append((np.ascontiguousarray(scene.image[: cut.height, : cut.width]), labels))
        shard = write_shard(folder, 0, samples, first_sample=0, seed=0, key=provenance.key)
        made_for = teacher.identity.model_copy(update=identity)
        manifest = CalibrationSetManifest(
            teacher=made_for,
            label_mode=LabelMode.SAMPLED,
            synth=config,
            image_size=cut,
            seed=0,
            shards=(shard,),
            statistics=LabelStatistics.of([labels for _, labels in samples], teacher.identity.class_names),
            teacher_agreement=None,
            provenance=provenance,
        )
        write_text(folder / MANIFEST, manifest.to_json())
        return folder

    return write


@pytest.fixture(scope="session")
def calibration_set(write_set: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small set; tests must not change it."""
    return write_set(tmp_path_factory.mktemp("set"))


@pytest.fixture(scope="session")
def qat(calibration_set: Path, small_checkpoint: Path) -> Callable[..., Result]:
    """`python -m qat_job` at tiny settings; keyword arguments (dots as __) are `--set`."""
    app = typer.Typer()
    app.command()(main)

    def run(output: Path, *arguments: str, folder: Path = calibration_set, **settings: Any) -> Result:
        values = TINY | {"teacher.path": str(small_checkpoint)}
        values |= {key.replace("__", "."): value for key, value in settings.items()}
        pairs = [part for key, value in values.items() for part in ("--set", f"{key}={json.dumps(value)}")]
        return CliRunner().invoke(
            app, ["--calibration-set", str(folder), "--output", str(output), *pairs, *arguments]
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def trained_with() -> dict[str, Any]:
    """Settings of `trained`: from a start that leaves room for thirty steps, at a rate that random weights bear."""
    return {
        "steps": 30, "batch": 4, "learning_rate": 2e-4, "bias_learning_rate": 2e-4,
        "calibration_images": 4, "correction_images": 0,
    }  # fmt: skip


@pytest.fixture(scope="session")
def trained(qat: Callable[..., Result], trained_with: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student trained for thirty steps; tests must not change it."""
    folder = tmp_path_factory.mktemp("trained")
    result = qat(folder, **trained_with)
    assert result.exit_code == 0, result.output
    return folder
