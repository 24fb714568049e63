"""A file in LiteRT's interpreter, which is in the converter's environment: a process of its own that takes arrays."""

import contextlib
import json
import subprocess
import tempfile
import weakref
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from quantization.engines.litert.converter.messages import receive, send
from quantization.engines.litert.environment import command, does_not_run, last_line, variables
from schemas.errors import ConfigError, VerificationError

METADATA = "metadata.json"
"""Entry of the archive at the end of the file, which Ultralytics reads too."""
BOXES, SHARES, PIXELS = "zsq_boxes", "shares of the side", "pixels"
"""Key of the metadata, and its values: what boxes are given in."""
PATIENCE = 10
"""Seconds that an interpreter has to end after its input was closed."""


class LiteRtInterpreter:
    """Implements `quantization.onnx.engine.Engine`: boxes come out in pixels.

    Args:
        path: the file, verified.
        threads: threads of one run.

    Attributes:
        seconds: of the first image of the latest call, as measured around the interpreter alone.

    Raises:
        ConfigError: the environment is not named, or its Python does not run.
        VerificationError: the interpreter cannot read the file.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._scaled = _boxes(path) == SHARES
        self._said: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # as long as the process
        line = command("converter.serve", str(path.absolute()), "--threads", str(threads))
        try:
            self._process = subprocess.Popen(
                line,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                env=variables(),
                start_new_session=True,  # Ctrl-C is for us: it ends when its input does
            )
        except OSError as error:
            raise does_not_run(error) from error
        weakref.finalize(self, _end, self._process)
        self._shape = tuple(self._received().tolist())
        self.seconds = 0.0

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """Decoded outputs of images `(B, 3, H, W)`, one after another."""
        if images.shape[1:] != self._shape[1:]:
            wanted, given = ("x".join(map(str, shape[1:])) for shape in (self._shape, images.shape))
            raise ConfigError(f"{self._path}: takes images of {wanted}, not {given}; export it with --image-size")
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # what it said last is read below
            send(self._process.stdin, images)
        outputs: NDArray[np.float32] = self._received()
        self.seconds = float(self._received()[0])
        if self._scaled:
            height, width = images.shape[2:]
            outputs[:, :4] *= np.array([width, height, width, height], np.float32)[:, None]
        return outputs

    def _received(self) -> NDArray[Any]:
        assert self._process.stdout is not None
        array = receive(self._process.stdout)
        if array is None:
            _end(self._process)
            self._said.seek(0)
            reason = last_line(self._said.read().decode(errors="replace"))
            raise VerificationError(f"{self._path}: litert cannot run it ({reason[:200]}); export it again")
        return array


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close an interpreter's input and wait for its end."""
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _boxes(path: Path) -> str:
    """What the boxes of a file are given in."""
    try:
        with zipfile.ZipFile(path) as archive:
            said: str = json.loads(archive.read(METADATA))[BOXES]
            return said
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise VerificationError(f"{path}: is no LiteRT file of zsq (no {METADATA} in it); export it again") from error
