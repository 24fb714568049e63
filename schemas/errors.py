"""The errors a user can meet. Each becomes one line and an exit code; anything else is a bug and shows a traceback."""

from enum import IntEnum

from schemas.text import redacted


class ExitCode(IntEnum):
    """Process exit codes of every stage, in and out of containers."""

    DONE = 0
    BUG = 1
    BAD_INPUT = 2
    UNVERIFIED = 3
    NOT_MET = 4
    INTERRUPTED = 130
    STOPPED = 143


class ZsqError(Exception):
    """Base of every expected error: its text says what is wrong, where, and what to change."""

    exit_code = ExitCode.BUG

    def __str__(self) -> str:
        """Without the secrets of URLs."""
        return redacted(super().__str__())


class ConfigError(ZsqError):
    """A configuration that cannot run: unknown key, value out of range, fields that contradict each other."""

    exit_code = ExitCode.BAD_INPUT


class InputError(ZsqError):
    """An input that is missing, unreadable or does not fit the others (teacher, labels, validation data)."""

    exit_code = ExitCode.BAD_INPUT


class VerificationError(ZsqError):
    """An artifact whose content does not match its digest or its contract."""

    exit_code = ExitCode.UNVERIFIED


class RequirementMissed(ZsqError):
    """A student was evaluated, and falls short of what `eval.require` asks for; the report is there."""

    exit_code = ExitCode.NOT_MET


class Stopped(ZsqError):
    """The stage was asked to stop (SIGTERM) and has left its finished work on disk."""

    exit_code = ExitCode.STOPPED
