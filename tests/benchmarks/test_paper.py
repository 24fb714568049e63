import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from benchmarks.jobs import precision_by_method
from benchmarks.paper import runs
from benchmarks.paper.__main__ import main
from benchmarks.paper.estimate import Seconds, hours
from benchmarks.paper.rows import BITS, Detector, Row, chosen_rows, published_detectors
from benchmarks.paper.runs import Size, row_commands, run_rows
from detectors.embedded import WEIGHTS
from detectors.embedded.scenes import CLASS_NAMES
from detectors.ultralytics.yolo import UltralyticsDetector
from pipeline import conductor
from pipeline.conductor import EXECUTORS
from pipeline.docker_executor import mounts
from pipeline.executor_names import ExecutorName
from pipeline.plan import StageCommand
from pipeline.preflight.checks import examine
from schemas.errors import ConfigError, ExitCode
from schemas.evaluation import EvalReport
from schemas.image_size import ImageSize
from schemas.run_config import RunConfig
from schemas.student import StudentManifest
from stages.stage import Stage
from tests.benchmarks.test_paper_table import lines_of

ROOT = Path(__file__).resolve().parents[2]
EMBEDDED = Detector("embedded", "embedded", None)
LITTLE = {
    "synth.shard_size": 2, "synth.held_back": 2, "synth.labels.size": 64, "synth.labels.iterations": 10,
    "synth.labels.warm_up": 1, "synth.labels.interval": 5, "synth.inversion.iterations": 4, "qat.batch": 2,
}  # fmt: skip


def row(bits: str) -> Row:
    return Row(EMBEDDED, bits)


def config(bits: str, storage: Path, **changes: object) -> RunConfig:
    size = Size(4, 96, 2, tuple(f"{key}={value}" for key, value in (LITTLE | changes).items()))
    return size.config(row(bits), "embedded", None, storage)


def test_the_rows_are_three_students_of_each_detector_of_the_paper() -> None:
    rows = chosen_rows([])
    assert [each.name for each in rows[:4]] == ["yolo11s:w8a8", "yolo11s:w6a6", "yolo11s:w4a8", "yolo11m:w8a8"]
    assert len(rows) == 3 * len(published_detectors()) == 21


def test_rows_are_named_by_detector_bits_or_file(tmp_path: Path) -> None:
    (tmp_path / "best.pt").write_bytes(b"")
    own = str(tmp_path / "best.pt")
    rows = chosen_rows(["maskrcnn:W4A8", "yolov5s", f"{own}:w6a6", "yolov5s:w8a8"])
    assert [each.name for each in rows] == [
        "maskrcnn:w4a8", "yolov5s:w8a8", "yolov5s:w6a6", "yolov5s:w4a8", "best:w6a6",
    ]  # fmt: skip
    assert (rows[-1].detector.checkpoint, rows[-1].detector.published) == (own, None)


@pytest.mark.parametrize("name", ["yolo11x", "yolo11s:w4a4", "gone.pt"])
def test_a_row_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        chosen_rows([name])


def test_a_row_is_made_with_the_numbers_of_the_paper(tmp_path: Path) -> None:
    made = Size(2048, 640, 512).config(row("w4a8"), "embedded", tmp_path, tmp_path)
    assert (made.synth.images, made.synth.image_size, made.eval.image_size) == (2048, *[ImageSize(640, 640)] * 2)
    assert (made.qat.bits.weight_bits, made.qat.bits.activation_bits, made.qat.steps) == (4, 8, 512)
    assert made.eval.data == str(tmp_path)
    assert not made.qat.targets and made.eval.onnx.models == "none"


