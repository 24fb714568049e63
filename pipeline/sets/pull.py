"""Fetch a set from another folder or a server: every shard verified on arrival, the manifest last."""

import shutil
from pathlib import Path

from pipeline.sets.fetch import fetch_file
from pipeline.sets.locations import Store, locate
from schemas.base import MAX_DOCUMENT_BYTES
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ShardRecord, shard_record_path
from schemas.errors import ConfigError, InputError, VerificationError
from stages.ranks import Rank
from stages.shards import index_samples, verify_shard
from stages.stage import Stage
from stages.storage import atomic_path, remove_file, write_text


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
    task = stage.name.removeprefix("set ")  # pull, or push into a folder
    for record in stage.reporter.track(manifest.shards, task, unit="shard"):
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
        fetch_file(store, folder, record, stage)
    write_text(shard_record_path(folder, record.file), record.to_json())
