"""Several runs on one page."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval_job.report.compare import render, write_comparison
from eval_job.report.runs import Run, differences, differing_settings, frontier, obstacles, points, read_runs
from schemas.errors import ConfigError, InputError
from schemas.evaluation import EvalReport
from stages.storage import write_text
from tests.eval_job.report.test_page import text_of


def varied(report: EvalReport, shift: float) -> EvalReport:
    """The same evaluation with a headline model that is `shift` better on every resample, give or take."""
    model = report.models[-1]
    assert model.uncertainty is not None
    noise = [0.01 * ((7 * n) % 5 - 2) / 2 for n in range(200)]
    values = tuple(0.45 + 0.05 * ((n * n) % 11 - 5) / 5 + (shift + noise[n] if shift else 0.0) for n in range(200))
    precision = model.precision.model_copy(update={"map50_95": model.precision.map50_95 + shift})
    changed = model.model_copy(
        update={
            "precision": precision,
            "share_of_full_precision": precision.map50_95 / 0.5,
            "uncertainty": model.uncertainty.model_copy(update={"values": values}),
        }
    )
    return report.model_copy(update={"models": (*report.models[:-1], changed)})


@pytest.fixture
def runs(exported: EvalReport) -> list[Run]:
    return [
        Run("a", varied(exported, 0.0), {"qat.bits.weight_bits": 8, "qat.seed": 0}),
        Run("b", varied(exported, 0.03), {"qat.bits.weight_bits": 4, "qat.seed": 0}),
    ]


def test_the_frontier_is_what_nothing_beats() -> None:
    assert frontier([3, 1, 2, 4], [90, 70, 60, 95]) == [1, 0, 3]
    assert frontier([1, 1], [50, 60]) == [1]
    assert frontier([], []) == []


def test_pairs_tell_apart_what_single_intervals_do_not(runs: list[Run]) -> None:
    (found,) = differences(runs)
    assert found.change == pytest.approx(0.03)
    assert found.low is not None and found.high is not None and 0 < found.low < 0.03 < found.high
    one, two = (run.report.models[-1].uncertainty for run in runs)
    assert one is not None and two is not None and one.map50_95.high > two.map50_95.low - 0.03  # they overlap


def test_other_images_make_no_pairs_and_are_said(runs: list[Run]) -> None:
    report = runs[1].report
    other = report.model_copy(update={"data": report.data.model_copy(update={"digest": "e" * 64})})
    changed = [runs[0], Run("b", other, {})]
    assert differences(changed)[0].low is None
    assert obstacles(runs) == []
    assert "b were measured on other images" in obstacles(changed)[0]
    assert "no pairs: other images" in text_of(render(changed))


def test_settings_that_differ_are_shown_and_others_are_not(runs: list[Run]) -> None:
    assert differing_settings(runs) == [("qat.bits.weight_bits", ["8", "4"])]
    text = text_of(render(runs))
    assert "qat.bits.weight_bits 8 4" in text and "qat.seed" not in text


def test_the_page_has_both_plots_and_is_the_same_every_time(runs: list[Run]) -> None:
    html = render(runs)
    text = text_of(html)
    assert "Share kept over milliseconds an image" in text and "Share kept over megabytes of the file" in text
    assert [point.milliseconds for point in points(runs)] == [8.5, 8.5]
    assert "b +0.030 +0.0" in text and "better" in text
    assert html == render(runs) and "<script" not in html and "http" not in html.replace("http-equiv", "")


def test_runs_are_read_from_storage_and_from_evaluations(run: Any, exported: EvalReport, tmp_path: Path) -> None:
    write_text(tmp_path / "other" / "eval" / "report.json", varied(exported, 0.01).to_json())
    found = read_runs([tmp_path, tmp_path / "other", run.evaluation])
    assert len({each.name for each in found}) == 3
    assert found[0].settings["qat.bits.weight_bits"] == 4 and found[0].settings["synth.seed"] == 7
    write_comparison([tmp_path, tmp_path / "other"], tmp_path / "compare.html")
    assert "synth.seed" in (tmp_path / "compare.html").read_text()  # which the other folder does not say


def test_what_makes_no_comparison_is_refused(run: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got 1 folders, takes 2"):
        read_runs([run.evaluation])
    with pytest.raises(ConfigError, match="named twice"):
        read_runs([run.evaluation, run.evaluation])
    with pytest.raises(InputError, match="no finished evaluation here"):
        read_runs([run.evaluation, tmp_path / "nothing"])


def test_a_comparison_loads_no_torch() -> None:
    code = "import sys; import eval_job.report.compare, pipeline.report_commands; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
