"""Which folders a synthesis fills, and what each is made from; imports no torch."""

from pathlib import Path

from detectors.source import checkpoint_digest
from schemas.calibration_set import HELD_BACK_FOLDER, MANIFEST, CalibrationSetManifest
from schemas.provenance import Provenance
from schemas.synth_config import SynthConfig
from stages.output import Output
from synth_job.given_labels import given_labels_digest


def inputs_of(settings: SynthConfig) -> dict[str, str]:
    """Digest of each input by its role.

    Raises:
        InputError: one is missing.
    """
    inputs = {"teacher": checkpoint_digest(settings.teacher)}
    if settings.labels.path:
        inputs["labels"] = given_labels_digest(Path(settings.labels.path))
    return inputs


def sets_of(settings: SynthConfig, folder: Path) -> dict[Path, SynthConfig]:
    """The settings of each set by its folder: the calibration set, and what is held back of it."""
    held_back = settings.for_held_back()
    return {folder: settings} | ({folder / HELD_BACK_FOLDER: held_back} if held_back else {})


def set_output(
    settings: SynthConfig, inputs: dict[str, str], folder: Path, overwrite: bool
) -> Output[CalibrationSetManifest]:
    """The set that is asked for."""
    wanted = Provenance.of("synth", settings.keyed(), inputs)
    return Output(folder / MANIFEST, CalibrationSetManifest, wanted, overwrite)