def test_rows_of_a_detector_share_the_set_and_nothing_else(tmp_path: Path) -> None:
    plans = {bits: row_commands(config(bits, tmp_path), bits) for bits in BITS}
    assert len({plan[0].output for plan in plans.values()}) == 1
    written = [path for plan in plans.values() for each in plan[1:] for path in (each.output, each.config_path)]
    assert len(set(written)) == 12 and all(path.is_relative_to(tmp_path) for path in written)
    _, qat, judge = plans["w6a6"]
    student = str(tmp_path / "w6a6" / "student")
    assert qat.arguments == (
        "--config", str(tmp_path / "w6a6" / "config" / "qat.yaml"), "--calibration-set", str(tmp_path / "calibration"),
        "--output", student,
    )  # fmt: skip
    assert judge.arguments[2:4] == ("--student", student)
    assert judge.arguments[-1] == str(judge.output) == str(tmp_path / "w6a6" / "eval")


def test_a_container_of_a_row_sees_all_of_its_detector_and_writes_its_own_folder_alone(tmp_path: Path) -> None:
    storage = Path("/srv/paper/embedded")
    _, qat, _ = row_commands(config("w4a8", storage), "w4a8")
    bound = {mount["Target"]: mount["ReadOnly"] for mount in mounts(qat)}
    assert bound == {str(storage): True, str(storage / "w4a8" / "student"): False}


class Ends:
    """An executor whose stages end as they are told to."""

    def __init__(self, codes: dict[tuple[str, str], int]) -> None:
        self.codes, self.started = codes, []  # type: ignore[var-annotated]

    def run(self, command: StageCommand) -> int:
        bits = command.output.parent.name if command.stage != "synth" else ""
        self.started.append((command.stage, bits))
        return self.codes.get((command.stage, bits), 0)


@pytest.fixture
def ending(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[tuple[str, str], int]], Ends]:
    def prepare(codes: dict[tuple[str, str], int]) -> Ends:
        monkeypatch.setattr(runs, "checked", lambda *_, **__: None)
        return Ends(codes)

    return prepare


def test_a_row_that_fails_does_not_keep_the_next_ones_from_being_made(ending: Any, tmp_path: Path) -> None:
    executor, done = ending({("qat", "w8a8"): ExitCode.BAD_INPUT}), []
    configs = {row(bits): config(bits, tmp_path) for bits in ("w8a8", "w4a8")}

    code = run_rows(configs, ExecutorName.LOCAL, executor, Stage("test"), lambda: done.append(len(executor.started)))

    assert code == ExitCode.BAD_INPUT
    assert executor.started == [("synth", ""), ("qat", "w8a8"), ("synth", ""), ("qat", "w4a8"), ("eval", "w4a8")]
    assert done == [5], "the table is written for the finished row alone"


def test_a_stop_stops_all_rows(ending: Any, tmp_path: Path) -> None:
    executor = ending({("synth", ""): ExitCode.STOPPED})
    configs = {row(bits): config(bits, tmp_path) for bits in BITS}
    assert run_rows(configs, ExecutorName.LOCAL, executor, Stage("test"), lambda: None) == ExitCode.STOPPED
    assert executor.started == [("synth", "")]


@pytest.fixture
def best(tmp_path: Path) -> Path:
    """A checkpoint of one's own: the embedded detector, as the ultralytics package would have saved it."""
    network = UltralyticsDetector.embedded(WEIGHTS).network
    network.names = dict(enumerate(CLASS_NAMES))
    torch.save({"model": network, "train_args": {"imgsz": 160}}, tmp_path / "best.pt")
    return tmp_path / "best.pt"


def check_made(work: Path, images: int) -> None:
    """The only row of the table holds what the documents of a finished row say."""
    report = EvalReport.read(work / "best" / "w4a8" / "eval" / "report.json")
    student = StudentManifest.read(work / "best" / "w4a8" / "student" / "student.json")
    assert (report.data.images, report.data.format, student.training.steps) == (images, "coco", 2)
    found = precision_by_method(report)
    assert found["full_precision"] and found["ptq"] is not None
    (cells,) = lines_of(work / "table.md")
    assert cells[:2] == ["best", "W4A8"]
    assert cells[5:8] == ["" if value is None else f"{100 * value:.1f}" for value in found.values()]
    assert cells[9].startswith("W4A8 deploy; 4 images of 96 px, 2 steps; ")
    assert cells[8].endswith("% †")


