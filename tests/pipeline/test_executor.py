import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.executor import run_stages
from pipeline.local_executor import FORWARDED, run_process
from pipeline.plan import StageCommand, plan_stages
from schemas.errors import Stopped
from schemas.run_config import RunConfig
from stages.stage import Stage

COMMANDS = plan_stages(RunConfig(storage="out"))

SUCCEEDING_JOB = "import sys\nprint(__name__, *sys.argv[1:], flush=True)\n"
FAILING_JOB = "import sys\nprint('zsq qat: this is why', file=sys.stderr)\nsys.exit(3)\n"
WAITING_JOB = """
import signal, sys, time
from pathlib import Path
received = []
signal.signal(signal.SIGTERM, lambda *_: received.append(143))
signal.signal(signal.SIGINT, lambda *_: received.append(130))
Path("ready").touch()
while not received:
    time.sleep(0.02)
time.sleep(0.3)  # the current step; a second signal would be counted
Path("saved").write_text(str(received))
sys.exit(received[0])
"""


@pytest.fixture(autouse=True)
def stand_in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class ScriptedExecutor:
    def __init__(self, codes: dict[str, int]) -> None:
        self.codes = codes
        self.ran: list[str] = []

    def run(self, command: StageCommand) -> int:
        self.ran.append(command.stage)
        return self.codes.get(command.stage, 0)


@pytest.fixture
def fake_jobs(tmp_path: Path) -> Path:
    """A folder in which each job's entry point is replaced by one that only prints its arguments."""
    for name in ("synth_job", "qat_job", "eval_job"):
        (tmp_path / "jobs" / name).mkdir(parents=True)
        rest = "from pkgutil import extend_path\n\n__path__ = extend_path(__path__, __name__)\n"
        (tmp_path / "jobs" / name / "__init__.py").write_text(rest)
        (tmp_path / "jobs" / name / "__main__.py").write_text(SUCCEEDING_JOB)
    return tmp_path / "jobs"


def start_zsq(fake_jobs: Path, *arguments: str, checks: bool = False) -> subprocess.Popen[str]:
    """Start `zsq`; a run leaves its checks out, which take seconds, unless `checks`."""
    unchecked = "" if checks else "import pipeline.conductor as conductor; conductor.checked = lambda *_: None; "
    return subprocess.Popen(
        [sys.executable, "-c", unchecked + "from pipeline.cli import app; app()", *arguments],
        cwd=fake_jobs.parent,
        env=os.environ | {"PYTHONPATH": str(fake_jobs)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(path: Path) -> None:
    for _ in range(3000):
        if path.exists():
            return
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


def test_all_stages_run_in_order():
    executor = ScriptedExecutor({})
    assert run_stages(COMMANDS, executor, Stage("run")) == 0
    assert executor.ran == ["synth", "qat", "eval"]


@pytest.mark.parametrize(
    ("code", "hint"),
    [
        (1, "a bug"),
        (2, "bad configuration or input"),
        (3, "failed verification"),
        (137, "lack of memory: lower qat's batch"),
        (77, "see above"),
        (143, "stopped during qat; run the same command"),
        (130, "stopped during qat; run the same command"),
    ],
)
def test_the_first_failure_stops_the_run_and_gives_its_code_and_a_way_on(code, hint, capsys):
    executor = ScriptedExecutor({"qat": code})
    assert run_stages(COMMANDS, executor, Stage("run")) == code
    assert executor.ran == ["synth", "qat"]
    error = capsys.readouterr().err
    assert hint in error and error.count("\n") == 1


def test_a_run_that_is_refused_at_its_first_stage_leaves_the_settings_of_later_ones_alone():
    assert run_stages(COMMANDS, ScriptedExecutor({"synth": 2}), Stage("run")) == 2
    assert [path.name for path in COMMANDS[0].config_path.parent.iterdir()] == ["synth.yaml"]


def test_a_stop_request_between_stages_starts_no_other():
    executor, run = ScriptedExecutor({}), Stage("run")
    run.request_stop()
    with pytest.raises(Stopped):
        run_stages(COMMANDS, executor, run)
    assert executor.ran == []


@pytest.mark.parametrize("code", [0, 1, 2, 3, 143])
def test_the_exit_code_of_a_process_comes_back(code):
    assert run_process([sys.executable, "-c", f"import sys; sys.exit({code})"]) == code


def test_a_process_killed_by_a_signal_gives_128_plus_its_number():
    assert run_process([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


def test_signal_handlers_are_put_back():
    before = [signal.getsignal(signum) for signum in FORWARDED]
    run_process([sys.executable, "-c", ""])
    assert [signal.getsignal(signum) for signum in FORWARDED] == before


def test_a_run_starts_each_job_as_its_own_process(fake_jobs):
    run = start_zsq(fake_jobs, "run", "--storage", "out", checks=True)
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert [line for line in output.splitlines() if line.startswith("__main__")] == [
        "__main__ --config out/config/synth.yaml --output out/calibration",
        "__main__ --config out/config/qat.yaml --calibration-set out/calibration --output out/student",
        "__main__ --config out/config/eval.yaml --student out/student --calibration-set out/calibration "
        "--output out/eval",
    ]


def test_a_failing_job_ends_the_run_with_its_code(fake_jobs):
    (fake_jobs / "qat_job" / "__main__.py").write_text(FAILING_JOB)
    run = start_zsq(fake_jobs, "run", "--storage", "out")
    output, errors = run.communicate(timeout=120)
    assert run.returncode == 3
    first, second = errors.splitlines()
    assert first == "zsq qat: this is why"
    assert second.startswith("zsq run: stage qat failed with exit code 3")
    assert "zsq qat --config out/config/qat.yaml" in second
    assert "__main__ --config out/config/eval.yaml" not in output


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("arguments", [("run", "--storage", "out"), ("synth", "--output", "out")], ids=["run", "alone"])
def test_a_signal_reaches_the_job_once_and_the_job_may_finish_its_step(fake_jobs, signum, code, arguments):
    (fake_jobs / "synth_job" / "__main__.py").write_text(WAITING_JOB)
    run = start_zsq(fake_jobs, *arguments)
    wait_for(fake_jobs.parent / "ready")
    run.send_signal(signum)
    output, errors = run.communicate(timeout=30)
    assert run.returncode == code, errors
    assert (fake_jobs.parent / "saved").read_text() == f"[{code}]"
    assert "Traceback" not in errors
    assert "__main__" not in output  # no other stage was started


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent death signal is Linux only")
def test_a_job_whose_run_was_killed_saves_and_ends_too(fake_jobs):
    (fake_jobs / "synth_job" / "__main__.py").write_text(WAITING_JOB)
    run = start_zsq(fake_jobs, "run", "--storage", "out")
    wait_for(fake_jobs.parent / "ready")
    run.kill()
    run.communicate(timeout=30)  # ends when the job has closed its output
    assert (fake_jobs.parent / "saved").read_text() == "[143]"


def test_a_folder_named_like_ours_where_the_user_stands_is_not_imported(fake_jobs):
    (fake_jobs.parent / "synth_job.py").write_text("raise SystemExit(99)")
    run = start_zsq(fake_jobs, "synth", "--output", "out", checks=True)
    output, _ = run.communicate(timeout=30)
    assert run.returncode == 0
    assert output.startswith("__main__ --output out")
