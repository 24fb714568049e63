"""One file whose size and digest are known, fetched from a store, going on where an earlier attempt broke off."""

import time
from pathlib import Path
from typing import IO, Protocol

from pipeline.sets.locations import CHUNK_BYTES, Store, TransferError
from schemas.errors import InputError, VerificationError
from stages.stage import Stage
from stages.storage import atomic_path, file_digest

ATTEMPTS, PAUSE_S = 4, 1.0
"""Times that one file is asked for before giving up, and the pause before the second, doubled each time."""


class KnownFile(Protocol):
    """What is known of a file before it arrives."""

    @property
    def file(self) -> str:
        """Its name in the store."""

    @property
    def bytes(self) -> int:
        """Its size."""

    @property
    def sha256(self) -> str:
        """Its digest."""


def fetch_file(store: Store, folder: Path, wanted: KnownFile, stage: Stage) -> Path:
    """Copy a file into `folder`, where it appears under its name once it is whole and has its digest.

    Raises:
        InputError: the store gives up, or the folder cannot be written.
        VerificationError: the store lacks the file, or what arrived is another one.
    """
    path = folder / wanted.file
    # The digest in the name: what another version of the file left is not gone on with.
    partial = folder / f".{wanted.file}.{wanted.sha256[:16]}.part"
    _fetch(store, wanted, partial, stage)
    if partial.stat().st_size != wanted.bytes or file_digest(partial) != wanted.sha256:
        partial.unlink()
        raise VerificationError(f"{wanted.file}: what arrived does not match its digest; the source is damaged")
    with atomic_path(path) as temporary:
        partial.replace(temporary)
    return path


def _fetch(store: Store, wanted: KnownFile, partial: Path, stage: Stage) -> None:
    """Append to `partial` what it lacks of the file; a store that breaks off is asked again for the rest."""
    for attempt in range(1, ATTEMPTS + 1):
        partial.touch()
        if partial.stat().st_size >= wanted.bytes:
            return
        try:
            with store.open(wanted.file, partial.stat().st_size) as (stream, start), partial.open("r+b") as target:
                target.truncate(start)
                target.seek(start)
                _copy(stream, target, wanted, stage)
            return
        except FileNotFoundError as error:
            raise VerificationError(f"{wanted.file}: missing at the source, {store.url}") from error
        except TransferError as error:
            if attempt == ATTEMPTS:
                raise
            stage.reporter.message(f"{error}; asking again for the rest", attempt=attempt + 1, of=ATTEMPTS)
            time.sleep(PAUSE_S * 2 ** (attempt - 1))


def _copy(stream: IO[bytes], target: IO[bytes], wanted: KnownFile, stage: Stage) -> None:
    while block := stream.read(CHUNK_BYTES):
        stage.stop_here_if_asked()
        if target.tell() + len(block) > wanted.bytes:
            raise VerificationError(f"{wanted.file}: longer than it should be; the source is damaged")
        try:
            target.write(block)
            target.flush()
        except OSError as error:  # not the store's fault, so nothing that asking again would mend
            raise InputError(
                f"{target.name}: cannot be written ({error.strerror or error}); free space and run again to go on"
            ) from error
