import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.errors import ConfigError, InputError, Stopped, VerificationError
from stages.lock import folder_lock
from stages.ranks import Rank
from stages.stage import Stage, run_stage


@pytest.mark.parametrize(
    ("error", "code"),
    [(ConfigError("why"), 2), (InputError("why"), 2), (VerificationError("why"), 3), (Stopped("why"), 143)],
)
def test_an_expected_error_is_one_line_and_its_exit_code(error, code, capsys):
    with pytest.raises(SystemExit) as caught, run_stage("synth"):
        raise error
    assert caught.value.code == code
    assert capsys.readouterr().err == "zsq synth: why\n"


def test_ctrl_c_exits_130(capsys):
    with pytest.raises(SystemExit) as caught, run_stage("synth"):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert "run the same command to go on" in capsys.readouterr().err


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError), run_stage("synth"):
        raise ZeroDivisionError


def test_sigterm_waits_for_the_next_safe_point_then_exits_143():
    before = signal.getsignal(signal.SIGTERM)
    finished = []
    with pytest.raises(SystemExit) as caught, run_stage("synth") as stage:
        stage.stop_here_if_asked()
        os.kill(os.getpid(), signal.SIGTERM)
        finished.append("the current step")
        stage.stop_here_if_asked()
        finished.append("never")
    assert caught.value.code == 143
    assert finished == ["the current step"]
    os.kill(os.getpid(), signal.SIGTERM)  # a second one on the way out does not kill: the exit code stays
    assert before == signal.SIG_DFL


def test_as_a_process_sigterm_exits_143(tmp_path: Path):
    script = (
        "import time\n"
        "from stages.stage import run_stage\n"
        "with run_stage('qat') as stage:\n"
        "    print('ready', flush=True)\n"
        "    while True:\n"
        "        time.sleep(0.02); stage.stop_here_if_asked()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 143
    assert errors == "zsq qat: stopped by SIGTERM; finished work is kept, run the same command to go on\n"


def test_finished_output_is_not_locked(tmp_path: Path):
    with (
        folder_lock(tmp_path, "push", "key", Rank()),
        Stage("synth").claim(tmp_path, "key", Rank(), lambda: True) as wanted,
    ):
        assert not wanted


def test_output_that_was_finished_while_this_one_waited_for_the_lock_is_not_made_again(tmp_path: Path):
    answers = iter([False, True])
    with Stage("synth").claim(tmp_path / "set", "key", Rank(), lambda: next(answers)) as wanted:
        assert not wanted


def test_output_is_this_stage_s_alone_inside_the_block(tmp_path: Path):
    with Stage("synth").claim(tmp_path, "key", Rank(), lambda: False) as wanted:
        assert wanted
        with (
            pytest.raises(InputError, match="written by synth on"),
            Stage("qat").claim(tmp_path, "key", Rank(), lambda: False),
        ):
            pytest.fail("two writers")


def test_a_stage_whose_folder_was_taken_over_stops_at_its_next_safe_point(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("stages.lock.BEAT_S", 0.01)
    stage = Stage("synth")
    with pytest.raises(InputError, match="took this folder over"), stage.claim(tmp_path, "k", Rank(), lambda: False):
        (tmp_path / ".zsq-lock-0").unlink()
        for _ in range(1000):
            stage.require_output()
            stage.stop_here_if_asked()
            time.sleep(0.01)
    assert not stage.stop_asked, "there is nothing to save: the folder is somebody else's"


def test_a_terminal_that_is_gone_stops_a_stage_and_leaves_no_lock(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from stages.ranks import Rank\n"
        "from stages.stage import run_stage\n"
        "with run_stage('qat') as stage, stage.claim(Path(sys.argv[1]), 'key', Rank(), lambda: False):\n"
        "    Path(sys.argv[1], 'ready').touch()\n"
        "    while True:\n"
        "        time.sleep(0.02); stage.stop_here_if_asked()\n"
    )
    hears_it = "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # also where tests run under nohup
    command = [sys.executable, "-c", hears_it + script, str(tmp_path)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGHUP)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "stopped by SIGHUP" in error
    assert [path.name for path in tmp_path.iterdir()] == ["ready"]


def test_what_the_system_says_of_a_path_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, run_stage("set inspect"):
        (tmp_path / ("a" * 300)).stat()
    assert caught.value.code == 2
    assert "File name too long; check the path\n" in capsys.readouterr().err
