"""What can go wrong, made to go wrong in the process that calls it."""

import errno
import os
import resource
import signal
from pathlib import Path
from typing import Any


def die_at_call(function: str, number: int) -> None:
    """`kill -9` in place of call `number` (from 0) of an operation of the atomic writer: `fsync` or `replace`."""
    _count_calls(function, lambda call: os.kill(os.getpid(), signal.SIGKILL) if call == number else None)


def fail_at_call(function: str, number: int, error: str) -> None:
    """An OSError (`ENOSPC`, `ESTALE`, ...) in place of that call."""

    def fail(call: int) -> None:
        if call == number:
            code = getattr(errno, error)
            raise OSError(code, os.strerror(code))

    _count_calls(function, fail)


def _count_calls(function: str, before: Any) -> None:
    owner = {"fsync": os, "replace": Path}[function]
    whole = getattr(owner, function)
    calls = iter(range(10**9))

    def replacement(*arguments: Any, **settings: Any) -> Any:
        before(next(calls))
        return whole(*arguments, **settings)

    setattr(owner, function, replacement)


def limit_file_size(size: int) -> None:
    """No file of more than `size` bytes: `File too large` in the middle of a write."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))  # Python ignores SIGXFSZ, so that write() fails


def become(user: int) -> None:
    """Give up root."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
