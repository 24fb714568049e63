"""Entry point of the synth container: `python -m synth_job`."""

from pathlib import Path
from typing import Annotated

import typer

from schemas.calibration_set import HELD_BACK_FOLDER, MANIFEST, CalibrationSetManifest
from schemas.synth_config import SynthConfig
from stages.options import Assignments, ConfigFile, GivenSet, Overwrite, RunConfigFile, read_stage_config
from stages.output import Job
from stages.ranks import Rank
from stages.shards import open_calibration_set
from stages.stage import Stage, run_stage
from synth_job.outputs import inputs_of, set_output, sets_of


def main(
    output: Annotated[Path, typer.Option(help="folder of the calibration set")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    overwrite: Overwrite = False,
    given_set: GivenSet = None,
) -> None:
    """Make a labelled calibration set from a teacher, without a real image, and what is held back of it."""
    with run_stage("synth") as stage:
        rank = Rank.of_environment()
        settings = read_stage_config("synth", SynthConfig, config, run_config, assignments)
        inputs = inputs_of(settings)
        if given_set is None:
            sets = sets_of(settings, output)
        else:
            held_back = beside_given(settings.for_held_back(), given_set, stage)
            sets = {output / HELD_BACK_FOLDER: held_back} if held_back else {}
        for folder, asked in sets.items():
            make_set(asked, Job(stage, set_output(asked, inputs, folder, overwrite), rank))


def beside_given(held_back: SynthConfig | None, given: Path, stage: Stage) -> SynthConfig | None:
    """What is to be made beside a finished set: images held back, of its size, unless it brings its own.

    Raises:
        InputError: there is no finished set.
        VerificationError: it is damaged.
    """
    manifest = open_calibration_set(given).manifest
    stage.reporter.message(
        f"nothing to make: {given} holds a finished set of {manifest.samples} images, digest {manifest.digest[:12]}…"
    )
    if held_back is None or (given / HELD_BACK_FOLDER / MANIFEST).exists():
        return None
    return held_back.model_copy(update={"image_size": held_back.image_size or manifest.image_size})


def make_set(settings: SynthConfig, job: Job[CalibrationSetManifest]) -> None:
    """Make the set that `settings` describe, or say that this was done.

    Raises:
        ZsqError: bad input, another set in the folder, or a stop request.
    """
    with job.output.claim(job.stage, job.rank) as wanted:
        if not wanted:
            job.stage.reporter.message(f"up to date: {job.output.folder}")
            return

        from synth_job.job import synthesize  # loads torch, which an up-to-date run need not wait for

        synthesize(settings, job)


if __name__ == "__main__":
    typer.run(main)
