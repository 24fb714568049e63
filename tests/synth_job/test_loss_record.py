from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from schemas.calibration_set import CalibrationSetManifest

event_accumulator = pytest.importorskip(
    "tensorboard.backend.event_processing.event_accumulator", reason="needs the extra tensorboard"
)

PHASES = {"label sampling": 4, "inversion": 3}
"""Iterations of each phase at tiny settings."""


def test_a_set_leaves_every_loss_term_of_every_iteration(synth: Callable[..., Result], tmp_path: Path) -> None:
    result = synth(tmp_path, labels__source="adaptive", tensorboard=True)
    assert result.exit_code == 0, result.output

    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for phase, iterations in PHASES.items():
        for term in ("task", "statistics", "first_layer", "total_variation"):
            scalars = events.Scalars(f"{phase}/{term}")
            assert [event.step for event in scalars] == list(range(2 * iterations)), "two batches, one after another"
            assert all(event.value > 0 for event in scalars)


def test_event_files_change_neither_the_images_nor_the_key(synth: Callable[..., Result], tmp_path: Path) -> None:
    assert synth(tmp_path / "with", labels__source="random", tensorboard=True).exit_code == 0
    assert synth(tmp_path / "without", labels__source="random").exit_code == 0

    recorded, plain = (CalibrationSetManifest.read(tmp_path / n / "manifest.json") for n in ("with", "without"))
    assert recorded.digest == plain.digest
    assert recorded.provenance.key == plain.provenance.key
