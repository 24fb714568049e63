"""`zsq sensitivity` as a user sees it: what it writes, that qat takes the plan, what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
import yaml
from typer.testing import CliRunner, Result

from qat_job.sensitivity.__main__ import main
from quantization.convert import mean_weight_bits
from quantization.mixed_precision import mean_bits
from quantization.student import load_student
from schemas.errors import ExitCode
from schemas.sensitivity import PLAN, SENSITIVITY, SensitivityReport
from schemas.student import MANIFEST, StudentManifest

CPU = torch.device("cpu")
Stage = Callable[..., Result]
TINY: dict[str, Any] = {"sensitivity.images": 2, "sensitivity.candidates": [2, 8], "device": "cpu"}


@pytest.fixture(scope="module")
def sensitivity(calibration_set: Path, small_checkpoint: Path) -> Stage:
    """`python -m qat_job.sensitivity` at tiny settings; keyword arguments (dots as __) are `--set`."""
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


@pytest.fixture(scope="module")
def measured(sensitivity: Stage, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A measurement with a plan of 4 bits; tests must not change it."""
    folder = tmp_path_factory.mktemp("measured")
    result = sensitivity(folder, sensitivity__budget=4.0)
    assert result.exit_code == 0, result.output
    return folder


def one_line(result: Result, code: ExitCode, stage: str = "sensitivity") -> str:
    """The one line with which the stage failed."""
    assert result.exit_code == code, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith(f"zsq {stage}: ")
    return line


def test_the_report_names_every_layer_and_the_plan_keeps_the_budget(measured: Path) -> None:
    report = SensitivityReport.read(measured / SENSITIVITY)
    assert report.images == 2
    assert {layer.fixed_bits for layer in report.layers} == {None, 8}
    plan = yaml.safe_load((measured / PLAN).read_text())["bits"]["layers"]
    assert plan.keys() == {layer.name for layer in report.layers if layer.fixed_bits is None}
    assert 3.9 < mean_bits(report.layers, plan) <= 4.0


def test_qat_trains_the_plan_and_the_student_reloads_with_its_bits(measured: Path, qat: Stage, tmp_path: Path) -> None:
    app_arguments = ("--config", str(measured / PLAN))
    result = qat(tmp_path, *app_arguments, bits__weight_bits=4)
    assert result.exit_code == 0, result.output
    student, manifest = load_student(tmp_path, CPU)
    plan = yaml.safe_load((measured / PLAN).read_text())["bits"]["layers"]
    assert manifest.bits.layers == plan
    mean = mean_weight_bits(student.network)
    assert mean == pytest.approx(mean_bits(SensitivityReport.read(measured / SENSITIVITY).layers, plan))
    assert manifest.bits.name == f"W{mean:.2f}A8 deploy mixed"


def test_qat_plans_by_itself_and_leaves_the_measurement_beside_the_student(
    measured: Path, qat: Stage, tmp_path: Path
) -> None:
    settings = {"images": 2, "candidates": [2, 8], "budget": 4.0}
    result = qat(tmp_path, sensitivity=settings, ptq_only=True)
    assert result.exit_code == 0, result.output
    mine, theirs = (SensitivityReport.read(folder / SENSITIVITY) for folder in (tmp_path, measured))
    assert mine.layers == theirs.layers
    manifest = StudentManifest.read(tmp_path / MANIFEST)
    assert manifest.bits.layers == yaml.safe_load((measured / PLAN).read_text())["bits"]["layers"]
    assert manifest.provenance.config["sensitivity"]["budget"] == 4.0
    assert "up to date" in qat(tmp_path, sensitivity=settings, ptq_only=True).stdout


