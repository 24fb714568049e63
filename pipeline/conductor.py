"""A run from its configuration to its end: check, say what will be done, then one stage after another."""

from collections.abc import Callable

from pipeline.executor import Executor, run_stages
from pipeline.executor_names import ExecutorName
from pipeline.local_executor import LocalExecutor
from pipeline.plan import StageCommand, describe_plan, plan_stages
from pipeline.preflight.findings import Findings, described
from pipeline.preflight.finished import finished_stages
from pipeline.preflight.process import preflight
from pipeline.settings import check_inputs
from pipeline.smallest import Search, check_search
from pipeline.thresholds import write_thresholds
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.errors import ConfigError, ExitCode
from schemas.evaluation import REPORT
from schemas.run_config import RunConfig
from schemas.student import MANIFEST as STUDENT_MANIFEST
from stages.stage import Stage


def _docker_executor() -> Executor:
    from pipeline.docker_executor import DockerExecutor  # loads the SDK, which no other command needs

    return DockerExecutor()


EXECUTORS: dict[ExecutorName, Callable[[], Executor]] = {
    ExecutorName.LOCAL: LocalExecutor,
    ExecutorName.DOCKER: _docker_executor,
}


def checked(
    config: RunConfig,
    commands: tuple[StageCommand, ...],
    executor: ExecutorName,
    overwrite: bool,
    max_drop: float | None = None,
) -> Findings | None:
    """Check a run before anything starts; None where all that it makes is there, and each stage says so itself.

    Raises:
        ConfigError, InputError: the run would fail.
    """
    if max_drop is not None:
        if executor is not ExecutorName.LOCAL:
            raise ConfigError("max-drop: students are tried on this machine alone; leave --executor out")
        check_search(config, max_drop)
    check_inputs(config)
    if executor is ExecutorName.DOCKER:
        from pipeline.docker_executor import memory_limit, mounts

        memory_limit()
        for command in commands:
            mounts(command)
    if _settings_are_compared(executor, max_drop):
        done = finished_stages(commands, overwrite)
        return None if len(done) == len(commands) else preflight(config, containers=False).with_finished(done)
    made = (SET_MANIFEST, STUDENT_MANIFEST, REPORT)
    if not overwrite and all((c.output / file).exists() for c, file in zip(commands, made, strict=True)):
        return None
    return preflight(config, containers=executor is ExecutorName.DOCKER)


def described_run(config: RunConfig, executor: ExecutorName, overwrite: bool, max_drop: float | None = None) -> str:
    """What `conduct` would do with the same arguments, after all checks: settings, commands, time.

    Raises:
        ConfigError, InputError: the run would fail.
    """
    commands = plan_stages(config, overwrite=overwrite)
    findings = checked(config, commands, executor, overwrite, max_drop)
    if findings is not None:
        facts = described(findings, config, max_drop)
    else:
        same = _settings_are_compared(executor, max_drop)
        there = "up to date" if same else "finished; each stage says whether what is there is of these settings"
        facts = [("output", f"{commands[0].storage}: {there}")]
    return describe_plan(config, commands, facts)


def _settings_are_compared(executor: ExecutorName, max_drop: float | None) -> bool:
    """Whether what a storage holds is compared with the settings before a run; else each stage does so in its turn.

    In containers files have other places, and a search makes students of its own.
    """
    return executor is ExecutorName.LOCAL and max_drop is None


def conduct(
    config: RunConfig, executor: ExecutorName, overwrite: bool, stage: Stage, max_drop: float | None = None
) -> int:
    """Check a run, say what it will do and how long that takes, do it; the exit code of the stage that failed, or 0.

    Args:
        config: of the run.
        executor: where its stages are started.
        overwrite: replace what was made with other settings.
        stage: the run.
        max_drop: points of mAP50-95 that may be lost; None takes the bits as they are set.

    Raises:
        ZsqError: the run would fail, or a stage cannot be started.
        Stopped: SIGTERM arrived between two stages.
    """
    commands = plan_stages(config, overwrite=overwrite)
    starter = EXECUTORS[executor]()
    findings = checked(config, commands, executor, overwrite, max_drop)
    if findings is not None:
        stage.reporter.table("Will do", ("", ""), described(findings, config, max_drop))
    if max_drop is not None:
        code = Search(config, max_drop, starter, overwrite, stage).run()
    else:
        code = run_stages(commands, starter, stage, findings.seconds if findings else {})
    if code in (ExitCode.DONE, ExitCode.NOT_MET) and executor is ExecutorName.LOCAL:
        _, student, evaluation = (command.output for command in commands)
        if (evaluation / REPORT).exists():
            write_thresholds(student, evaluation, stage)
    return code
