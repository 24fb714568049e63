"""`pipeline.run` is `zsq run` for Python."""

from pathlib import Path
from typing import Any

import pytest

import pipeline
from pipeline.api import result_of
from pipeline.executor_names import ExecutorName
from schemas.calibration_set import MANIFEST
from schemas.errors import ConfigError, InputError, Stopped
from schemas.evaluation import Measure
from schemas.run_config import RunConfig
from schemas.target import Target, exported_path
from tests.pipeline.test_end_to_end import SMALLEST


def test_the_same_settings_reach_the_run_and_its_failure_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def conduct(
        config: RunConfig, executor: ExecutorName, overwrite: bool, stage: object, max_drop: float | None
    ) -> int:
        asked.append((config, executor, overwrite))
        return 143

    monkeypatch.setattr("pipeline.api.conduct", conduct)
    with pytest.raises(Stopped, match="exit code 143"):
        pipeline.run("best.pt", bits="w4a8", images=4, output="o", settings={"qat.steps": 7}, executor="docker")
    ((config, executor, overwrite),) = asked
    assert (config.qat.bits.weight_bits, config.synth.images, config.storage, config.qat.steps) == (4, 4, "o", 7)
    assert (executor, overwrite) == (ExecutorName.DOCKER, False)


def test_what_is_wrong_is_an_exception_and_not_an_exit(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="as in w8a8"):
        pipeline.run("best.pt", bits="int8")
    with pytest.raises(InputError, match="does not exist"):
        pipeline.run(tmp_path / "none.pt")


def test_options_that_contradict_each_other_are_refused_as_on_the_command_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"max-drop: got 1, and qat.sensitivity.budget .* is 4.5 as well"):
        pipeline.run(output=tmp_path / "run", budget=4.5, max_drop=1)
    with pytest.raises(ConfigError, match=r"w4a8 asks for 4 weight bits, but budget 4.5"):
        pipeline.run(output=tmp_path / "run", bits="w4a8", budget=4.5)
    with pytest.raises(ConfigError, match=r"synth.images: is set to 16, but the command asks for 8"):
        pipeline.run(output=tmp_path / "run", images=8, settings={"synth.images": 16})
    with pytest.raises(ConfigError, match="max-drop: got -1; write points"):
        pipeline.run(output=tmp_path / "run", max_drop=-1)
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_every_target_are_exported_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for document in ("CalibrationSetManifest", "StudentManifest", "EvalReport"):
        monkeypatch.setattr(f"pipeline.api.{document}.read", lambda path: path)
    (tmp_path / "student").mkdir()
    files = [exported_path(tmp_path / "student", target) for target in Target]
    for file in files:
        file.touch()
    assert result_of(tmp_path).exported == tuple(files)
    files[0].unlink()
    assert result_of(tmp_path).exported == tuple(files[1:])


@pytest.mark.slow
def test_a_run_from_python_gives_paths_and_figures(tmp_path: Path, real_teacher: Path, coco_val: Path) -> None:
    settings = {key: value for key, value in SMALLEST.items() if key not in ("image_size", "synth.images", "qat.steps")}
    made = pipeline.run(
        real_teacher, bits="w8a8", images=2, size=96, photos=coco_val / "images", output=tmp_path / "run",
        settings=settings | {"synth.held_back": 2, "eval.samples": 1, "qat.steps": "auto"},
    )  # fmt: skip
    assert made.folder == tmp_path / "run"
    assert made.report.is_file() and (made.calibration_set / "held-back" / MANIFEST).is_file()
    assert {path.name for path in made.exported} == {"model.onnxruntime.onnx", "model.openvino.onnx"}
    assert made.set_manifest.samples == 2
    assert made.student_manifest.training.decision is not None
    assert made.evaluation.measure is Measure.AGREEMENT
    assert (made.evaluation.data.format, made.evaluation.data.images) == ("photos", 128)
    assert made.evaluation.models[0].precision.map50_95 == pytest.approx(1, abs=1e-3)
