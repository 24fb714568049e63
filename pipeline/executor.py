"""Run the stages of a plan in order, whatever it is that starts them."""

import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.plan import StageCommand, write_stage_config
from pipeline.preflight.findings import duration
from schemas.errors import ExitCode
from stages.stage import Stage

KILLED = 137  # 128 + SIGKILL
CRASHED = 139  # 128 + SIGSEGV


class Executor(Protocol):
    """Starts a stage somewhere and waits for it."""

    def run(self, command: StageCommand) -> int:
        """Run one stage to its end, passing on stop requests; returns its exit code."""


def run_stages(
    commands: Sequence[StageCommand], executor: Executor, run: Stage, expected: Mapping[str, float] | None = None
) -> int:
    """Run stages until one fails; returns the exit code of that one, or 0.

    Args:
        commands: in order.
        executor: starts them.
        run: says how long the rest will take.
        expected: seconds of each stage, where they are known.

    Raises:
        InputError: a stage's configuration cannot be written.
        Stopped: SIGTERM arrived between two stages.
    """
    start = time.monotonic()
    for number, command in enumerate(commands, start=1):
        run.stop_here_if_asked()
        write_stage_config(command)  # not earlier: a run refused at its first stage must not change a later one's
        code = executor.run(command)
        if code != ExitCode.DONE:
            run.reporter.error(_how_to_go_on(command, code), code)
            return code
        if expected and number < len(commands):
            run.reporter.message(_time_left(commands, number, time.monotonic() - start, expected))
    return ExitCode.DONE


def _time_left(commands: Sequence[StageCommand], done: int, seconds: float, expected: Mapping[str, float]) -> str:
    """After `done` stages: the expected time of the others, corrected by how long the first ones took."""
    before, after = (sum(expected[command.stage] for command in part) for part in (commands[:done], commands[done:]))
    pace = min(max(seconds / before, 0.5), 2.0) if before else 1.0  # stages that were up to date say nothing of others
    took = f"{commands[done - 1].stage} is done after {duration(seconds)}"
    return f"{took}; about {duration(after * pace)} left"


def _how_to_go_on(command: StageCommand, code: int) -> str:
    if code in (ExitCode.STOPPED, ExitCode.INTERRUPTED):
        return f"stopped during {command.stage}; run the same command to go on from there"
    if code == ExitCode.NOT_MET:
        return f"{command.stage} is done, and what eval.require asks for is missed: the line above says by how much"
    reasons: dict[int, str] = {
        ExitCode.BUG: "a bug: please report the traceback above",
        ExitCode.BAD_INPUT: "bad configuration or input: change what the line above names",
        ExitCode.UNVERIFIED: "an artifact failed verification: the line above names it",
        KILLED: f"killed, most often for lack of memory: lower {command.stage}'s batch",
        CRASHED: "a library crashed at what the line above says; see the exit codes of docs/run.md",
    }
    reason = reasons.get(code, "see above")
    return (
        f"stage {command.stage} failed with exit code {code} ({reason}); "
        f"then run the same command again, finished stages are not repeated. This stage alone: {command.by_hand}"
    )
