"""The fewest bits that hold are found, what was tried is written down, and what no student holds is said."""

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline import smallest
from pipeline.conductor import checked
from pipeline.executor_names import ExecutorName
from pipeline.plan import StageCommand
from pipeline.preflight.findings import Findings, described
from pipeline.smallest import LADDER, Search, check_search
from schemas.errors import ConfigError, ExitCode
from schemas.evaluation import Measure
from schemas.planned_bits import SensitivityConfig
from schemas.qat_config import BitPolicy, QatConfig
from schemas.run_config import RunConfig
from schemas.search import SEARCH, SearchReport
from schemas.sensitivity import SENSITIVITY
from schemas.target import Target
from stages.stage import Stage

FULL_PRECISION = 0.5


def digest(mean_bits: float) -> str:
    return hashlib.sha256(f"{mean_bits}".encode()).hexdigest()


class FakeStages:
    """Stages that measure nothing: a student at `b` bits loses `losses[b]` points."""

    def __init__(self, losses: dict[float, float], failing: str | None = None) -> None:
        self.losses, self.failing = losses, failing
        self.ran: list[tuple[str, float, bool]] = []
        self.bits: dict[Path, float] = {}

    def run(self, command: StageCommand) -> int:
        if command.stage == "qat":
            config = command.config
            assert isinstance(config, QatConfig)
            bits = config.sensitivity.budget if config.sensitivity else 8.0
            assert bits is not None and config.ptq_only and config.bits.weight_bits == 8
            self.ran.append(("qat", bits, (command.output / SENSITIVITY).exists()))
            command.output.mkdir(parents=True, exist_ok=True)
            if config.sensitivity:
                (command.output / SENSITIVITY).write_text("measured")
            self.bits[command.output] = bits
        return ExitCode.BAD_INPUT if command.stage == self.failing else ExitCode.DONE

    def student(self, manifest: Path) -> Any:
        return SimpleNamespace(weights_sha256=digest(self.bits[manifest.parent]))

    def evaluation(self, report: Path) -> Any:
        bits = self.bits[report.parent.parent / "student"]
        precisions = (("t", FULL_PRECISION), (digest(bits), FULL_PRECISION - self.losses[bits] / 100))
        models = [SimpleNamespace(weights_sha256=name, precision=SimpleNamespace(map50_95=p)) for name, p in precisions]
        return SimpleNamespace(measure=Measure.AGREEMENT, data=SimpleNamespace(digest="images"), models=models)


def search(
    stages: FakeStages,
    max_drop: float,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    targets: tuple[Target, ...] = (),
) -> tuple[int, SearchReport | None]:
    monkeypatch.setattr(smallest, "StudentManifest", SimpleNamespace(read=stages.student))
    monkeypatch.setattr(smallest, "EvalReport", SimpleNamespace(read=stages.evaluation))
    config = RunConfig(storage=str(folder), qat=QatConfig(targets=targets))
    code = Search(config, max_drop, stages, overwrite=False, stage=Stage("run")).run()
    written = folder / "student" / SEARCH
    return code, SearchReport.read(written) if written.exists() else None


@pytest.mark.parametrize("fewest", LADDER)
def test_the_fewest_bits_that_hold_are_kept(fewest: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = FakeStages({bits: 0.5 if bits >= fewest else 5.0 for bits in LADDER})
    code, report = search(stages, 1.0, tmp_path, monkeypatch)
    assert code == ExitCode.DONE
    assert report is not None and report.kept == digest(fewest)
    assert stages.ran[-1][1] == fewest, "the student that is kept is made last, with its files"
    assert len(report.tried) <= 5
    assert [each.holds for each in report.tried] == [each.mean_weight_bits >= fewest for each in report.tried]


def test_bits_that_the_widths_of_an_engine_cannot_give_are_not_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = FakeStages(dict.fromkeys(LADDER, 0.5))
    _, report = search(stages, 1.0, tmp_path, monkeypatch, (Target.ONNXRUNTIME,))
    assert report is not None and report.kept == digest(4.25)
    assert min(each.mean_weight_bits for each in report.tried) == 4.25


def test_layers_are_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = FakeStages({bits: 0.5 if bits >= 4 else 5.0 for bits in LADDER})
    search(stages, 1.0, tmp_path, monkeypatch)
    planned = [there for _, bits, there in stages.ran if bits < 8]
    assert planned == [False, *[True] * (len(planned) - 1)]


def test_where_no_student_holds_the_one_of_eight_bits_is_kept_and_it_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, report = search(FakeStages(dict.fromkeys(LADDER, 2.0)), 1.0, tmp_path, monkeypatch)
    assert code == ExitCode.BAD_INPUT
    assert report is not None and report.kept == digest(8.0) and len(report.tried) == 1
    assert "8 weight bits already lose 2.00 points" in "".join(capsys.readouterr())


def test_a_stage_that_fails_ends_the_search_with_its_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages = FakeStages(dict.fromkeys(LADDER, 0.1), failing="synth")
    assert search(stages, 1.0, tmp_path, monkeypatch) == (ExitCode.BAD_INPUT, None)
    assert stages.ran == []


def test_what_will_be_done_says_that_bits_are_searched_for() -> None:
    findings = Findings(
        family="ultralytics", classes=3, parameters=800_000, image_size=160, own_size=True, labelled_images=None,
        photos=0, seconds={"synth": 60.0, "qat": 30.0, "eval": 10.0}, bytes_needed=1, bytes_free=2,
    )  # fmt: skip
    rows = dict(described(findings, RunConfig(), max_drop=1.5))
    assert rows["student"].startswith("the fewest weight bits that lose at most 1.5 points (A8")
    assert rows["time"].endswith("of one student; several are tried")
    assert "W8A8" in dict(described(findings, RunConfig()))["student"]


def test_a_search_in_containers_is_refused_before_anything_is_looked_at() -> None:
    with pytest.raises(ConfigError, match="leave --executor out"):
        checked(RunConfig(), (), ExecutorName.DOCKER, overwrite=False, max_drop=1.0)


@pytest.mark.parametrize(
    ("qat", "said"),
    [
        (QatConfig(sensitivity=SensitivityConfig(budget=4.5)), "qat.sensitivity.budget (--budget) is 4.5 as well"),
        (QatConfig(sensitivity=SensitivityConfig(max_drop=0.1)), "qat.sensitivity.max_drop is 0.1 as well"),
        (QatConfig(bits=BitPolicy(layers={"model.0.conv": 4})), "qat.bits.layers is a plan for 1 layers as well"),
    ],
)
def test_a_search_beside_another_plan_is_refused_before_anything_is_looked_at(qat: QatConfig, said: str) -> None:
    config = RunConfig(qat=qat)
    with pytest.raises(ConfigError, match=r"^max-drop: got 1.5, and .*: leave one of the two out$") as refused:
        checked(config, (), ExecutorName.LOCAL, overwrite=False, max_drop=1.5)
    assert said in str(refused.value)


def test_a_search_takes_widths_and_images_of_its_measurement() -> None:
    check_search(RunConfig(qat=QatConfig(sensitivity=SensitivityConfig(candidates=(2, 4, 8), images=4))), 1.0)


@pytest.mark.parametrize("max_drop", [0.0, -1.0, 101.0, float("nan"), float("inf")])
def test_a_drop_that_is_no_number_of_points_is_refused(max_drop: float) -> None:
    with pytest.raises(ConfigError, match=r"write points of mAP, 0.01 to 100"):
        check_search(RunConfig(), max_drop)
