"""Publish a set to another folder or a server: every byte read back, the manifest last."""

import hashlib
from pathlib import Path

from pipeline.sets.locations import CHUNK_BYTES, Store, locate
from pipeline.sets.pull import pull_set
from schemas.base import MAX_DOCUMENT_BYTES
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ShardRecord, shard_record_path
from schemas.errors import ConfigError, InputError, VerificationError
from stages.shards import open_calibration_set
from stages.stage import Stage


def push_set(folder: Path, target: str, stage: Stage, *, overwrite: bool = False) -> CalibrationSetManifest:
    """Copy the set in `folder` to `target`, going on where an earlier push stopped.

    Raises:
        ConfigError: `target` cannot be written, or holds another set and `overwrite` is not set.
        InputError: there is no set in `folder`, or the server gives up.
        VerificationError: the set is damaged, or what is stored there reads back differently.
    """
    store = locate(target)
    manifest = open_calibration_set(folder).manifest
    if store.protocol == "file":
        return pull_set(str(folder.absolute()), Path(store.url), stage, overwrite=overwrite)
    if store.protocol != "s3":
        raise ConfigError(
            f"{target}: {store.protocol} stores can only be read; push to s3:// or to the server's folder"
        )
    text = (folder / MANIFEST).read_bytes()
    there = store.read(MANIFEST, MAX_DOCUMENT_BYTES)
    if there == text and all(_is_there(store, record) for record in manifest.shards):
        stage.reporter.message(f"up to date: {target}")
        return manifest
    if there not in (None, text) and not overwrite:
        raise ConfigError(
            f"{target} holds another calibration set; choose another place, or replace it with --overwrite"
        )
    named = {record.file for record in manifest.shards}
    old = [record for record in _shards(there, target) if record.file not in named]
    store.remove(MANIFEST)  # from here on what lies there is no set
    for record in stage.reporter.track(manifest.shards, "push", unit="shard"):
        stage.stop_here_if_asked()
        if not _is_there(store, record):
            _put_shard(store, folder, record)
    for record in old:
        store.remove(_record_name(record))
        store.remove(record.file)
    store.write(MANIFEST, text)
    return manifest


def _shards(text: bytes | None, target: str) -> tuple[ShardRecord, ...]:
    """The shards of the set that is to be replaced; none where its manifest is missing or cannot be read."""
    if text is None:
        return ()
    try:
        return CalibrationSetManifest.parse(text, f"{target}/{MANIFEST}").shards
    except VerificationError:
        return ()


def _is_there(store: Store, record: ShardRecord) -> bool:
    """Whether an earlier push stored this shard: its record is stored after the shard has been read back."""
    text = store.read(_record_name(record), MAX_DOCUMENT_BYTES)
    return text == record.to_json().encode() and store.size(record.file) == record.bytes


def _put_shard(store: Store, folder: Path, record: ShardRecord) -> None:
    store.remove(_record_name(record))
    store.put(folder / record.file, record.file)
    digest = hashlib.sha256()
    try:
        with store.open(record.file) as (stream, _):
            while block := stream.read(CHUNK_BYTES):
                digest.update(block)
    except FileNotFoundError as error:
        raise InputError(
            f"{store.url}/{record.file}: gone after it was stored; does somebody else write there?"
        ) from error
    if digest.hexdigest() != record.sha256:
        raise VerificationError(f"{store.url}/{record.file}: reads back differently; does somebody else write there?")
    store.write(_record_name(record), record.to_json().encode())


def _record_name(record: ShardRecord) -> str:
    return shard_record_path(Path(), record.file).name
