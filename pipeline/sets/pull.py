"""Fetch a set from another folder or a server: every shard verified on arrival, the manifest last."""

import shutil
import time
from pathlib import Path
from typing import IO

from pipeline.sets.locations import CHUNK_BYTES, Store, TransferError, locate
from schemas.base import MAX_DOCUMENT_BYTES
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ShardRecord, shard_record_path
from schemas.errors import ConfigError, InputError, VerificationError
from stages.ranks import Rank
from stages.shards import index_samples, verify_shard
from stages.stage import Stage
from stages.storage import atomic_path, file_digest, remove_file, write_text

ATTEMPTS, PAUSE_S = 4, 1.0
"""Times that one shard is asked for before giving up, and the pause before the second, doubled each time."""


def pull_set(
    source: str, folder: Path, stage: Stage, *, expected_digest: str | None = None, overwrite: bool = False
) -> CalibrationSetManifest:
    """Copy the set at `source` into `folder`, going on where an earlier pull stopped.

    The folder holds no `manifest.json`, hence no set, until every shard has its digest and reads as a shard.

    Raises:
        ConfigError: `source` is nothing that is opened, or `folder` holds something else and `overwrite` is not set.
        InputError: there is no set at `source`, the server gives up, or the folder is in use or cannot be written.
        VerificationError: what arrived is not what the manifest says, or not the set of `expected_digest`.
    """
    store = locate(source)
    text = store.read(MANIFEST, MAX_DOCUMENT_BYTES)
    if text is None:
        raise InputError(f"{source}: no finished calibration set there ({MANIFEST} is missing); check the location")
    manifest = CalibrationSetManifest.parse(text, f"{source}/{MANIFEST}")
    if expected_digest not in (None, manifest.digest):
        raise VerificationError(f"{source}: is the set {manifest.digest}, not the {expected_digest} that was asked for")
    if _is_here(folder, text, manifest, overwrite):
        stage.reporter.message(f"up to date: {folder}")
        return manifest
    with stage.claim(folder, manifest.digest, Rank(), lambda: False):
        _fetch_set(store, folder, text, manifest, stage, overwrite)
    return manifest


def _fetch_set(
    store: Store, folder: Path, text: bytes, manifest: CalibrationSetManifest, stage: Stage, overwrite: bool
) -> None:
    remove_file(folder / MANIFEST)  # from here on what lies here is no set
    _check_space(folder, manifest)
    for record in stage.reporter.track(manifest.shards, "pull", unit="shard"):
        stage.stop_here_if_asked()
        _fetch_shard(store, folder, record, stage, overwrite)
    if overwrite:
        _remove_strangers(folder, manifest)
    index_samples(folder, manifest)
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_bytes(text)


def _is_here(folder: Path, text: bytes, manifest: CalibrationSetManifest, overwrite: bool) -> bool:
    """Whether `folder` holds this very set, whole.

    Raises:
        ConfigError: it holds another one, and `overwrite` is not set.
    """
    path = folder / MANIFEST
    if not path.exists():
        return False
    if path.stat().st_size == len(text) and path.read_bytes() == text:
        try:
            for record in manifest.shards:
                verify_shard(folder, record)
        except VerificationError:
            if not overwrite:
                raise
            return False
        return True
    if overwrite:
        return False
    raise ConfigError(f"{folder} holds another calibration set; choose another folder, or replace it with --overwrite")


def _remove_strangers(folder: Path, manifest: CalibrationSetManifest) -> None:
    """Delete shards, records and half-fetched shards of another set that lay here."""
    shards = {record.file for record in manifest.shards}
    named = shards | {shard_record_path(folder, name).name for name in shards}
    for path in (*folder.glob("calib-*.json"), *folder.glob("calib-*.tar"), *folder.glob(".calib-*.tar.*.part")):
        if path.name not in named:
            path.unlink(missing_ok=True)


def _check_space(folder: Path, manifest: CalibrationSetManifest) -> None:
    missing = sum(record.bytes for record in manifest.shards if not (folder / record.file).exists())
    if missing > (free := shutil.disk_usage(folder).free):
        raise InputError(f"folder {folder}: {free} bytes free, the set needs {missing} more; choose another folder")


def _fetch_shard(store: Store, folder: Path, record: ShardRecord, stage: Stage, overwrite: bool) -> None:
    path = folder / record.file
    if path.exists():
        try:
            verify_shard(folder, record)
        except VerificationError as error:
            if not overwrite:
                raise ConfigError(
                    f"{path} is of another set, or damaged; choose another folder, or replace it with --overwrite"
                ) from error
            path.unlink()
    if not path.exists():
        # The digest in the name: what another version of the set left is not gone on with.
        partial = folder / f".{record.file}.{record.sha256[:16]}.part"
        _fetch(store, record, partial, stage)
        if partial.stat().st_size != record.bytes or file_digest(partial) != record.sha256:
            partial.unlink()
            raise VerificationError(f"{record.file}: what arrived does not match its digest; the source is damaged")
        with atomic_path(path) as temporary:
            partial.replace(temporary)
    write_text(shard_record_path(folder, record.file), record.to_json())


def _fetch(store: Store, record: ShardRecord, partial: Path, stage: Stage) -> None:
    """Append to `partial` what it lacks of the shard; a store that breaks off is asked again for the rest."""
    for attempt in range(1, ATTEMPTS + 1):
        partial.touch()
        if partial.stat().st_size >= record.bytes:
            return
        try:
            with store.open(record.file, partial.stat().st_size) as (stream, start), partial.open("r+b") as target:
                target.truncate(start)
                target.seek(start)
                _copy(stream, target, record, stage)
            return
        except FileNotFoundError as error:
            raise VerificationError(f"{record.file}: missing at the source, though its manifest names it") from error
        except TransferError as error:
            if attempt == ATTEMPTS:
                raise
            stage.reporter.message(f"{error}; asking again for the rest", attempt=attempt + 1, of=ATTEMPTS)
            time.sleep(PAUSE_S * 2 ** (attempt - 1))


def _copy(stream: IO[bytes], target: IO[bytes], record: ShardRecord, stage: Stage) -> None:
    while block := stream.read(CHUNK_BYTES):
        stage.stop_here_if_asked()
        if target.tell() + len(block) > record.bytes:
            raise VerificationError(f"{record.file}: longer than the manifest says; the source is damaged")
        try:
            target.write(block)
            target.flush()
        except OSError as error:  # not the store's fault, so nothing that asking again would mend
            raise InputError(
                f"{target.name}: cannot be written ({error.strerror or error}); free space and run again to go on"
            ) from error
