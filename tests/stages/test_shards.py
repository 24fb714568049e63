import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from PIL import Image

from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ShardRecord
from schemas.errors import InputError, VerificationError
from schemas.labels import ImageLabels
from stages.shards import index_samples, open_calibration_set, read_shard, write_shard

SHARD = "calib-000000.tar"
LABELS = ImageLabels(width=8, height=8, boxes=())


@pytest.fixture
def folder(tmp_path: Path, make_calibration_set: Callable[[Path], CalibrationSetManifest]) -> Path:
    make_calibration_set(tmp_path)
    return tmp_path


def png(side: int = 8, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side)).save(buffer, format=kind)
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], kind: bytes = tarfile.REGTYPE) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size, member.type = len(content), kind
            tar.addfile(member, io.BytesIO(content))


def resign(folder: Path, file: str = SHARD) -> None:
    """Give the manifest the digest the shard has now, as somebody who tampers with both would."""
    content = (folder / file).read_bytes()
    manifest = json.loads((folder / MANIFEST).read_text())
    for shard in manifest["shards"]:
        if shard["file"] == file:
            shard |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def members_of(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def test_images_and_labels_come_back_exactly(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    record = write_shard(tmp_path, 0, zip(images, [LABELS] * 2, strict=True), first_sample=4, seed=0, key="k")
    samples = read_shard(tmp_path / record.file, record.samples)
    assert [sample.labels for sample in samples] == [LABELS] * 2
    for sample, image in zip(samples, images, strict=True):
        np.testing.assert_array_equal(sample.image(), image)
    assert ShardRecord.read(tmp_path / "calib-000000.json") == record
    assert [name for name, _ in members_of(tmp_path / SHARD)][::2] in (
        ["00000004.json", "00000005.json"],
        ["00000004.png", "00000005.png"],
    )


def test_the_same_set_twice_has_the_same_bytes(tmp_path, make_calibration_set):
    one, other = make_calibration_set(tmp_path / "one"), make_calibration_set(tmp_path / "other")
    assert (tmp_path / "one" / SHARD).read_bytes() == (tmp_path / "other" / SHARD).read_bytes()
    assert one.digest == other.digest
    assert one.shards == other.shards


def test_a_whole_set_opens_in_order(folder):
    opened = open_calibration_set(folder)
    assert len(opened.samples) == opened.manifest.samples == 6
    assert [sample.labels.boxes[0].bbox[0] for sample in opened.samples] == [0, 2, 4, 6, 8, 10]
    assert all(sample.image().shape == (32, 32, 3) for sample in opened.samples)


def test_webdataset_reads_the_shards(folder):
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] for sample in samples] == [f"{index:08d}" for index in range(6)]
    assert samples[0]["png"].shape == (32, 32, 3)
    assert samples[0]["json"]["width"] == 32


def test_a_folder_without_a_finished_set_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no finished calibration set"):
        open_calibration_set(tmp_path)
    with pytest.raises(InputError, match="no finished calibration set"):
        open_calibration_set(tmp_path / "none")


def test_a_flipped_byte_is_found(folder):
    content = bytearray((folder / SHARD).read_bytes())
    content[700] ^= 1
    (folder / SHARD).write_bytes(content)
    with pytest.raises(VerificationError, match="does not match its digest"):
        open_calibration_set(folder)


@pytest.mark.parametrize("length", [0, 100, 512, 1000, 2048])
def test_a_truncated_shard_is_found_by_digest_and_without_one(folder, length):
    (folder / SHARD).write_bytes((folder / SHARD).read_bytes()[:length])
    with pytest.raises(VerificationError, match="digest"):
        open_calibration_set(folder)
    with pytest.raises(VerificationError):
        read_shard(folder / SHARD, 3)


def test_a_missing_shard_is_found(folder):
    (folder / SHARD).unlink()
    with pytest.raises(VerificationError, match="missing, though the manifest names it"):
        open_calibration_set(folder)


@pytest.mark.parametrize(
    "name", ["00000009.txt", "../00000009.png", "/etc/passwd", "a.png", "00000009", "00000009.png.pkl"]
)
def test_a_foreign_member_is_refused(folder, name):
    write_tar(folder / SHARD, [*members_of(folder / SHARD), (name, b"x")])
    resign(folder)
    with pytest.raises(VerificationError, match="unexpected member"):
        open_calibration_set(folder)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_a_member_that_is_no_plain_file_is_refused(tmp_path, kind):
    write_tar(tmp_path / SHARD, [("00000000.png", b"")], kind)
    with pytest.raises(VerificationError, match="unexpected member"):
        read_shard(tmp_path / SHARD, 1)


