"""One writer per folder: a lock file that says who holds it.

Two rules decide whether a lock's holder still lives:

- **On the same kernel** (same boot id, whatever the container) the holder keeps a kernel lock (`flock`) on the file,
  which ends with the process, `kill -9` included. Its successor takes over at once.
- **Elsewhere** (another node; a volume without kernel locks) the holder touches the file every `BEAT_S` seconds. Who
  wants the folder watches for that on its own clock, so clocks need not agree: one touch means that the holder lives,
  none within `STALE_S` seconds that it is dead.

Guaranteed: of processes on one kernel, and of processes anywhere while the holder is never silent for `STALE_S`
seconds, one writes. Two runs with different settings that start at the same moment as different ranks may refuse each
other. Not guaranteed: a holder that is frozen or cut off for longer loses its lock to a process on another node; it
finds out at its next touch and ends, and what it wrote until then went through atomic renames. The volume must create
files exclusively (`O_EXCL`: local file systems, NFS since version 3), one boot id must not be two machines, and
processes on one kernel must see each other's kernel locks (two FUSE mounts of one bucket, or NFS mounted twice with
local locks, do not).
"""

import errno
import fcntl
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from schemas.base import Contract
from schemas.errors import InputError
from stages.container import unwritable
from stages.ranks import Rank
from stages.storage import make_folder, remove_temporaries

