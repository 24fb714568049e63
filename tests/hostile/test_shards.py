"""Shards made to harm: refused with a typed error, within time and memory, and nothing is ever written."""

import io
import struct
import tarfile
import zlib
from pathlib import Path

import pytest
from PIL import Image

from stages.shards import open_calibration_set, read_shard
from tests.hostile.conftest import LABELS, SHARD, SIDE, one_sample, png, refused, sign, small_shard, tar_of

PAIR = (("00000000.png", png()), ("00000000.json", LABELS))


def header(name: str, size: int, kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    """One tar header of any size and kind, its checksum right; sizes beyond octal in base 256, as GNU writes them."""
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, link
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT)[:512])
    if 0 <= size < 8**11:
        block[124:136] = b"%011o\0" % size
    else:
        block[124:136] = (b"\x80" if size >= 0 else b"\xff") + (size % 256**11).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def open_spoilt(folder: Path, shard: bytes) -> str:
    (folder / SHARD).write_bytes(shard)
    sign(folder)
    return refused(lambda: [sample.image() for sample in open_calibration_set(folder).samples])


def test_the_set_opens_before_it_is_spoilt(hostile_set: Path) -> None:
    (sample,) = open_calibration_set(hostile_set).samples
    assert sample.image().shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize(
    "name",
    ["../x.png", "/x.png", "../../etc/passwd", "a/../x.png", "00000001.png/../x", "x" * 99, "0\n0.png", "\u0661.png",
     ".png", "00000000.png.exe", "1" * 60 + ".png", "-1.png", "con.json", "00000000.PNG"],
)  # fmt: skip
def test_build_that_are_no_sample_are_refused(hostile_set: Path, name: str) -> None:
    open_spoilt(hostile_set, tar_of(*PAIR, (name, b"x")))
    assert not (hostile_set.parent / "x.png").exists()


@pytest.mark.parametrize(
    "kind",
    [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE,
     tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE,
     tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, b"Z", b"\xff"],
)  # fmt: skip
@pytest.mark.parametrize("size", [0, 512])
def test_links_devices_sparse_files_and_extensions_are_refused(hostile_set: Path, kind: bytes, size: int) -> None:
    member = header("00000000.png", size, kind, link="/etc/passwd") + bytes(size)
    assert "no plain file" in open_spoilt(hostile_set, member + one_sample())


@pytest.mark.parametrize("size", [10 * 2**30, 8**11 - 1, 2**62, 2**63, 2**87, -1, -512, -1024, -(2**62), 5000])
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE])
def test_sizes_beyond_the_file_or_below_zero_are_refused(hostile_set: Path, size: int, kind: bytes) -> None:
    open_spoilt(hostile_set, header("00000000.json", size, kind) + LABELS)


def test_a_sparse_map_in_a_pax_header_is_refused(hostile_set: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("00000000.json")
        member.pax_headers = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(10 * 2**30), "GNU.sparse.major": "0"}
        tar.addfile(member)
    open_spoilt(hostile_set, buffer.getvalue())


@pytest.mark.parametrize("member", [*PAIR, ("0.png", b"")])
def test_samples_named_twice_or_beside_the_point_are_refused(hostile_set: Path, member: tuple[str, bytes]) -> None:
    open_spoilt(hostile_set, tar_of(*PAIR, member))


def test_far_too_many_members_are_not_counted_to_the_end(hostile_set: Path) -> None:
    many = b"".join(header(f"{number:08d}.png", 0) for number in range(20_000))
    assert "one too many" in open_spoilt(hostile_set, many)


@pytest.mark.parametrize("tail", [b"x", b"\0" * 512 + b"x", b"\0" * 2**20, one_sample()])
def test_what_follows_the_end_is_refused(hostile_set: Path, tail: bytes) -> None:
    assert "follows its end" in open_spoilt(hostile_set, one_sample() + tail)


def test_compressed_archives_are_not_opened(hostile_set: Path) -> None:
    for compression in ("gz", "bz2", "xz"):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:  # type: ignore[call-overload]
            tar.addfile(tarfile.TarInfo("00000000.png"))
        open_spoilt(hostile_set, buffer.getvalue())


def test_a_shard_cut_at_any_byte_is_refused(hostile_set: Path, no_time_limit: None) -> None:
    whole = small_shard()
    shard = hostile_set / SHARD
    for length in range(len(whole) - 512):  # one block of its end is enough
        shard.write_bytes(whole[:length])
        refused(lambda: read_shard(shard, 1))