@pytest.mark.parametrize("again", ["00000000.png", "00000000.json"])
def test_a_member_that_is_there_twice_is_refused(tmp_path, again):
    pair = {"00000000.png": png(), "00000000.json": LABELS.to_json().encode()}
    write_tar(tmp_path / SHARD, [*pair.items(), (again, pair[again])])
    with pytest.raises(VerificationError, match="twice"):
        read_shard(tmp_path / SHARD, 1)


@pytest.mark.parametrize("missing", ["00000000.png", "00000000.json"])
def test_an_image_without_labels_or_the_reverse_is_refused(tmp_path, missing):
    pair = {"00000000.png": png(), "00000000.json": LABELS.to_json().encode()}
    write_tar(tmp_path / SHARD, [item for item in pair.items() if item[0] != missing])
    with pytest.raises(VerificationError, match="its record says 1"):
        read_shard(tmp_path / SHARD, 1)


@pytest.mark.parametrize("expected", [1, 2, 4])
def test_more_or_fewer_samples_than_recorded_are_refused(folder, expected):
    with pytest.raises(VerificationError):
        read_shard(folder / SHARD, expected)


def test_an_oversized_member_is_refused(folder, monkeypatch):
    monkeypatch.setattr("stages.shards.MAX_PNG_BYTES", 10)
    with pytest.raises(VerificationError, match="too large"):
        open_calibration_set(folder)


@pytest.mark.parametrize("labels", [b"{", b"{}", b'{"width": 8, "height": 8, "boxes": [], "more": 1}'])
def test_labels_that_are_not_valid_are_refused(tmp_path, labels):
    write_tar(tmp_path / SHARD, [("00000000.png", png()), ("00000000.json", labels)])
    with pytest.raises(VerificationError, match="not a valid ImageLabels"):
        read_shard(tmp_path / SHARD, 1)


@pytest.mark.parametrize("content", [b"", b"no image", png()[:40], png(16), png(kind="JPEG")])
def test_an_image_that_is_broken_of_another_size_or_no_png_is_refused(tmp_path, content):
    write_tar(tmp_path / SHARD, [("00000000.png", content), ("00000000.json", LABELS.to_json().encode())])
    (sample,) = read_shard(tmp_path / SHARD, 1)
    with pytest.raises(VerificationError):
        sample.image()


def test_other_pixels_under_old_times_are_noticed(folder):
    opened = open_calibration_set(folder)
    path, before = folder / SHARD, (folder / SHARD).stat()
    content = bytearray(path.read_bytes())
    content[opened.samples[0].offset + 100] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(VerificationError, match="was changed after it was verified"):
        opened.samples[0].image()


def test_a_change_between_digest_and_index_is_noticed(folder, monkeypatch):
    def touched(*arguments):
        samples = index_samples(*arguments)
        return [replace(sample, state=(*sample.state[:-1], 0)) for sample in samples]

    monkeypatch.setattr("stages.shards.index_samples", touched)
    with pytest.raises(VerificationError, match="was changed while it was verified"):
        open_calibration_set(folder)


def test_a_class_beyond_the_teachers_is_refused(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["teacher"]["class_names"] = ["cat"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="class beyond the teacher's 1"):
        open_calibration_set(folder)


def test_a_manifest_that_names_a_shard_twice_is_refused(folder):
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"].append(manifest["shards"][0])
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(VerificationError, match="names a shard more than once"):
        open_calibration_set(folder)


def test_a_manifest_cannot_name_a_file_elsewhere(folder):
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text.replace(SHARD, "../../etc/passwd"))
    with pytest.raises(VerificationError, match=r"shards.0.file"):
        open_calibration_set(folder)


def test_a_png_of_16_bit_grey_is_as_bright_as_one_of_8_bits(tmp_path: Path) -> None:
    grey = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    images = []
    for pixels in (grey, grey.astype(np.uint16) * 257):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, format="PNG")
        path = tmp_path / SHARD
        write_tar(path, [("00000000.png", buffer.getvalue()), ("00000000.json", LABELS.to_json().encode())])
        (sample,) = read_shard(path, 1)
        images.append(sample.image())
    np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("change", ["written", "replaced", "gone"])
def test_a_shard_that_changes_after_it_was_verified_is_not_read(
    tmp_path: Path, make_calibration_set: Callable[[Path], CalibrationSetManifest], change: str
) -> None:
    make_calibration_set(tmp_path)
    sample = open_calibration_set(tmp_path).samples[0]
    assert sample.image().shape[2] == 3
    content = sample.shard.read_bytes()
    if change != "written":
        sample.shard.unlink()
    if change != "gone":
        sample.shard.write_bytes(content[:600] + bytes(8) + content[608:])
    with pytest.raises(VerificationError, match=r"changed after|cannot be read any more"):
        sample.image()
