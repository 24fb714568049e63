"""Stages as containers, through the Docker SDK: the images and the confinement of docker-compose.yml."""

import os
import shutil
import signal
import stat
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
from docker.utils import parse_bytes
from requests.exceptions import RequestException

from detectors.source import checkpoint_path
from pipeline.local_executor import FORWARDED, run_name
from pipeline.plan import StageCommand
from pipeline.settings import stage_inputs
from schemas.base import canonical_digest
from schemas.errors import ConfigError, InputError
from stages.container import CONTAINER_VARIABLE
from stages.progress import RUN_VARIABLE
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


CONTAINERS_OWN = tuple(map(Path, (
    "/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/local/lib", "/bin", "/sbin", "/lib", "/lib64", "/etc", "/opt/venv",
    "/opt/zsq", "/proc", "/sys", "/dev", "/tmp",
)))  # fmt: skip
"""What a container has of its own at these paths; a folder of this machine at one of them, or above, would hide it."""
SMALLEST_MEMORY = 6 * 2**20
"""Smallest memory limit that an engine takes, in bytes."""


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
                f"image {image_name(command.stage)} is not on this engine; build it with `make images`, or "
                "pull it (ZSQ_REGISTRY and ZSQ_TAG say which)"
            ) from error
        except (DockerException, RequestException) as error:
            raise InputError(f"{command.stage}: the engine refuses the container ({_reason(error)})") from error
        try:
            output = container.attach(stream=True, stdout=True, stderr=True, demux=True)
            with _forwarded_signals(container):
                _copy(output)
                return int(container.wait()["StatusCode"])
        except APIError as error:
            raise InputError(f"{command.stage}: the engine does not start the container ({_reason(error)})") from error
        except (DockerException, RequestException) as error:
            raise InputError(f"{command.stage}: the engine does not answer any more ({_reason(error)})") from error
        finally:
            with suppress(DockerException, RequestException):  # what stopped the run may keep this from being done too
                container.remove(force=True)

    def _create(self, command: StageCommand) -> Any:
        name = container_name(command)
        bound = mounts(command)  # before anything is made or changed
        self._remove_finished(name)
        user = _writing_user(command)
        return self._engine.containers.create(
            image_name(command.stage),
            list(command.arguments),
            name=name,
            user=f"{user}:{user if user == IMAGE_USER else os.getgid()}",
            mounts=bound,
            working_dir=str(Path.cwd()),
            environment=_environment(command),
            tty=sys.stdout.isatty(),
            mem_limit=memory_limit(),
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


def memory_limit() -> int:
    """ZSQ_MEMORY in bytes.

    Raises:
        ConfigError: it is no amount of memory.
    """
    text = os.environ.get("ZSQ_MEMORY") or "8g"
    try:
        size = int(parse_bytes(text))
    except (DockerException, ValueError):
        size = 0
    if size < SMALLEST_MEMORY:
        raise ConfigError(f"ZSQ_MEMORY: got {text!r}; write an amount of memory of at least 6m, as in 8g or 512m")
    return size


def mounts(command: StageCommand) -> list[Mount]:
    """The storage and the inputs, read-only, and over them the stage's own output.

    Raises:
        InputError: one of them would hide what a container itself needs.
    """
    readable = [command.storage, *stage_inputs(command.config).values()]
    made = [_bind(path, read_only=True) for path in dict.fromkeys(path.absolute() for path in readable)]
    return [*made, _bind(command.output.absolute(), read_only=False)]


def _bind(path: Path, read_only: bool) -> Mount:
    for place in (path, path.resolve()):
        if hidden := next((own for own in CONTAINERS_OWN if own.is_relative_to(place)), None):
            raise InputError(f"{path}: would hide the {hidden} that a container has of its own; name a folder below")
    return Mount(target=str(path), source=str(path.resolve()), type="bind", read_only=read_only)


def _writing_user(command: StageCommand) -> int:
    """Who the container runs as: this user, so that the output is theirs; for root the images' own user.

    Raises:
        InputError: root's output folder is a link, or the images' user cannot get to it.
    """
    make_folder(command.output)
    if os.getuid() != 0:
        return os.getuid()
    _give_away(command.output)
    for folder in (command.storage, command.config_path.parent):
        if folder.exists() and not folder.stat().st_mode & stat.S_IXOTH and folder.stat().st_uid != IMAGE_USER:
            raise InputError(
                f"{folder}: root starts the run, its containers run as user {IMAGE_USER}, who may not enter this "
                f"folder; chmod o+rx it, or name another storage"
            )
    return IMAGE_USER


def _give_away(folder: Path) -> None:
    """Make the images' user the owner of what a local run of root's left in an output folder.

    Of root's own files and folders alone, never through a link, and relative to folders that are open, so that nobody
    can put a link in the way; a file with a second name elsewhere stays as it is.

    Raises:
        InputError: the folder is a link.
    """
    if folder.is_symlink():
        raise InputError(
            f"{folder}: is a link, and root does not change the owner of what a link points at; name the folder "
            "itself, or start the run as its owner"
        )
    for _, folders, files, handle in os.fwalk(folder, follow_symlinks=False):
        for name in (".", *folders, *files):
            status = os.stat(name, dir_fd=handle, follow_symlinks=False)
            second_name = stat.S_ISREG(status.st_mode) and status.st_nlink > 1
            if status.st_uid == 0 and not stat.S_ISLNK(status.st_mode) and not second_name:
                os.chown(name, IMAGE_USER, IMAGE_USER, dir_fd=handle, follow_symlinks=False)


def _environment(command: StageCommand) -> dict[str, str]:
    """`~` means what it means here, a terminal is as wide as it is here, and messages name the host's own paths."""
    columns, lines = shutil.get_terminal_size()
    here = {"HOME": str(Path.home()), "COLUMNS": str(columns), "LINES": str(lines)}
    return here | {CONTAINER_VARIABLE: "", RUN_VARIABLE: run_name(command.storage)}


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