BEAT_S = 5.0
"""Seconds between two touches of a held lock."""
STALE_S = 60.0
"""Seconds without a touch after which a holder on another machine counts as dead."""
POLL_S = 0.5
MAX_LOCK_BYTES = 2**16
PREFIX = ".zsq-lock-"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class LockHolder(Contract):
    """What a lock file says of who holds it."""

    stage: str
    key: str
    rank: int
    count: int
    host: str
    pid: int
    kernel: str | None
    """Boot id of the holder's kernel, on which it keeps a kernel lock; None where it could not get one."""
    since: str

    @classmethod
    def this_process(cls, stage: str, key: str, rank: Rank, kernel: str | None) -> "LockHolder":
        """The caller as a holder."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(
            stage=stage,
            key=key,
            rank=rank.index,
            count=rank.count,
            host=socket.gethostname(),
            pid=os.getpid(),
            kernel=kernel,
            since=since,
        )

    def __str__(self) -> str:
        rank = f", rank {self.rank} of {self.count}" if self.count > 1 else ""
        return f"{self.stage} on {self.host} (process {self.pid}{rank}) since {self.since}"


@contextmanager
def folder_lock(
    folder: Path,
    stage: str,
    key: str,
    rank: Rank,
    *,
    on_loss: Callable[[str], None] = lambda message: None,
    on_wait: Callable[[str], None] = lambda message: None,
) -> Iterator[None]:
    """Hold `folder` for writing inside the block; other ranks of the same run may hold it too.

    Where a dead process left the lock on another machine, this waits up to `STALE_S` seconds, else it decides at once.
    Whoever holds the folder alone also clears what killed writers left half-written.

    Args:
        folder: created where it is missing, and removed again where nothing was put into it.
        stage: name of the holder, for people.
        key: provenance key of the run.
        rank: this process; the same rank of the same run is refused as any other holder.
        on_loss: called from another thread with a message, when another machine took the lock over.
        on_wait: called with a message, before watching a holder on another machine.

    Raises:
        InputError: somebody else holds the folder, or it cannot be written.
    """
    created = not folder.exists()
    make_folder(folder)
    lock = _Lock(folder / f"{PREFIX}{rank.index}", on_loss)
    try:
        try:
            _acquire(lock, LockHolder.this_process(stage, key, rank, _kernel()), on_wait)
            others = [path for path in folder.glob(f"{PREFIX}*") if path != lock.path]
            for other in others:
                _require_same_run_or_dead(other, key, rank.count, on_wait)
            if rank.count == 1:
                remove_temporaries(folder)
        except OSError as error:
            raise InputError(
                f"folder {folder}: cannot be written ({error.strerror or error}); {unwritable(error)}"
            ) from error
        yield
    finally:
        lock.release()
        if created:
            with suppress(OSError):  # it has content, as it should
                folder.rmdir()


def _kernel() -> str | None:
    try:
        return BOOT_ID.read_text().strip()
    except OSError:
        return None


class _Lock:
    """A held lock file, and the thread that touches it."""

    def __init__(self, path: Path, on_loss: Callable[[str], None]) -> None:
        self.path = path
        self._on_loss = on_loss
        self._handle: int | None = None
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._released = threading.Event()

    def create(self, holder: LockHolder) -> bool:
        """Create the file for `holder`; False where it exists."""
        try:
            self._handle = handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # at worst after a contender's glance at the empty file
        except OSError:
            holder = holder.model_copy(update={"kernel": None})
        # Written after the kernel lock: who reads a boot id here may rely on the kernel lock.
        os.write(handle, holder.to_json().encode())
        os.fsync(handle)
        self._thread.start()
        return True

    def _beat(self) -> None:
        assert self._handle is not None
        while not self._released.wait(BEAT_S):
            with suppress(OSError):  # storage that does not answer: the next touch may arrive in time
                os.utime(self._handle)
            try:
                mine = os.path.samestat(os.stat(self.path), os.fstat(self._handle))
            except OSError as error:
                mine = error.errno not in (errno.ENOENT, errno.ESTALE)  # NFS: removed by another node
            if not mine and not self._released.is_set():
                self._on_loss(
                    f"{self.path.parent}: another process took this folder over, after this one had been silent for "
                    f"{STALE_S:.0f} s; look whether it is at work, or run the same command again"
                )
                return

    def release(self) -> None:
        """Remove the file if it is still ours, and the kernel lock with it."""
        self._released.set()
        if self._handle is None:
            return
        if self._thread.is_alive():
            self._thread.join(BEAT_S)  # it uses the handle that closes here
        with suppress(OSError):
            if os.path.samestat(os.stat(self.path), os.fstat(self._handle)):
                self.path.unlink()
        with suppress(OSError):
            os.close(self._handle)
        self._handle = None


def _acquire(lock: _Lock, holder: LockHolder, on_wait: Callable[[str], None]) -> None:
    while not lock.create(holder):
        _require_dead(lock.path, on_wait)


def _require_same_run_or_dead(path: Path, key: str, count: int, on_wait: Callable[[str], None]) -> None:
    try:
        handle = _open(path)
    except FileNotFoundError:
        return
    try:
        holder = _read(os.read(handle, MAX_LOCK_BYTES))
    finally:
        os.close(handle)
    if holder is None or (holder.key, holder.count) != (key, count):
        _require_dead(path, on_wait)


def _require_dead(path: Path, on_wait: Callable[[str], None]) -> None:
    """Remove a dead holder's lock.

    Raises:
        InputError: it lives.
    """
    first: tuple[int, int] | None = None
    started = time.monotonic()
    while True:
        try:
            handle = _open(path)
        except FileNotFoundError:
            return
        try:
            holder = _read(os.read(handle, MAX_LOCK_BYTES))
            status = os.fstat(handle)
            touched = (status.st_ino, status.st_mtime_ns)
            here = holder is not None and holder.kernel is not None and holder.kernel == _kernel()
            if here:
                dead = _kernel_lock_is_free(handle)
                alive = not dead
            else:
                alive = first is not None and touched != first
                dead = not alive and first is not None and time.monotonic() - started >= STALE_S
            if alive:
                raise InputError(_refusal(path, holder))
            if dead:
                # On this kernel one process at a time gets here, by the kernel lock it holds until `close`.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.stat(path), os.fstat(handle)):
                        path.unlink()
                return
        finally:
            os.close(handle)
        if first is None:
            first = touched
            on_wait(
                f"{path.parent} is locked by {holder or 'a process'}; watching for up to {STALE_S:.0f} s if it lives"
            )
        time.sleep(POLL_S)


def _open(path: Path) -> int:
    """An existing lock file; one of another user is opened for reading, which is enough for a kernel lock.

    Raises:
        OSError: it is a link, a pipe or anything else that no writer leaves, or cannot be opened.
    """
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, os.O_RDWR | flags)
    except PermissionError:
        handle = os.open(path, os.O_RDONLY | flags)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(f"its lock {path.name} is no regular file; remove that")
    return handle


def _kernel_lock_is_free(handle: int) -> bool:
    """Whether the holder's kernel lock is gone; then it is ours until `handle` closes."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(content: bytes) -> LockHolder | None:
    """None: not written yet, or by something else."""
    try:
        return LockHolder.model_validate_json(content)
    except ValidationError:
        return None


def _refusal(path: Path, holder: LockHolder | None) -> str:
    who = str(holder) if holder else "another process"
    return (
        f"{path.parent} is being written by {who}; wait for it or stop it and run the same command again, or choose "
        "another folder"
    )
