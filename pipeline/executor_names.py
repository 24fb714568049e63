"""Where the stages of a run are started, by name; apart from what starts them, so that `--help` loads none of it."""

from enum import StrEnum


class ExecutorName(StrEnum):
    """Where the stages of a run are started."""

    LOCAL = "local"
    DOCKER = "docker"
