"""Reading and writing the shards of a calibration set. A reader trusts no byte before its digest is checked."""

import io
import os
import re
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from os import SEEK_END
from pathlib import Path
from typing import BinaryIO

from PIL import Image

from schemas.calibration_set import (
    MANIFEST,
    CalibrationSetManifest,
    DivergedBatch,
    ShardRecord,
    shard_record_path,
)
from schemas.errors import InputError, VerificationError
from schemas.files import regular_file
from schemas.labels import ImageLabels
from stages.pixels import UNREADABLE, Pixels, rgb_pixels
from stages.storage import atomic_path, file_digest, write_text

MAX_PNG_BYTES = 64 * 2**20
"""A 4096 px image of noise, the largest a set can hold, is 48 MiB."""
MAX_LABELS_BYTES = 4 * 2**20
SAMPLE_KEY = re.compile("[0-9]{1,12}")

REMOTE = re.compile("[A-Za-z][A-Za-z0-9+.-]+:")
"""How a URL begins, also one whose `//` a `Path` made `/`."""


@dataclass(frozen=True)
class Sample:
    """One image of a set, not decoded yet."""

    shard: Path
    offset: int
    bytes: int
    labels: ImageLabels
    state: tuple[int, ...] = ()
    """Of the shard's file when it was verified, see `_state`; empty: not known."""

    def image(self) -> Pixels:
        """The image, `(height, width, 3)` uint8 RGB.

        Raises:
            VerificationError: the shard was changed or is gone, or the PNG does not decode or does not have the size
                its labels say.
        """
        try:
            with regular_file(self.shard) as stream:
                if self.state and _state(os.fstat(stream.fileno())) != self.state:
                    raise VerificationError(
                        f"{self.shard}: was changed after it was verified; run the same command again"
                    )
                stream.seek(self.offset)
                content = stream.read(self.bytes)
        except OSError as error:
            raise VerificationError(f"{self.shard}: cannot be read any more ({error.strerror or error})") from error
        try:
            with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
                if image.size != (self.labels.width, self.labels.height):
                    raise VerificationError(f"{self.shard}: image of {image.size} pixels, its labels say otherwise")
                return rgb_pixels(image)
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
    if REMOTE.match(str(folder)):
        raise InputError(f"{folder}: not a folder; fetch a remote set with `zsq set pull` and name the folder it is in")
    path = folder / MANIFEST
    if not path.exists():
        raise InputError(
            f"{folder}: no finished calibration set here ({MANIFEST} is missing); run synth, or check the path"
        )
    manifest = CalibrationSetManifest.read(path)
    verified = {folder / record.file: verify_shard(folder, record) for record in manifest.shards}
    samples = index_samples(folder, manifest)
    for sample in samples:
        if sample.state != verified[sample.shard]:
            raise VerificationError(f"{sample.shard}: was changed while it was verified; run the same command again")
    return CalibrationSet(folder, manifest, samples)


def index_samples(folder: Path, manifest: CalibrationSetManifest) -> list[Sample]:
    """The samples of a set whose shards are verified, in order.

    Raises:
        VerificationError: members or labels are not what the manifest says.
    """
    samples = [sample for record in manifest.shards for sample in read_shard(folder / record.file, record.samples)]
    classes, size = len(manifest.teacher.class_names), manifest.image_size
    for sample in samples:
        if any(box.category_id >= classes for box in sample.labels.boxes):
            raise VerificationError(f"{sample.shard}: a label names a class beyond the teacher's {classes}")
        if (sample.labels.height, sample.labels.width) != (size.height, size.width):
            raise VerificationError(
                f"{sample.shard}: labels for another size than the manifest's {size.height} x {size.width}"
            )
    return samples


def verify_shard(folder: Path, record: ShardRecord) -> tuple[int, ...]:
    """Check a shard's size and digest against its record; the state of the file, see `Sample.state`.

    Raises:
        VerificationError: they differ, or the shard is missing.
    """
    path = folder / record.file
    if not path.is_file():
        raise VerificationError(f"{path}: missing, though the manifest names it; copy the whole set again")
    status = path.stat()
    if status.st_size != record.bytes or file_digest(path) != record.sha256:
        raise VerificationError(
            f"{path}: content does not match its digest; copy it again, or delete it and {MANIFEST} and run synth again"
        )
    return _state(status)


def read_shard(path: Path, expected: int) -> list[Sample]:
    """Index one verified shard of `expected` samples: `<key>.png` and `<key>.json`, plain files only.

    Raises:
        VerificationError: anything else is in it.
    """
    images: dict[str, tuple[int, int]] = {}
    labels: dict[str, ImageLabels] = {}
    try:
        with regular_file(path) as stream:
            state = _state(os.fstat(stream.fileno()))
            for name, offset, size in _members(stream):
                key, _, kind = name.partition(".")
                if not SAMPLE_KEY.fullmatch(key) or kind not in ("png", "json"):
                    raise VerificationError(f"{path}: unexpected member {name!r}")
                if key in (images if kind == "png" else labels) or max(len(images), len(labels)) > expected:
                    raise VerificationError(f"{path}: member {name!r} is there twice or one too many")
                if size > (MAX_PNG_BYTES if kind == "png" else MAX_LABELS_BYTES):
                    raise VerificationError(f"{path}: member {name!r} of {size} bytes is too large")
                if kind == "png":
                    images[key] = (offset, size)
                else:
                    labels[key] = ImageLabels.parse(stream.read(size), f"{path}, member {name}")
    except (tarfile.TarError, ValueError, OSError) as error:
        raise VerificationError(f"{path}: not a readable tar ({error})") from error
    if images.keys() != labels.keys() or len(images) != expected:
        raise VerificationError(f"{path}: {len(images)} images and {len(labels)} labels, its record says {expected}")
    return [Sample(path, *images[key], labels[key], state) for key in images]


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What changes with a file that is written or replaced: its number, size, and times; the last one nobody sets."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _members(stream: BinaryIO) -> Iterator[tuple[str, int, int]]:
    """Name, offset and size (bytes) of each member of a plain tar; the stream stands at its content.

    `tarfile` alone would follow extension headers (long names, pax, sparse maps), allocate what they claim and walk
    backwards over negative sizes. Here each block of 512 bytes is a header of a plain file, or the archive is refused.

    Raises:
        tarfile.TarError, ValueError: it is not such an archive.
    """
    end = stream.seek(0, SEEK_END)
    position = 0
    while True:
        stream.seek(position)
        block = stream.read(tarfile.BLOCKSIZE)
        if len(block) == tarfile.BLOCKSIZE and not any(block):
            break
        member = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        offset = position + tarfile.BLOCKSIZE
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise ValueError(f"unexpected member {member.name[:80]!r} that is no plain file")
        if not 0 <= member.size <= end - offset:
            raise ValueError(f"member {member.name[:80]!r} is not whole")
        yield member.name[:80], offset, member.size
        position = offset + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    rest = stream.read(tarfile.RECORDSIZE + 1)
    if len(rest) > tarfile.RECORDSIZE or any(rest):
        raise ValueError("something follows its end")


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
        file=file,
        sha256=digest,
        bytes=size,
        samples=count,
        first_sample=first_sample,
        seed=seed,
        key=key,
        diverged=tuple(diverged),
    )
    write_text(shard_record_path(folder, file), record.to_json())
    return record


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, "RGB").save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
