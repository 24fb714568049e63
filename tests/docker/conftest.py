"""A real engine, the images built from this checkout, and Compose projects of their own that leave nothing behind."""

import json
import os
import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("synth", "qat", "eval")
IMAGES = (*STAGES, "check", "set")
SMALLEST = {
    "image_size": 96, "synth.images": 4, "synth.shard_size": 2, "synth.labels.size": 64, "synth.labels.iterations": 3,
    "synth.labels.warm_up": 1, "synth.labels.interval": 1, "synth.inversion.iterations": 2,
    "qat.steps": 2, "qat.batch": 2, "eval.batch": 64,
}  # fmt: skip


def assignments(**changes: Any) -> str:
    """The smallest settings as `ZSQ_SET`, with changes (dots as __)."""
    values = SMALLEST | {key.replace("__", "."): value for key, value in changes.items()}
    return " ".join(f"{key}={value}" for key, value in values.items())


class Project:
    """A Compose project: its own containers and volumes; settings by keyword, environment variables by their names."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.files: list[Path] = []

    def command(self, *arguments: str) -> list[str]:
        files = [part for path in (ROOT / "docker-compose.yml", *self.files) for part in ("-f", str(path))]
        return ["docker", "compose", "-p", self.name, "--env-file", os.devnull, *files, *arguments]

    def __call__(self, *arguments: str, check: bool = False, **environment: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("ZSQ_")}
        return subprocess.run(
            self.command(*arguments), capture_output=True, text=True, check=check, cwd=ROOT, env=clean | environment
        )

    def up(self, *arguments: str, **environment: str) -> tuple[int, str]:
        """`up` in the foreground: its exit code, and all that the stages said."""
        finished = self("up", *arguments, **environment)
        return finished.returncode, finished.stdout + finished.stderr

    def states(self) -> dict[str, tuple[str, int]]:
        """State and exit code of each service that has a container; one that never started is `created`."""
        listed = self("ps", "-a", "--format", "json", check=True).stdout
        rows = [json.loads(line) for line in listed.splitlines()]
        return {row["Service"]: (row["State"], row["ExitCode"]) for row in rows}

    def copy_out(self, target: Path, service: str = "synth") -> Path:
        """What lies on the storage volume."""
        self("cp", f"{service}:/data", str(target), check=True)
        return target


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips, loudly, where no engine with Compose v2 answers."""
    for command in (["docker", "info"], ["docker", "compose", "version"]):
        try:
            subprocess.run(command, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"NO DOCKER ENGINE: `{' '.join(command)}` fails ({error}); containers are not tested here")


@pytest.fixture(scope="session")
def images(engine: None) -> None:
    """The images of this checkout; seconds when `make images` ran before."""
    subprocess.run(["make", "images"], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def make_project(images: None) -> Iterator[Callable[[], Project]]:
    """Starts projects; all are taken down with their volumes at the end."""
    made: list[Project] = []

    def make() -> Project:
        made.append(Project(f"zsq-test-{uuid.uuid4().hex[:8]}"))
        return made[-1]

    yield make
    for project in made:
        project("down", "--volumes", "--timeout", "1")


@pytest.fixture
def project(make_project: Callable[[], Project]) -> Project:
    """A project of this test's own."""
    return make_project()