class InProcess:
    """Runs the entry point of each stage in this process, which spares the start of three others."""

    def run(self, command: StageCommand) -> int:
        app = typer.Typer()
        app.command()(importlib.import_module(f"{command.module}.__main__").main)
        result = CliRunner().invoke(app, list(command.arguments))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXECUTORS, ExecutorName.LOCAL, InProcess)
    monkeypatch.setattr(conductor, "preflight", examine)


def make(**options: Any) -> int:
    """The exit code of the command."""
    assignments = [f"{key}={value}" for key, value in LITTLE.items()]
    try:
        main(images=4, size=96, steps=2, assignments=assignments, **options)
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


@pytest.mark.usefixtures("in_process")
def test_a_row_is_made_from_what_is_fetched_and_goes_on_after_a_stop(
    small_coco: Any, best: Path, tmp_path: Path
) -> None:
    work, first = tmp_path / "work", tmp_path / "work" / "best" / "calibration" / "calib-000000.tar"
    options = {"rows": [f"{best}:w4a8"], "sources": small_coco.sources, "work": work}

    def stop() -> None:
        while not first.exists():
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop, daemon=True).start()
    assert make(**options) == ExitCode.STOPPED
    assert lines_of(work / "table.md")[0][5] == "not made yet"
    made = first.stat().st_mtime_ns

    assert make(**options) == ExitCode.DONE
    assert first.stat().st_mtime_ns == made, "a finished shard is not made again"
    assert len(small_coco.asked) == 2, "what was fetched is not fetched again"
    check_made(work, small_coco.images)


def test_a_setting_that_is_wrong_is_refused_before_anything_is_fetched(
    small_coco: Any, best: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(rows=[str(best)], sources=small_coco.sources, work=tmp_path, assignments=["qat.stepz=2"])
    assert ended.value.code == ExitCode.BAD_INPUT
    assert "stepz" in capsys.readouterr().err
    assert small_coco.asked == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_same_by_processes_that_are_stopped_as_a_person_would(small_coco: Any, best: Path, tmp_path: Path) -> None:
    work, first = tmp_path / "work", tmp_path / "work" / "best" / "calibration" / "calib-000000.tar"
    little = [part for key, value in LITTLE.items() for part in ("--set", f"{key}={value}")]
    sizes = ("--images", "4", "--size", "96", "--steps", "2")
    start = [sys.executable, "-m", "benchmarks.paper", f"{best}:w4a8", "--sources", str(small_coco.sources)]
    command = [*start, "--work", str(work), *sizes, *little]

    stopped = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    while not first.exists() and stopped.poll() is None:
        time.sleep(0.05)
    stopped.terminate()
    output, _ = stopped.communicate()
    assert stopped.returncode == ExitCode.STOPPED, output
    made = first.stat().st_mtime_ns

    again = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert again.returncode == ExitCode.DONE, again.stderr
    assert first.stat().st_mtime_ns == made
    assert len(small_coco.asked) == 2
    check_made(work, small_coco.images)


def test_an_estimate_has_hours_of_each_row_and_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make(rows=["embedded:w8a8", "embedded:w4a8"], work=tmp_path, estimate=True) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (table,) = [each for each in events if each["event"] == "table"]
    assert [cells[0] for cells in table["rows"]] == ["embedded:w8a8", "embedded:w4a8", "all rows"]
    assert "Not in it" in events[-1]["text"]
    assert not (tmp_path / "table.md").exists(), "nothing was made"


def test_hours_add_up_over_stages_and_rows() -> None:
    seconds = Seconds(calibration_set=3600.0, step=2.0, prepared=60.0, evaluation=540.0)
    assert seconds.of_row(1500) == 3600.0
    configs = {row(bits): config(bits, Path("unused"), **{"qat.steps": 1500}) for bits in ("w8a8", "w4a8")}
    assert hours(configs, {EMBEDDED: seconds}) == [
        ["embedded:w8a8", "1", "1", "2"], ["embedded:w4a8", "0", "1", "1"],
        ["all rows", "", "", "3"],
    ]  # fmt: skip
