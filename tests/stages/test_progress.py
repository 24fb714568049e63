"""What a stage reports: foreign text cannot act on a terminal, and a reader that is gone stops no work."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from schemas.errors import InputError, VerificationError
from stages.progress import Reporter
from stages.stage import run_stage

FOREIGN = ["[/x]", "[red]a[/red]", "\x1b]0;pwned\x07", "a\nzsq: forged", "\u202eabc", "x" * 100_000, "http://u:pw@h/x"]
WORK = """
import sys
from pathlib import Path
from stages.stage import run_stage
with run_stage("set pull") as stage:
    for _ in stage.reporter.track(range(3), "pull"):
        stage.reporter.message("one more")
    stage.reporter.table("Pulled", ("", ""), [("at", "here")])
    Path(sys.argv[1]).write_text("finished")
"""


@pytest.mark.parametrize("text", FOREIGN)
@pytest.mark.parametrize("terminal", [True, False])
def test_foreign_text_is_shown_as_text(text: str, terminal: bool, capsys: pytest.CaptureFixture[str]) -> None:
    reporter = Reporter("set inspect", terminal)
    reporter.message(f"class {text}")
    reporter.error(f"class {text}")
    reporter.table(f"Table {text}", ("", text), [(text, text)])
    out, err = capsys.readouterr()
    assert err.count("\n") == 1 and len(err) < 5000
    for line in (out + err).splitlines():
        assert line.isprintable()
        assert "pw@" not in line
    if text.startswith("["):
        assert out.count(text) >= 3


def test_events_are_json_on_a_line_each(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter("qat", terminal=False).message("a\nb", path="c\nd")
    assert json.loads(capsys.readouterr().out)["path"] == "c\nd"


@pytest.mark.parametrize("output", ["closed", "full", "nobody reads"])
def test_work_goes_on_without_standard_output(tmp_path: Path, output: str) -> None:
    redirection = {"closed": ">&-", "full": ">/dev/full", "nobody reads": "| true"}[output]
    command = f'"$0" -c "$1" "$2" {redirection}'
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}", sys.executable, WORK, str(tmp_path / "done")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (tmp_path / "done").read_text() == "finished"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr
    assert done.returncode == 0


def test_what_was_asked_for_and_cannot_be_written_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with open("/dev/full", "w", encoding="utf-8") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with pytest.raises(InputError, match="standard output cannot be written"):
            Reporter("set inspect").output("the manifest")


def test_an_error_is_a_json_line_too_with_run_rank_and_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ZSQ_RUN", "w4a8")
    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit), run_stage("qat"):
        raise VerificationError("damaged")
    out, err = capsys.readouterr()
    event = json.loads(out)
    assert (event["event"], event["text"], event["exit_code"]) == ("error", "damaged", 3)
    assert (event["stage"], event["run"], event["rank"]) == ("qat", "w4a8", 3)
    assert err == "zsq qat: damaged\n"


def test_on_a_terminal_an_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Reporter("qat", terminal=True).error("damaged", 3)
    assert capsys.readouterr() == ("", "zsq qat: damaged\n")


def test_the_time_left_is_that_of_the_whole_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = [0.0]
    monkeypatch.setattr("stages.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("stages.progress.EVENT_INTERVAL_S", 0.0)
    reporter = Reporter("synth", terminal=False)
    reporter.plan([1.0, 3.0], after=4.0)
    for task, seconds in (("labels", 5.0), ("inversion", 15.0), ("not planned", 1.0)):
        for _ in reporter.track(range(2), task):
            clock[0] += seconds
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["stage_seconds_left"] for event in events] == [75.0, 70.0, 55.0, 40.0, None, None]
    assert events[0]["seconds_left"] == 5.0
