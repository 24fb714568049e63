"""A shard whose every byte a test decides, and a leash: time and memory that no input may exceed."""

import io
import json
import os
import resource
import signal
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from schemas.calibration_set import MANIFEST, CalibrationSetManifest
from schemas.errors import ZsqError
from schemas.labels import ImageLabels
from stages.storage import file_digest

SHARD = "calib-000000.tar"
SIDE = 32
MEMORY_BYTES = 512 * 2**20
"""What reading one hostile input may take beyond what the process has, bytes."""
SECONDS = 60
"""Seconds for one input; far more than any takes, since other work may share the machine."""
LABELS = ImageLabels(width=SIDE, height=SIDE, boxes=()).to_json().encode()


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), (200, 10, 90)).save(buffer, format="PNG")
    return buffer.getvalue()


def tar_of(*members: tuple[str, bytes]) -> bytes:
    """A plain tar of these members."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def one_sample(image: bytes | None = None, labels: bytes = LABELS) -> bytes:
    """A shard of one sample."""
    return tar_of(("00000000.png", png() if image is None else image), ("00000000.json", labels))


def small_shard() -> bytes:
    """A shard of one sample without the padding after its two last blocks, for tests of every byte."""
    whole = one_sample()
    return whole[: -(-len(whole.rstrip(b"\0")) // 512) * 512 + 1024]


def sign(folder: Path) -> None:
    """Give the manifest the digests of the shards as they are, as somebody who makes a set of hostile bytes would."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for shard in manifest["shards"]:
        path = folder / shard["file"]
        shard |= {"sha256": file_digest(path), "bytes": path.stat().st_size}
    (folder / MANIFEST).write_text(json.dumps(manifest))


@pytest.fixture
def hostile_set(tmp_path: Path, make_calibration_set: Callable[[Path], CalibrationSetManifest]) -> Path:
    """A set of one shard with one sample, to be spoilt."""
    folder = tmp_path / "set"
    make_calibration_set(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"] = [manifest["shards"][0] | {"samples": 1}]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    (folder / "calib-000001.tar").unlink()
    (folder / "calib-000001.json").unlink()
    (folder / SHARD).write_bytes(one_sample())
    sign(folder)
    return folder


@pytest.fixture(autouse=True)
def leash(tmp_path: Path) -> Iterator[None]:
    """Fails the test when it takes too long, too much memory, or writes anywhere outside its own folder."""

    def bark(*_: object) -> None:
        raise AssertionError(f"still at it after {SECONDS} s")

    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, bark)
    outside = _listing(tmp_path)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert _listing(tmp_path) == outside


@pytest.fixture
def no_time_limit(leash: None) -> None:
    """For tests of many inputs; the limit on memory stays."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def _listing(tmp_path: Path) -> list[str]:
    """What lies beside the test's folder, where `../x` would go."""
    return sorted(path.name for path in tmp_path.parent.iterdir() if path != tmp_path and path.name.startswith("x"))


def refused(read: Callable[[], object]) -> str:
    """The one line of the typed error with which `read` ends."""
    with pytest.raises(ZsqError) as caught:
        read()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 2000
    return text
