"""A seeded mutator of bytes that knows tar headers, PNG chunks and JSON values well enough to get past their checks."""

import random
import re
import zlib

BLOCK = 512
INTERESTING = [b"\0", b"\xff", b"\x80", b"\x7f", b"../", b"/", b"00000000.png", b"00000000.json", b"77777777777", b"-1"]
VALUES = [
    b"NaN", b"-1", b"0", b"1e999", b"1e308", b"9" * 30, b"null", b"true", b'""', b"[]", b"{}", b"[" * 2000,
    b'{"a":' * 500, b'"\\ud800"', b"0.5", b"32.6", b"4096", b"2147483648", b'"2.0"', b'"pipe:x"', b'"../x"',
]  # fmt: skip
KINDS = [bytes([code]) for code in b"01234567LKxgSVDMN\0Z"]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """`content` after one to four changes."""
    for _ in range(rng.randint(1, 4)):
        content = rng.choice(MUTATIONS)(content, rng)
    return content


def _flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _overwrite(content: bytes, rng: random.Random) -> bytes:
    at, piece = rng.randint(0, len(content)), rng.choice(INTERESTING) * rng.randint(1, 5)
    return content[:at] + piece + content[at + len(piece) :]


def _insert(content: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + rng.randbytes(rng.randint(1, 40)) + content[at:]


def _delete(content: bytes, rng: random.Random) -> bytes:
    at = rng.randint(0, len(content))
    return content[:at] + content[at + rng.randint(1, 2 * BLOCK) :]


def _repeat_blocks(content: bytes, rng: random.Random) -> bytes:
    blocks = [content[at : at + BLOCK] for at in range(0, len(content), BLOCK)]
    if blocks:
        blocks.insert(rng.randint(0, len(blocks)), rng.choice(blocks))
    return b"".join(blocks)


def _truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randint(0, len(content))]


def _tar_header(content: bytes, rng: random.Random) -> bytes:
    """Change a field of a header and make its checksum right again."""
    headers = [at for at in range(0, len(content) - BLOCK + 1, BLOCK) if content[at + 257 : at + 262] == b"ustar"]
    if not headers:
        return content
    at = rng.choice(headers)
    block = bytearray(content[at : at + BLOCK])
    start, length = rng.choice(
        [(0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (157, 100), (257, 8), (345, 155)]
    )
    if start == 156:
        field = rng.choice(KINDS)
    elif start == 124:
        number = rng.choice([0, 1, 511, 512, 513, 2**20, 2**33 - 1, 2**62, 2**87, -1, -512, -(2**70)])
        octal = b"%011o\0" % number if 0 <= number < 8**11 else b""
        field = octal or (b"\x80" if number > 0 else b"\xff") + (number % 256**11).to_bytes(11, "big")
    else:
        field = (rng.choice(INTERESTING) * 20)[:length]
    block[start : start + len(field)] = field
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return content[:at] + bytes(block) + content[at + BLOCK :]


def _png_chunk(content: bytes, rng: random.Random) -> bytes:
    """Change the content of a chunk and make its checksum right again."""
    chunks = list(re.finditer(rb"IHDR|IDAT|IEND", content))
    if not chunks:
        return content
    found = rng.choice(chunks)
    length = int.from_bytes(content[found.start() - 4 : found.start()], "big")
    body = bytearray(content[found.end() : found.end() + length])
    for _ in range(rng.randint(1, 3)):
        if body:
            body[rng.randrange(len(body))] = rng.choice([0, 1, 3, 4, 16, 127, 255])
    name = rng.choice(
        [found.group(), found.group(), b"tEXt", b"zTXt", b"iCCP", b"PLTE", b"tRNS", b"acTL", b"fdAT", b"pHYs"]
    )
    crc = zlib.crc32(name + bytes(body)).to_bytes(4, "big")
    return content[: found.start()] + name + bytes(body) + crc + content[found.end() + length + 4 :]


def _json_value(content: bytes, rng: random.Random) -> bytes:
    """Put another value in place of one; the length changes, and with it where everything after it lies in a tar."""
    values = list(re.finditer(rb'(?<=: )("[^"]*"|-?[0-9.]+|\[\]|null)', content))
    if not values:
        return content
    found = rng.choice(values)
    value = rng.choice(VALUES)
    if rng.random() < 0.5:
        value = value[: len(found.group())].ljust(len(found.group()))
    return content[: found.start()] + value + content[found.end() :]


MUTATIONS = (
    _flip, _overwrite, _insert, _delete, _repeat_blocks, _truncate, _tar_header, _tar_header, _png_chunk, _png_chunk,
    _json_value, _json_value,
)  # fmt: skip
