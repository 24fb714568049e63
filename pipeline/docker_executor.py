"""Stages as containers, through the Docker SDK: the images and the confinement of docker-compose.yml."""

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import DeviceRequest, Mount

from detectors.source import checkpoint_path
from pipeline.local_executor import FORWARDED
from pipeline.plan import StageCommand
from pipeline.settings import stage_inputs
from schemas.base import canonical_digest
from schemas.errors import InputError
from stages.storage import make_folder

IMAGE_USER = 10001
"""User and group of the images; it stands in where root starts the run."""
CONFINEMENT: dict[str, Any] = {
    "init": True,
    "read_only": True,
    "network_mode": "none",
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges:true"],
    "tmpfs": {"/tmp": "size=1g"},
    "shm_size": "1g",
}
"""What a container may do; docker-compose.yml says the same, and a test compares them."""


class DockerExecutor:
    """Runs each stage in its image, on the engine that the environment names (DOCKER_HOST, or the local socket).

    A container sees the run's storage (of which it can write its own output alone), the checkpoint, and what else its
    stage reads, each at the path it has on this machine: messages name paths that mean something to the user.

    Raises:
        InputError: no engine answers.
    """

    def __init__(self) -> None:
        try:
            self._engine = docker.from_env()
            self._engine.ping()
        except DockerException as error:
            raise InputError(
                f"no Docker engine answers at {os.environ.get('DOCKER_HOST', 'the local socket')} ({_reason(error)}); "
                "start Docker, set DOCKER_HOST, or leave out --executor docker"
            ) from error

    def run(self, command: StageCommand) -> int:
        """See `Executor`. The container is removed at the end, whatever the end is.

        Raises:
            InputError: the image is not there, the stage runs already, or the engine refuses the container.
        """
        checkpoint_path(command.config.teacher)  # type: ignore[attr-defined]  # containers cannot download it
        try:
            container = self._create(command)
        except ImageNotFound as error:
            raise InputError(
                f"image {image_name(command.stage)} is not on this engine; build it with `docker compose build`, or "
                "pull it (ZSQ_REGISTRY and ZSQ_TAG say which)"
            ) from error
        except APIError as error:
            raise InputError(f"{command.stage}: the engine refuses the container ({_reason(error)})") from error
        try:
            output = container.attach(stream=True, stdout=True, stderr=True, demux=True)
            with _forwarded_signals(container):
                _copy(output)
                return int(container.wait()["StatusCode"])
        except APIError as error:
            raise InputError(f"{command.stage}: the engine does not start the container ({_reason(error)})") from error
        finally:
            container.remove(force=True)

    def _create(self, command: StageCommand) -> Any:
        name = container_name(command)
        self._remove_finished(name)
        user = _writing_user(command)
        return self._engine.containers.create(
            image_name(command.stage),
            list(command.arguments),
            name=name,
            user=f"{user}:{user if user == IMAGE_USER else os.getgid()}",
            mounts=mounts(command),
            working_dir=str(Path.cwd()),
            environment=_environment(),
            tty=sys.stdout.isatty(),
            mem_limit=os.environ.get("ZSQ_MEMORY", "8g"),
            device_requests=self._gpus(command),
            **CONFINEMENT,
        )

    def _remove_finished(self, name: str) -> None:
        """Remove what a killed run left; a container at work is left alone."""
        try:
            container = self._engine.containers.get(name)
        except NotFound:
            return
        if container.status in ("running", "paused", "restarting"):
            raise InputError(
                f"container {name} is at work on the same folder; follow it with `docker logs -f {name}`, or end it "
                f"with `docker stop {name}`"
            )
        container.remove(force=True)

    def _gpus(self, command: StageCommand) -> list[DeviceRequest]:
        """All GPUs where the configuration names them, or leaves it open and the engine has the NVIDIA runtime."""
        device: str = command.config.device  # type: ignore[attr-defined]
        wanted = device.startswith("cuda") or (device == "auto" and "nvidia" in self._engine.info()["Runtimes"])
        return [DeviceRequest(count=-1, capabilities=[["gpu"]])] if wanted else []


def image_name(stage: str) -> str:
    """The image of a stage, by the variables that docker-compose.yml takes."""
    return f"{os.environ.get('ZSQ_REGISTRY', '')}zsq-{stage}:{os.environ.get('ZSQ_TAG', 'latest')}"


def container_name(command: StageCommand) -> str:
    """One name for a stage and its output folder, so that a second run of the same finds the first."""
    return f"zsq-{command.stage}-{canonical_digest(str(command.output.absolute()))[:12]}"


def mounts(command: StageCommand) -> list[Mount]:
    """The storage and the inputs, read-only, and over them the stage's own output."""
    readable = [command.storage, *stage_inputs(command.config).values()]
    made = [_bind(path, read_only=True) for path in dict.fromkeys(path.absolute() for path in readable)]
    return [*made, _bind(command.output.absolute(), read_only=False)]


def _bind(path: Path, read_only: bool) -> Mount:
    return Mount(target=str(path), source=str(path.resolve()), type="bind", read_only=read_only)


def _writing_user(command: StageCommand) -> int:
    """Who the container runs as: this user, so that the output is theirs; for root the images' own user."""
    make_folder(command.output)
    if os.getuid() != 0:
        return os.getuid()
    for path in (command.storage, command.output, *command.output.rglob("*")):  # a local run of root's may lie there
        os.chown(path, IMAGE_USER, IMAGE_USER, follow_symlinks=False)
    return IMAGE_USER


def _environment() -> dict[str, str]:
    """`~` means what it means here, and a terminal is as wide as it is here."""
    columns, lines = shutil.get_terminal_size()
    return {"HOME": str(Path.home()), "COLUMNS": str(columns), "LINES": str(lines)}


def _copy(output: Iterator[tuple[bytes | None, bytes | None]]) -> None:
    for out, err in output:
        for chunk, stream in ((out, sys.stdout), (err, sys.stderr)):
            if chunk:
                with suppress(OSError, ValueError):  # nobody reads it: the work goes on
                    stream.buffer.write(chunk)
                    stream.flush()


@contextmanager
def _forwarded_signals(container: Any) -> Iterator[None]:
    """Start the container, and inside the block pass on SIGTERM, SIGINT and SIGHUP; a second one kills it."""
    received: list[int] = []
    started = False

    def forward(signum: int, frame: FrameType | None) -> None:
        received.append(signum)
        if started:
            # In a thread: the main one may be inside a call to the engine.
            threading.Thread(target=_send, args=(container, signum if len(received) == 1 else signal.SIGKILL)).start()

    previous = {signum: signal.signal(signum, forward) for signum in FORWARDED}
    try:
        container.start()
        started = True
        if received:
            _send(container, received[0])
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _send(container: Any, signum: int) -> None:
    with suppress(APIError):  # it ended in the meantime
        container.kill(signal=int(signum))


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "explanation", None) or error).split())[:300]
