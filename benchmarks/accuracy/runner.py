"""Run the cells of a grid that have no result yet, each as a user would run the three stages."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.accuracy.grid import Cell, Grid
from benchmarks.accuracy.results import ModelResult, RunResult, append_result, read_results, run_key
from detectors.average_precision import evaluate_boxes
from detectors.detections import Detections
from eval_job.bootstrap import resampled_precision
from eval_job.coco_results import detections_file
from eval_job.data import find_validation_data
from label_formats.images import ValidationSet
from pipeline.local_executor import run_job
from pipeline.plan import StageCommand, plan_stages, write_stage_config
from schemas.base import Contract, canonical_digest
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.evaluation import REPORT, EvalReport, EvaluatedModel
from schemas.run_config import RunConfig
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.student import StudentManifest
from schemas.version import code_version

DECIMALS = 5
"""Of resampled values, as stored."""


def run_grid(grid: Grid, results: Path, work: Path, only: str | None = None) -> None:
    """Append the result of each cell that has none; an interrupted run goes on where it was.

    Args:
        grid: the experiment.
        results: its file of JSON lines.
        work: folder of sets, students and evaluations; cells that share a configuration share them.
        only: run cells alone whose name contains this.

    Raises:
        SystemExit: a stage failed, with its exit code.
    """
    known = {result.key for result in read_results(results)}
    cells = [cell for cell in grid.cells() if only is None or only in cell.name]
    for number, cell in enumerate(cells, start=1):
        print(f"== {number} of {len(cells)}: {cell.name}", flush=True)
        config = cell.config(work)
        calibration_set = cell.calibration_set or _make_set(config, work)
        manifest = CalibrationSetManifest.read(calibration_set / SET_MANIFEST)
        keyed = {"qat": config.qat.keyed(), "eval": config.eval.model_dump(mode="json")}
        key = run_key(keyed, manifest.digest)
        if key in known:
            print("has its result", flush=True)
            continue
        evaluation, student = _evaluate(config, calibration_set, work, key)
        append_result(results, _result(key, cell, evaluation, student, manifest))
        known.add(key)


def _make_set(config: RunConfig, work: Path) -> Path:
    folder = work / "sets" / _short(config.synth)
    _run(config, "synth", folder)
    return folder


def _evaluate(config: RunConfig, calibration_set: Path, work: Path, key: str) -> tuple[Path, Path]:
    folder = work / "runs" / key[:12]
    student, evaluation = folder / "student", folder / "eval"
    _run(config, "qat", student, "--calibration-set", str(calibration_set))
    _run(config, "eval", evaluation, "--student", str(student))
    return evaluation, student


def _run(config: RunConfig, stage: str, output: Path, *inputs: str) -> None:
    """One stage by itself, with its configuration beside its output."""
    (command,) = (command for command in plan_stages(config) if command.stage == stage)
    path = output.with_name(f"{output.name}.yaml")
    arguments = ("--config", str(path), *inputs, "--output", str(output))
    write_stage_config(StageCommand(stage, command.config, path, output.parent, output, arguments))
    # The ultralytics package, imported here to judge detections, sets one thread for all processes started after it.
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    if code := run_job(command.module, arguments, environment):
        sys.exit(code)


def _short(config: Contract) -> str:
    return canonical_digest(config.model_dump(mode="json"))[:12]


def _result(key: str, cell: Cell, evaluation: Path, student: Path, manifest: CalibrationSetManifest) -> RunResult:
    report = EvalReport.read(evaluation / REPORT)
    referee = _Referee.of(report, evaluation, manifest.teacher.class_names)
    full_precision, *students = report.models
    by_method = {model.name.partition(" ")[0]: referee.judge(model) for model in students}
    return RunResult(
        key=key,
        levels=cell.levels,
        seed=cell.seed,
        full_precision=referee.judge(full_precision),
        ptq=by_method["PTQ"],
        qat=by_method.get("QAT"),
        set_digest=manifest.digest,
        set_images=sum(shard.samples for shard in manifest.shards),
        training_seconds=StudentManifest.read(student / STUDENT_MANIFEST).training.seconds,
        data=data_name(Path(report.data.source)),
        images=report.data.images,
        image_size=report.data.image_size.height,
        code_version=code_version(),
    )


def data_name(source: Path) -> str:
    """Name of a data set by its folder, whether `source` is that or the `instances.json` in it."""
    return source.parent.name if source.stem == "instances" else source.name


@dataclass(frozen=True)
class _Referee:
    """Judges the stored detections of an evaluation once more, for the resamples that the report does not hold."""

    evaluation: Path
    validation: ValidationSet
    class_names: tuple[str, ...]

    @classmethod
    def of(cls, report: EvalReport, evaluation: Path, class_names: tuple[str, ...]) -> "_Referee":
        source = find_validation_data(report.eval.data, report.eval.images, report.eval.split)
        return cls(evaluation, source.read(class_names), class_names)

    def judge(self, model: EvaluatedModel) -> ModelResult:
        images = self.validation.images
        truth = [Detections.of(torch.from_numpy(image.boxes), torch.from_numpy(image.classes)) for image in images]
        crowd = [image.crowd.tolist() for image in images]
        matches = evaluate_boxes(truth, self._detections(model.name), self.class_names, crowd).matches
        resampled = resampled_precision(matches)
        return ModelResult(
            map50_95=model.precision.map50_95,
            resampled=() if resampled is None else tuple(round(value, DECIMALS) for value in resampled.tolist()),
        )

    def _detections(self, model: str) -> list[Detections]:
        index_of = {category: index for index, category in self.validation.category_ids.items()}
        by_image: dict[int, list[tuple[list[float], int, float]]] = {image.id: [] for image in self.validation.images}
        for row in json.loads((self.evaluation / detections_file(model)).read_text(encoding="utf-8")):
            x, y, width, height = row["bbox"]
            box = [x, y, x + width, y + height]
            by_image[row["image_id"]].append((box, index_of[row["category_id"]], row["score"]))
        return [
            Detections.of(
                torch.tensor([box for box, _, _ in rows]).reshape(-1, 4),
                torch.tensor([index for _, index, _ in rows], dtype=torch.int64),
                torch.tensor([score for _, _, score in rows]),
            )
            for rows in by_image.values()
        ]
