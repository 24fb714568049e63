"""Run the stages of a plan in order, whatever it is that starts them."""

from collections.abc import Sequence
from typing import Protocol

from pipeline.plan import StageCommand, write_stage_config
from schemas.errors import ExitCode
from stages.stage import Stage

KILLED = 137  # 128 + SIGKILL


class Executor(Protocol):
    """Starts a stage somewhere and waits for it."""

    def run(self, command: StageCommand) -> int:
        """Run one stage to its end, passing on stop requests; returns its exit code."""


def run_stages(commands: Sequence[StageCommand], executor: Executor, run: Stage) -> int:
    """Run stages until one fails; returns the exit code of that one, or 0.

    Raises:
        InputError: a stage's configuration cannot be written.
        Stopped: SIGTERM arrived between two stages.
    """
    for command in commands:
        run.stop_here_if_asked()
        write_stage_config(command)  # not earlier: a run refused at its first stage must not change a later one's
        code = executor.run(command)
        if code != ExitCode.DONE:
            run.reporter.error(_how_to_go_on(command, code))
            return code
    return ExitCode.DONE


def _how_to_go_on(command: StageCommand, code: int) -> str:
    if code in (ExitCode.STOPPED, ExitCode.INTERRUPTED):
        return f"stopped during {command.stage}; run the same command to go on from there"
    reasons: dict[int, str] = {
        ExitCode.BUG: "a bug: please report the traceback above",
        ExitCode.BAD_INPUT: "bad configuration or input: change what the line above names",
        ExitCode.UNVERIFIED: "an artifact failed verification: the line above names it",
        KILLED: f"killed, most often for lack of memory: lower {command.stage}'s batch",
    }
    reason = reasons.get(code, "see above")
    return (
        f"stage {command.stage} failed with exit code {code} ({reason}); "
        f"then run the same command again, finished stages are not repeated. This stage alone: {command.by_hand}"
    )
