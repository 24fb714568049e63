"""One row after another through the stages of `zsq run`: a set for each detector, a student for each row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.paper.rows import Row
from pipeline.conductor import checked
from pipeline.executor import Executor, run_stages
from pipeline.executor_names import ExecutorName
from pipeline.plan import CONFIG_FOLDER, EVAL_FOLDER, STUDENT_FOLDER, StageCommand, plan_stages
from pipeline.preflight.findings import described
from pipeline.settings import RunOptions, assignment, read_run_config
from schemas.errors import ExitCode
from schemas.run_config import RunConfig
from stages.stage import Stage

SETTINGS: dict[str, Any] = {
    "synth.held_back": 16,
    "qat.targets": [],
    "eval.onnx.models": "none",
    "eval.samples": 0,
    "eval.layer_images": 0,
    "eval.advice_images": 0,
}
"""Images that judge whether training helped; and of what no figure of the table needs, nothing."""


@dataclass(frozen=True)
class Size:
    """How much is done for each row.

    Attributes:
        images: synthetic images of each detector.
        side: of all images, pixels.
        steps: of each student's training.
        assignments: further settings, `section.key=value`.
    """

    images: int
    side: int
    steps: int
    assignments: tuple[str, ...] = ()

    def config(self, row: Row, checkpoint: str, data: Path | None, storage: Path) -> RunConfig:
        """The run of a row.

        Args:
            row: which.
            checkpoint: file of its detector, or `embedded`.
            data: labelled images; None: the embedded detector's own scenes.
            storage: folder of the detector: its set and its students.

        Raises:
            ConfigError: the settings do not fit together.
        """
        options = RunOptions(bits=row.bits, images=self.images, size=self.side, data=data)
        fixed = [assignment(key, value) for key, value in (SETTINGS | {"qat.steps": self.steps}).items()]
        return read_run_config(checkpoint, [*fixed, *options.assignments(), *self.assignments], storage)


def row_commands(config: RunConfig, bits: str) -> tuple[StageCommand, ...]:
    """The stages of a row: synth into the detector's own folder, which its rows share, qat and eval below `bits`."""
    synth, *others = plan_stages(config)
    folder = synth.storage / bits
    moved = {str(synth.storage / name): str(folder / name) for name in (STUDENT_FOLDER, EVAL_FOLDER)}
    for command in others:
        moved[str(command.config_path)] = str(folder / CONFIG_FOLDER / command.config_path.name)
    return (
        synth,
        *(
            replace(
                command,
                config_path=Path(moved[str(command.config_path)]),
                output=Path(moved[str(command.output)]),
                arguments=tuple(moved.get(argument, argument) for argument in command.arguments),
            )
            for command in others
        ),
    )


def run_rows(
    configs: Mapping[Row, RunConfig],
    executor: ExecutorName,
    starter: Executor,
    stage: Stage,
    after_each: Callable[[], None],
) -> int:
    """Run rows that are not done, or the rest of them; a row that fails does not keep the next ones from being made.

    Args:
        configs: of each row, in order.
        executor: where stages are started, which decides what is checked.
        starter: starts them.
        stage: of the whole.
        after_each: called when a row is done.

    Returns:
        0, or the exit code of the first stage that failed.

    Raises:
        ZsqError: a row would fail, or a stage cannot be started.
        Stopped: SIGTERM arrived between two stages.
    """
    failed: list[int] = []
    for number, (row, config) in enumerate(configs.items(), start=1):
        stage.reporter.message(f"row {number} of {len(configs)}: {row.name}")
        commands = row_commands(config, row.bits)
        findings = checked(config, commands, executor, overwrite=False)
        if findings is not None:
            stage.reporter.table(f"Will do: {row.name}", ("", ""), described(findings, config))
        code = run_stages(commands, starter, stage, findings.seconds if findings else None)
        if code in (ExitCode.STOPPED, ExitCode.INTERRUPTED):
            return code
        if code == ExitCode.DONE:
            after_each()
        else:
            failed.append(code)
    return failed[0] if failed else ExitCode.DONE


def row_folders(work: Path, rows: Sequence[Row]) -> dict[Row, Path]:
    """Where each row's student and evaluation lie."""
    return {row: work / row.detector.name / row.bits for row in rows}
