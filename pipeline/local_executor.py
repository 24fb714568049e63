"""Stages as child processes of this one."""

import ctypes
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from pipeline.plan import StageCommand
from stages.options import CONFIGURATION_VARIABLES
from stages.progress import RUN_VARIABLE

FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class LocalExecutor:
    """Runs each stage as `python -m <job>` on this machine, with this interpreter."""

    def run(self, command: StageCommand) -> int:
        # What configures the run has reached the stage's file; a stage would read the same variables for itself.
        environment = {name: value for name, value in os.environ.items() if name not in CONFIGURATION_VARIABLES}
        environment[RUN_VARIABLE] = run_name(command.storage)
        return run_job(command.module, command.arguments, environment)


def run_name(storage: Path) -> str:
    """What the lines of a run's stages call it: ZSQ_RUN, or the name of its folder."""
    return os.environ.get(RUN_VARIABLE) or storage.absolute().name


def run_job(module: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a job's entry point as a process of its own; returns its exit code, 128 + n if signal n ended it."""
    # -P: a folder named `schemas` where the user happens to stand is not ours.
    return run_process((sys.executable, "-P", "-m", module, *arguments), environment)


def run_process(command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command to its end on this process's output, passing on SIGTERM, SIGINT and SIGHUP.

    Args:
        command: program and arguments.
        environment: of the child; None for this process's own.

    The child has a process group of its own, so that Ctrl-C reaches it once, through us, and we outlive it. Where we do
    not (SIGKILL), the kernel sends it SIGTERM: it saves its work instead of running on unseen.
    """
    child: subprocess.Popen[bytes] | None = None
    early: list[int] = []

    def forward(signum: int, frame: FrameType | None) -> None:
        if child is None:
            early.append(signum)
        else:
            child.send_signal(signum)

    alone = threading.current_thread() is threading.main_thread()  # only there may handlers be set
    previous = {signum: signal.signal(signum, forward) for signum in FORWARDED if alone}
    try:
        with suppress(OSError, ValueError):  # nobody reads it: the work goes on
            sys.stdout.flush()
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, env=environment, process_group=0, preexec_fn=_end_with_parent
        )
        for signum in early:
            child.send_signal(signum)
        code = child.wait()
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
    return 128 - code if code < 0 else code


def _end_with_parent() -> None:
    """In the child, before the job starts: SIGTERM when the parent is gone (Linux only, harmless elsewhere)."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
