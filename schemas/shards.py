"""Reading and writing the shards of a calibration set. A reader trusts no byte before its digest is checked."""

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import ValidationError

from schemas.base import describe
from schemas.calibration_set import (
    MANIFEST,
    CalibrationSetManifest,
    DivergedBatch,
    ShardRecord,
    shard_record_path,
)
from schemas.errors import InputError, VerificationError
from schemas.labels import ImageLabels
from schemas.storage import atomic_path, file_digest, write_text

MAX_PNG_BYTES = 256 * 2**20
MAX_LABELS_BYTES = 4 * 2**20

UNREADABLE = (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError, ImportError)
"""What Pillow raises on bytes that are no whole image. ImportError: Ultralytics, once imported, makes Pillow look for a
HEIC plugin before it calls a file unidentified."""

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """One image of a set, not decoded yet."""

    shard: Path
    offset: int
    bytes: int
    labels: ImageLabels

    def image(self) -> Pixels:
        """The image, `(height, width, 3)` uint8 RGB.

        Raises:
            VerificationError: the PNG does not decode or does not have the size its labels say.
        """
        with self.shard.open("rb") as stream:
            stream.seek(self.offset)
            content = stream.read(self.bytes)
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if image.size != (self.labels.width, self.labels.height):
                    raise VerificationError(f"{self.shard}: image of {image.size} pixels, its labels say otherwise")
                return np.asarray(image.convert("RGB"))
        except UNREADABLE as error:
            raise VerificationError(f"{self.shard}: holds a PNG that does not decode ({error})") from error


@dataclass(frozen=True)
class CalibrationSet:
    """A verified set: its manifest and its samples, images still on disk."""

    folder: Path
    manifest: CalibrationSetManifest
    samples: list[Sample]


def open_calibration_set(folder: Path) -> CalibrationSet:
    """Verify a set and index its samples.

    Raises:
        InputError: there is no finished set here.
        VerificationError: manifest, digests, members or labels are not what they should be.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(
            f"{folder}: no finished calibration set here ({MANIFEST} is missing); run synth, or check the path"
        )
    manifest = CalibrationSetManifest.read(path)
    samples: list[Sample] = []
    for record in manifest.shards:
        verify_shard(folder, record)
        samples += read_shard(folder / record.file, record.samples)
    classes = len(manifest.teacher.class_names)
    for sample in samples:
        if any(box.category_id >= classes for box in sample.labels.boxes):
            raise VerificationError(f"{sample.shard}: a label names a class beyond the teacher's {classes}")
    return CalibrationSet(folder, manifest, samples)


def verify_shard(folder: Path, record: ShardRecord) -> None:
    """Check a shard's size and digest against its record.

    Raises:
        VerificationError: they differ, or the shard is missing.
    """
    path = folder / record.file
    if not path.is_file():
        raise VerificationError(f"{path}: missing, though the manifest names it; copy the whole set again")
    if path.stat().st_size != record.bytes or file_digest(path) != record.sha256:
        raise VerificationError(f"{path}: content does not match its digest; copy it again or run synth again")


def read_shard(path: Path, expected: int) -> list[Sample]:
    """Index one verified shard of `expected` samples: `<key>.png` and `<key>.json`, plain files only.

    Raises:
        VerificationError: anything else is in it.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, ImageLabels] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                key, _, kind = member.name.partition(".")
                if not member.isreg() or not key.isdigit() or kind not in ("png", "json"):
                    raise VerificationError(f"{path}: unexpected member {member.name[:80]!r}")
                if key in (images if kind == "png" else labels) or max(len(images), len(labels)) > expected:
                    raise VerificationError(f"{path}: member {member.name[:80]!r} is there twice or one too many")
                if member.size > (MAX_PNG_BYTES if kind == "png" else MAX_LABELS_BYTES):
                    raise VerificationError(f"{path}: member {member.name!r} of {member.size} bytes is too large")
                if kind == "png":
                    images[key] = (member.offset_data, member.size)
                else:
                    stream = tar.extractfile(member)
                    assert stream is not None  # a regular file
                    labels[key] = ImageLabels.model_validate_json(stream.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise VerificationError(f"{path}: not a readable tar ({error})") from error
    except ValidationError as error:
        raise VerificationError(f"{path}: labels are not valid: {describe(error, ImageLabels)}") from error
    if images.keys() != labels.keys() or len(images) != expected:
        raise VerificationError(f"{path}: {len(images)} images and {len(labels)} labels, its record says {expected}")
    return [Sample(path, *images[key], labels[key]) for key in images]


def write_shard(
    folder: Path,
    index: int,
    samples: Iterable[tuple[Pixels, ImageLabels]],
    *,
    first_sample: int,
    seed: int,
    key: str,
    diverged: Iterable[DivergedBatch] = (),
) -> ShardRecord:
    """Write shard number `index` atomically, then its record.

    The same samples give the same bytes: PNGs carry no time and tar headers a fixed one.
    """
    import webdataset  # loads torch: only the stage that writes shards pays for it

    file = f"calib-{index:06d}.tar"
    count = 0
    with atomic_path(folder / file) as temporary:
        with (
            temporary.open("wb") as stream,
            webdataset.TarWriter(stream, encoder=False, mtime=0, user="zsq", group="zsq") as tar,
        ):
            for pixels, labels in samples:
                tar.write(
                    {
                        "__key__": f"{first_sample + count:08d}",
                        "png": _png(pixels),
                        "json": labels.to_json().encode(),
                    }
                )
                count += 1
        size, digest = temporary.stat().st_size, file_digest(temporary)
    record = ShardRecord(
        file=file, sha256=digest, bytes=size, samples=count, first_sample=first_sample, seed=seed, key=key,
        diverged=tuple(diverged),
    )  # fmt: skip
    write_text(shard_record_path(folder, file), record.to_json())
    return record


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
