"""Command line of stage 3: `python -m eval_job`. What the container runs."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from detectors.source import checkpoint_digest
from eval_job.data import find_sources
from eval_job.report.artifacts import check_calibration_set
from eval_job.report.page import rebuild_page, write_page
from schemas.calibration_set import HELD_BACK_FOLDER
from schemas.errors import ConfigError, InputError
from schemas.eval_config import EvalConfig
from schemas.evaluation import PAGE, REPORT, EvalReport
from schemas.provenance import Provenance
from schemas.student import MANIFEST, PTQ_FOLDER, OnnxManifest, StudentManifest, onnx_manifest_path
from schemas.target import Target, exported_path
from stages.options import Assignments, ConfigFile, Overwrite, RunConfigFile, read_stage_config
from stages.ranks import Rank
from stages.shards import open_calibration_set
from stages.stage import run_stage, up_to_date

NOT_IN_KEY = {"teacher", "data", "images", "split", "photos", "allow_other_teacher", "device", "batch"}
"""Settings that do not change the result: locations, whose content the digests cover, and how it is computed."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    output: Annotated[Path, typer.Option(help="folder of the report and the detections")],
    config: ConfigFile = None,
    run_config: RunConfigFile = None,
    assignments: Assignments = None,
    student: Annotated[
        list[Path] | None, typer.Option(help="finished student folder, its ptq/ included; can be repeated")
    ] = None,
    calibration_set: Annotated[
        Path | None, typer.Option(help="the set a student was made with, to be shown in report.html")
    ] = None,
    held_back: Annotated[
        Path | None,
        typer.Option(help="set to measure agreement on, without labelled images; default: held-back/ in the set"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Evaluate the full-precision teacher and its students on labelled images, or their agreement without labels."""
    with run_stage("eval") as stage:
        rank = Rank.of_environment()
        rank.must_be_alone("eval")
        settings = read_stage_config("eval", EvalConfig, config, run_config, assignments)
        teacher_digest = checkpoint_digest(settings.teacher)
        folders = _with_ptq(student or [])
        manifests = {folder: StudentManifest.read(folder / MANIFEST) for folder in folders}
        _check_teacher(manifests, teacher_digest)
        if calibration_set is not None:
            check_calibration_set(calibration_set, list(manifests.values()))
        settings = settings.model_copy(update={"image_size": _image_size(settings.image_size, manifests)})
        if held_back is None and calibration_set is not None:
            held_back = calibration_set / HELD_BACK_FOLDER
        sources = find_sources(settings, held_back, list(manifests.values()), teacher_digest)
        digests = sources.digests()
        inputs = {"teacher": teacher_digest} | digests
        inputs |= {f"student {n}": manifest.weights_sha256 for n, manifest in enumerate(manifests.values(), start=1)}
        if settings.onnx.models != "none":
            inputs |= _exported(folders)
        provenance = Provenance.of("eval", settings.model_dump(mode="json", exclude=NOT_IN_KEY), inputs)

        def finished() -> bool:
            return up_to_date(_done(output), provenance, output, overwrite)

        with stage.output(output, provenance.key, rank, finished) as wanted:
            if not wanted:
                # It is made again from what is there, with what an earlier run was not given.
                if student or calibration_set is not None or not (output / PAGE).exists():
                    rebuild_page(output, student or [], calibration_set, output / PAGE)
                stage.reporter.message(f"up to date: {output / PAGE}", path=str(output / PAGE))
                return

            if calibration_set is not None:
                open_calibration_set(calibration_set)  # better found damaged now than after minutes of evaluation
            from eval_job import job  # torch takes seconds to import, and "up to date" needs none of it

            page = partial(write_page, students=student or [], calibration_set=calibration_set, output=output / PAGE)
            data = job.EvaluationData(sources.labelled, sources.unlabelled, list(digests.values()))
            job.run(settings, folders, output, data, provenance, page, stage)


def _done(output: Path) -> Provenance | None:
    return EvalReport.read(output / REPORT).provenance if (output / REPORT).exists() else None


def _with_ptq(students: Sequence[Path]) -> list[Path]:
    """Each student folder, after its own state before training where that was kept."""
    folders: list[Path] = []
    for student in students:
        ptq = student / PTQ_FOLDER
        folders += [ptq, student] if ptq.is_dir() else [student]
    return list(dict.fromkeys(folders))


def _exported(folders: Sequence[Path]) -> dict[str, str]:
    """Digest of each exported model of each student, by role.

    Raises:
        InputError: a model lies without its manifest, or a manifest without its model.
    """
    digests: dict[str, str] = {}
    for number, folder in enumerate(folders, start=1):
        for target in Target:
            path = exported_path(folder, target)
            manifest = onnx_manifest_path(path)
            if path.exists() != manifest.exists():
                there, missing = sorted((path, manifest), key=Path.exists, reverse=True)
                raise InputError(
                    f"{missing}: is missing beside {there.name}; run zsq export --overwrite, or set onnx.models: none"
                )
            if path.exists():
                digests[f"student {number} {target.value}"] = OnnxManifest.read(manifest).sha256
    return digests


def _check_teacher(manifests: dict[Path, StudentManifest], teacher_digest: str) -> None:
    for folder, manifest in manifests.items():
        if manifest.teacher.sha256 != teacher_digest:
            raise InputError(
                f"student {folder}: was made from another teacher (sha256 {manifest.teacher.sha256[:12]}…, "
                f"this one is {teacher_digest[:12]}…); set teacher.path to its own teacher"
            )


def _image_size(configured: int | None, manifests: dict[Path, StudentManifest]) -> int | None:
    """The configured size, else that of the students' calibration sets; None leaves it to the teacher."""
    sizes = {manifest.calibration_set.image_size for manifest in manifests.values()}
    if configured is None and len(sizes) > 1:
        raise ConfigError(
            f"image_size: not set, and the students were made at different sizes ({', '.join(map(str, sorted(sizes)))} "
            "pixels); set image_size to one of them, or evaluate the students apart"
        )
    return configured or next(iter(sizes), None)


if __name__ == "__main__":
    app()
