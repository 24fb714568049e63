"""Arrays between two processes: the length in 8 bytes, then a `.npy` file of that length. Runs on both sides."""

import io
import struct
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<Q")


def send(stream: IO[bytes], array: NDArray[Any]) -> None:
    """Write an array."""
    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    stream.write(LENGTH.pack(content.tell()))
    stream.write(content.getbuffer())
    stream.flush()


def receive(stream: IO[bytes]) -> NDArray[Any] | None:
    """The next array; None where the other side has ended."""
    header = stream.read(LENGTH.size)
    if len(header) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(header)
    content = stream.read(length)
    if len(content) < length:
        return None
    array: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    return array
