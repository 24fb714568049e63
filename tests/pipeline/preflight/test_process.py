"""The checks as `zsq run` starts them: before anything else, in a process of their own."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli import app
from pipeline.preflight.process import preflight
from pipeline.settings import read_run_config
from schemas.errors import InputError


def zsq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_on_the_wrong_classes_is_refused_before_anything_is_made(tmp_path: Path, real_teacher: Path) -> None:
    before = _seconds_computed()
    finished = zsq("run", real_teacher, "--output", tmp_path / "out", "--data", "embedded")
    assert finished.returncode == 2
    assert finished.stderr.count("\n") == 1
    assert "the scenes show classes that the teacher does not know" in finished.stderr
    assert not (tmp_path / "out").exists()
    assert _seconds_computed() - before < 40, "on an idle machine a third of it: importing torch"


def test_a_dry_run_says_what_and_how_long(tmp_path: Path) -> None:
    finished = zsq("run", "--dry-run", "--storage", tmp_path / "out", "--set", "image_size=64")
    assert finished.returncode == 0, finished.stderr
    assert "# detector: embedded: ultralytics, 8 classes" in finished.stdout
    assert "# time: about " in finished.stdout
    assert not (tmp_path / "out").exists()


def test_a_refusal_does_not_wait_for_pytorch_s_compiler(tmp_path: Path) -> None:
    """torchvision loads it, which takes longer than all else that a refusal of a detector's settings needs."""
    settings = tmp_path / "run.json"
    settings.write_text(read_run_config(None, ["image_size=100"]).to_json(), encoding="utf-8")
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from pipeline.preflight.__main__ import main\n"
        f"try: main(Path({str(settings)!r}), Path({str(tmp_path / 'findings.json')!r}))\n"
        "finally: print(*({'torch', 'torchvision', 'torch._dynamo'} & sys.modules.keys()))\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert "100" in finished.stderr and finished.stdout.splitlines()[-1] == "torch", finished.stdout


def test_what_is_refused_reads_as_the_run_s_own_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    config = read_run_config(None, [f"eval.photos={tmp_path / 'empty'}"])
    with pytest.raises(InputError, match=r"^photos .*: no image in this folder"):
        preflight(config, containers=False)


def test_a_finished_run_is_not_checked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []

    class Recording:
        def run(self, command: object) -> int:
            ran.append(getattr(command, "stage"))  # noqa: B009
            return 0

    monkeypatch.setattr("pipeline.conductor.EXECUTORS", {"local": Recording})
    monkeypatch.setattr("pipeline.conductor.preflight", lambda *_, **__: pytest.fail("checked again"))
    monkeypatch.setattr("pipeline.conductor.write_thresholds", lambda *_: None)  # of files that are empty here
    monkeypatch.setattr("pipeline.conductor.finished_stages", lambda *_: ("synth", "qat", "eval"))
    assert CliRunner().invoke(app, ["run", "--storage", str(tmp_path)]).exit_code == 0
    assert ran == ["synth", "qat", "eval"]


def _seconds_computed() -> float:
    """Processor time of the processes that this one started and that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