def test_a_shard_with_any_bit_flipped_is_refused_by_its_digest(hostile_set: Path, no_time_limit: None) -> None:
    whole = small_shard()
    (hostile_set / SHARD).write_bytes(whole)
    sign(hostile_set)
    open_calibration_set(hostile_set)
    for position in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[position] ^= 1 << position % 8
        (hostile_set / SHARD).write_bytes(spoilt)
        assert "does not match its digest" in refused(lambda: open_calibration_set(hostile_set))


def test_a_shard_with_any_bit_flipped_and_a_new_digest_is_read_or_refused(
    hostile_set: Path, no_time_limit: None
) -> None:
    whole = small_shard()
    shard = hostile_set / SHARD
    refusals = 0
    for position in range(len(whole)):
        spoilt = bytearray(whole)
        spoilt[position] ^= 1 << position % 8
        shard.write_bytes(spoilt)
        refusals += not reads(shard)
    assert refusals > len(whole) // 10


def reads(shard: Path) -> bool:
    """Whether the one sample of a shard can be read; a refusal must be a typed one."""
    from schemas.errors import VerificationError

    try:
        for sample in read_shard(shard, 1):
            sample.image()
    except VerificationError as error:
        assert "\n" not in str(error)
        return False
    return True


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_with(*chunks: bytes, width: int = SIDE, height: int = SIDE, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG of these chunks between its header and its pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(SIDE * (1 + 3 * SIDE))))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + pixels + chunk(b"IEND", b"")


BOMB = zlib.compress(bytes(300 * 2**20), 9)


def test_an_image_larger_than_its_labels_say_is_refused_before_it_is_decoded(hostile_set: Path) -> None:
    for side in (33, 60_000, 2**31 - 1):
        open_spoilt(hostile_set, one_sample(png_with(width=side, height=side)))


def test_labels_larger_than_the_manifest_says_are_refused_whatever_the_image_is(hostile_set: Path) -> None:
    labels = LABELS.replace(b"32", b"16000")
    assert "another size" in open_spoilt(hostile_set, one_sample(png_with(width=16_000, height=16_000), labels))


@pytest.mark.parametrize(
    "spoilt",
    [chunk(b"zTXt", b"a\0\0" + BOMB), chunk(b"iTXt", b"a\0\1\0\0\0" + BOMB), chunk(b"iCCP", b"a\0\0" + BOMB)],
    ids=["zTXt", "iTXt", "iCCP"],
)
def test_bombs_in_text_and_profiles_stay_closed(hostile_set: Path, spoilt: bytes) -> None:
    from schemas.errors import VerificationError

    (hostile_set / SHARD).write_bytes(one_sample(png_with(spoilt)))
    sign(hostile_set)
    (sample,) = open_calibration_set(hostile_set).samples
    try:
        assert sample.image().shape == (SIDE, SIDE, 3)
    except VerificationError as error:
        assert "does not decode" in str(error)


def test_many_text_chunks_are_bounded_together(hostile_set: Path) -> None:
    text = zlib.compress(bytes(2**20 - 64))
    chunks = [chunk(b"zTXt", b"%d\0\0" % number + text) for number in range(600)]
    assert "does not decode" in open_spoilt(hostile_set, one_sample(png_with(*chunks)))


def test_a_pixel_bomb_is_read_no_further_than_the_image(hostile_set: Path) -> None:
    spoilt = png_with().replace(chunk(b"IDAT", zlib.compress(bytes(SIDE * (1 + 3 * SIDE)))), chunk(b"IDAT", BOMB))
    (hostile_set / SHARD).write_bytes(one_sample(spoilt))
    sign(hostile_set)
    (sample,) = open_calibration_set(hostile_set).samples
    assert sample.image().shape == (SIDE, SIDE, 3)


@pytest.mark.parametrize("length", [2**31 - 1, 2**32 - 1, 10_000])
def test_chunks_that_claim_more_than_there_is_are_refused(hostile_set: Path, length: int) -> None:
    image = png_with(struct.pack(">I", length) + b"tEXt" + b"a\0b")
    open_spoilt(hostile_set, one_sample(image))


@pytest.mark.parametrize("length", range(13))
def test_a_header_chunk_that_is_too_short_is_refused(hostile_set: Path, length: int) -> None:
    whole = png_with()
    head = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    open_spoilt(hostile_set, one_sample(whole.replace(chunk(b"IHDR", head), chunk(b"IHDR", head[:length]))))


@pytest.mark.parametrize("kind", ["GIF", "JPEG", "TIFF", "BMP", "WEBP", "PPM"])
def test_other_image_formats_are_not_even_tried(hostile_set: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE)).save(buffer, format=kind)
    open_spoilt(hostile_set, one_sample(buffer.getvalue()))
