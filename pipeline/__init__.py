"""The conductor: run configuration, executors, the zsq command line; `run` is the same for Python. No torch."""

from pipeline.api import RunResult, run

__all__ = ["RunResult", "run"]
