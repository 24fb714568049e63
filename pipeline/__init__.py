"""The conductor: run configuration, executors, the zsq command line; `run` is the same for Python. No torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import RunResult, run

__all__ = ["RunResult", "run"]


def __getattr__(name: str) -> Any:
    """Load what is asked for, and not before: `zsq --help` needs none of it."""
    if name in __all__:
        from pipeline import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