def test_another_budget_keeps_the_measurement_and_replaces_the_plan(sensitivity: Stage, tmp_path: Path) -> None:
    assert sensitivity(tmp_path, sensitivity__budget=3.0).exit_code == 0
    before, plan = (tmp_path / SENSITIVITY).stat().st_mtime_ns, (tmp_path / PLAN).read_text()
    result = sensitivity(tmp_path, sensitivity__budget=6.0)
    assert result.exit_code == 0
    assert "sensitivity is up to date" in result.stdout
    assert (tmp_path / SENSITIVITY).stat().st_mtime_ns == before
    assert (tmp_path / PLAN).read_text() != plan
    assert sensitivity(tmp_path).exit_code == 0
    assert not (tmp_path / PLAN).exists(), "a plan for a target that was not asked for"


def test_another_measurement_in_the_same_folder_is_refused_and_named(sensitivity: Stage, measured: Path) -> None:
    line = one_line(sensitivity(measured, sensitivity__images=1), ExitCode.BAD_INPUT)
    assert "images: 2 → 1" in line
    assert "--overwrite" in line
    assert (measured / PLAN).exists()


def test_a_looser_drop_never_takes_more_bits(sensitivity: Stage, tmp_path: Path) -> None:
    means = []
    for max_drop in (0.9, 0.2):
        assert sensitivity(tmp_path, sensitivity__max_drop=max_drop).exit_code == 0
        plan = yaml.safe_load((tmp_path / PLAN).read_text())["bits"]["layers"]
        means.append(mean_bits(SensitivityReport.read(tmp_path / SENSITIVITY).layers, plan))
    assert means[0] <= means[1]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"sensitivity__budget": 2.0}, "is the lowest mean that can be planned"),
        ({"sensitivity__budget": 1.0}, "sensitivity.budget: got 1.0"),
        ({"sensitivity__budget": 4.0, "sensitivity__max_drop": 0.1}, "are both set"),
        ({"sensitivity__max_drop": 1.5}, "sensitivity.max_drop: got 1.5"),
        ({"sensitivity__candidates": [1, 8]}, "got 1, should be greater than or equal to 2"),
        ({"sensitivity__candidates": []}, "sensitivity.candidates"),
        ({"sensitivity__candidates": [4, 4]}, "4 is there twice"),
        ({"sensitivity__budget": 4.0, "bits__layers": {"model.4.cv2.conv": 4}}, "bits.layers is a plan already"),
    ],
)
def test_a_target_that_cannot_be_is_one_line(
    sensitivity: Stage, measured: Path, settings: dict[str, Any], named: str
) -> None:
    assert named in one_line(sensitivity(measured, **settings), ExitCode.BAD_INPUT)


@pytest.mark.parametrize(
    ("layers", "named"),
    [
        ({"model.4.cv2.conw": 4}, "no layer 'model.4.cv2.conw'; did you mean 'model.4.cv2.conv'?"),
        ({"backbone": 4}, "its layers are named like"),
        ({"model.13.dfl.conv": 4}, "the deploy policy decides about 'model.13.dfl.conv' itself"),
        ({"model.0.conv": 4}, "the deploy policy decides about 'model.0.conv' itself"),
        ({"model.4.cv2.conv": 1}, "got 1, should be greater than or equal to 2"),
        ({"model.4.cv2.conv": 99}, "got 99, should be less than or equal to 8"),
    ],
)
def test_a_hostile_plan_is_one_line_and_writes_no_student(
    qat: Stage, tmp_path: Path, layers: dict[str, int], named: str
) -> None:
    assert named in one_line(qat(tmp_path / "student", bits__layers=layers), ExitCode.BAD_INPUT, "qat")
    assert not (tmp_path / "student").exists()


def test_without_a_target_the_measurement_is_all_that_is_written(sensitivity: Stage, tmp_path: Path) -> None:
    assert sensitivity(tmp_path, sensitivity__candidates=[8]).exit_code == 0
    assert [path.name for path in tmp_path.iterdir()] == [SENSITIVITY]


def test_a_missing_set_is_bad_input(sensitivity: Stage, tmp_path: Path) -> None:
    assert "run synth" in one_line(sensitivity(tmp_path, folder=tmp_path / "none"), ExitCode.BAD_INPUT)
