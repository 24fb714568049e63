"""Where sets may lie: a folder here, or one below a `file`, `http(s)` or `s3` URL. Nothing else is ever opened."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

from schemas.errors import ConfigError, InputError
from schemas.files import expanded, regular_file
from stages.extras import how_to_install
from stages.shards import REMOTE

PROTOCOLS = ("file", "http", "https", "s3")
CONNECT_S, READ_S = 30.0, 60.0
"""How long a server may take to answer, and to send the next bytes, in seconds."""
CHUNK_BYTES = 2**20
"""Bytes that are read at a time."""


class TransferError(InputError):
    """A store that does not give or take a file now; what has arrived is kept."""


@dataclass(frozen=True)
class Store:
    """A folder of files, here or on a server, through fsspec.

    Attributes:
        url: the folder, without a slash at its end; of a folder here its plain path.
        protocol: one of `PROTOCOLS`.
    """

    url: str
    protocol: str

    def read(self, name: str, limit: int) -> bytes | None:
        """A small file, at most `limit` + 1 bytes of it; None where there is no such file.

        Raises:
            TransferError: the store does not give it.
        """
        try:
            with self.open(name) as (stream, _):
                content = b""
                while len(content) <= limit and (block := stream.read(min(CHUNK_BYTES, limit + 1 - len(content)))):
                    content += block
                return content
        except FileNotFoundError:
            return None

    @contextmanager
    def open(self, name: str, start: int = 0) -> Iterator[tuple[IO[bytes], int]]:
        """A file as a stream from byte `start`, or from 0 where the server cannot start elsewhere; and which it is.

        Raises:
            FileNotFoundError: there is no such file.
            TransferError: the store does not give it, or stops in the middle.
        """
        url = f"{self.url}/{name}"
        with _one_line_errors(url, reading=True):
            if self.protocol in ("http", "https"):
                headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
                # Block size 0 streams one response; a size, whatever it is, spares a HEAD request before it.
                with self._filesystem().open(url, "rb", block_size=0, size=1, headers=headers) as stream:
                    yield stream, start if start and stream.r.status == 206 else 0
            elif self.protocol == "file":
                with regular_file(Path(url)) as stream:
                    stream.seek(start)
                    yield stream, start
            else:
                with self._filesystem().open(url, "rb") as stream:
                    stream.seek(start)
                    yield stream, start

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        with _one_line_errors(f"{self.url}/{name}"):
            try:
                return int(self._filesystem().info(f"{self.url}/{name}")["size"])
            except FileNotFoundError:
                return None

    def put(self, path: Path, name: str) -> None:
        """Store a file under `name`; a reader sees the old one or the whole new one.

        Raises:
            TransferError: the store does not take it.
        """
        with _one_line_errors(f"{self.url}/{name}"):
            self._filesystem().put_file(str(path), f"{self.url}/{name}")

    def write(self, name: str, content: bytes) -> None:
        """Store a small file under `name`, at once as `put` does."""
        with _one_line_errors(f"{self.url}/{name}"):
            self._filesystem().pipe_file(f"{self.url}/{name}", content)

    def remove(self, name: str) -> None:
        """Delete a file, where there is one."""
        with _one_line_errors(f"{self.url}/{name}"):
            if self._filesystem().exists(f"{self.url}/{name}"):
                self._filesystem().rm_file(f"{self.url}/{name}")

    def _filesystem(self) -> Any:
        """The store, asked anew: nothing that fsspec remembers of an earlier question counts."""
        import fsspec

        options: dict[str, Any] = {}
        try:
            if self.protocol == "s3":
                # Endpoint, region and credentials come from AWS's own variables and files.
                timeouts = {"connect_timeout": CONNECT_S, "read_timeout": READ_S}
                options = {"use_listings_cache": False, "config_kwargs": timeouts}
            elif self.protocol != "file":
                from aiohttp import ClientTimeout

                timeout = ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=READ_S)
                # Nothing is decompressed on the way: a digest is that of the stored bytes, and bombs stay closed.
                # Proxies and their exceptions come from the usual variables.
                options = {"client_kwargs": {"timeout": timeout, "trust_env": True, "auto_decompress": False}}
            return fsspec.filesystem(self.protocol, **options)
        except ImportError as error:
            raise ConfigError(
                f"{self.url}: needs a package that is missing ({error}); {how_to_install('remote')}"
            ) from error


def locate(location: str) -> Store:
    """The folder that `location` names, here or on a server.

    Raises:
        ConfigError: a protocol that is not one of `PROTOCOLS`, or a URL that is not that of a folder.
    """
    if not REMOTE.match(location):
        return Store(str(expanded(location).absolute()), "file")
    protocol, _, rest = location.partition(":")
    if protocol not in PROTOCOLS or "::" in location or not rest.startswith("//"):
        raise ConfigError(
            f"{location[:200]!r}: takes a folder or a {', '.join(name + '://' for name in PROTOCOLS)} URL; nothing "
            "else is opened, commands and pipes never"
        )
    if protocol == "file":
        if not rest.startswith("///"):
            raise ConfigError(f"{location[:200]!r}: write a file URL with three slashes, file:///folder")
        return Store(str(Path(unquote(rest[2:]))), "file")
    if re.search(r"[?#\s]", rest) or not rest.strip("/"):
        raise ConfigError(f"{location[:200]!r}: name the folder of the set, without ?, # or spaces")
    return Store(location.rstrip("/"), protocol)


@contextmanager
def _one_line_errors(where: str, *, reading: bool = False) -> Iterator[None]:
    """Turn whatever the libraries below raise into one line; of a reader, a missing file stays `FileNotFoundError`."""
    try:
        yield
    except _store_errors() as error:
        if reading and isinstance(error, FileNotFoundError):
            raise
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise TransferError(f"{where}: cannot be read or written there ({reason}); run again to go on") from error


def _store_errors() -> tuple[type[Exception], ...]:
    errors: list[type[Exception]] = [OSError, ValueError, TimeoutError]
    try:
        from aiohttp import ClientError
        from botocore.exceptions import BotoCoreError
        from botocore.exceptions import ClientError as S3ClientError
    except ImportError:
        return tuple(errors)
    return (*errors, ClientError, BotoCoreError, S3ClientError)
