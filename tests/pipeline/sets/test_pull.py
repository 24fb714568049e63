"""Every byte verified on arrival, breaks gone on from, and never a set that is not whole."""

import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from pipeline.sets import fetch
from schemas.calibration_set import MANIFEST
from stages.shards import open_calibration_set
from tests.pipeline.sets.conftest import Nginx, zsq_set

SHARDS = ("calib-000000.tar", "calib-000001.tar")


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def no_set_in(folder: Path) -> bool:
    return not (folder / MANIFEST).exists()


class Server(socketserver.ThreadingTCPServer):
    """Sends the files of a folder as badly as it is told to."""

    daemon_threads = True
    allow_reuse_address = True
    folder: Path
    target: Path
    """Where the client puts what it gets."""
    cut_after: int = 10**9
    """Bytes of a body after which the connection ends."""
    cuts_left = 0
    ignores_ranges = False
    swap: bytes | None = None
    """What is sent in place of every shard."""
    asked: list[tuple[str, str | None]]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.asked.append((self.path, wanted))
        path = server.folder / self.path.strip("/")
        if not path.is_file():
            self.send_error(404)
            return
        body = path.read_bytes()
        if path.suffix == ".tar" and server.swap is not None:
            body = server.swap
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and not server.ignores_ranges else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        part = body[start:]
        if path.suffix == ".tar" and server.cuts_left:
            server.cuts_left -= 1
            self.wfile.write(part[: server.cut_after])
            self.wfile.flush()
            self.wait_until_written(min(start + server.cut_after, len(body)))
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.wfile.write(part)

    def wait_until_written(self, size: int) -> None:
        """The client throws away what it has not read when the connection ends: let it read what was sent."""
        for _ in range(2000):
            if any(path.stat().st_size >= size for path in self.server.target.glob(".*.part")):
                return
            time.sleep(0.005)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(set_folder: Path, tmp_path: Path) -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Handler) as running:
        running.folder, running.target, running.asked = set_folder, tmp_path / "here", []
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}"


@pytest.mark.parametrize("kind", ["folder", "file", "http", "s3"])
def test_what_arrives_is_the_set_byte_by_byte_and_again_is_up_to_date(
    kind: str, set_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if kind == "s3":
        source = request.getfixturevalue("s3")
        assert zsq_set("push", set_folder, source).exit_code == 0
    elif kind == "http":
        source = request.getfixturevalue("nginx")(set_folder).url
    else:
        source = str(set_folder) if kind == "folder" else f"file://{set_folder}"
    result = zsq_set("pull", source, tmp_path / "here")
    assert result.exit_code == 0, result.output
    assert content(tmp_path / "here") == content(set_folder)
    again = zsq_set("pull", source, tmp_path / "here")
    assert again.exit_code == 0 and "up to date" in again.stdout


def test_nginx_is_asked_only_for_what_is_missing(set_folder: Path, tmp_path: Path, nginx: Callable[..., Nginx]) -> None:
    served = nginx(set_folder)
    manifest = open_calibration_set(set_folder).manifest
    here = tmp_path / "here"
    here.mkdir()
    (here / SHARDS[0]).write_bytes((set_folder / SHARDS[0]).read_bytes())
    partial = here / f".{SHARDS[1]}.{manifest.shards[1].sha256[:16]}.part"
    partial.write_bytes((set_folder / SHARDS[1]).read_bytes()[:5000])
    assert zsq_set("pull", served.url, here).exit_code == 0
    assert content(here) == content(set_folder)
    assert served.ranges() == ["206"]


def test_nginx_that_limits_and_fails_is_one_line(set_folder: Path, tmp_path: Path, nginx: Callable[..., Nginx]) -> None:
    served = nginx(set_folder, "location ~ tar$ { return 503; }")
    result = zsq_set("pull", served.url, tmp_path / "here")
    assert result.exit_code == 2
    assert "503" in result.stderr and result.stderr.count("\n") == 1
    assert no_set_in(tmp_path / "here")


@pytest.mark.parametrize("cut_after", [0, 1, 4096, 9000])
def test_a_connection_cut_mid_file_is_gone_on_from_where_it_broke(
    server: Server, set_folder: Path, tmp_path: Path, cut_after: int
) -> None:
    server.cut_after, server.cuts_left = cut_after, 2
    assert zsq_set("pull", url(server), tmp_path / "here").exit_code == 0
    assert content(tmp_path / "here") == content(set_folder)
    resumed = [asked for path, asked in server.asked if path == f"/{SHARDS[0]}"]
    assert resumed == [None, *(f"bytes={cut_after * n}-" if cut_after else None for n in (1, 2))]


def test_a_server_that_keeps_cutting_is_given_up_and_the_next_pull_goes_on(
    server: Server, set_folder: Path, tmp_path: Path
) -> None:
    server.cut_after, server.cuts_left = 1000, fetch.ATTEMPTS
    here = tmp_path / "here"
    result = zsq_set("pull", url(server), here)
    assert result.exit_code == 2
    assert "run again to go on" in result.stderr and result.stderr.count("\n") == 1
    assert no_set_in(here)
    server.asked.clear()
    assert zsq_set("pull", url(server), here).exit_code == 0
    assert (f"/{SHARDS[0]}", f"bytes={1000 * fetch.ATTEMPTS}-") in server.asked
    assert content(here) == content(set_folder)


def test_a_server_without_ranges_starts_over(server: Server, set_folder: Path, tmp_path: Path) -> None:
    server.ignores_ranges, server.cut_after, server.cuts_left = True, 3000, 1
    assert zsq_set("pull", url(server), tmp_path / "here").exit_code == 0
    assert content(tmp_path / "here") == content(set_folder)


def test_a_whole_partial_file_is_not_asked_for_again(server: Server, set_folder: Path, tmp_path: Path) -> None:
    manifest, here = open_calibration_set(set_folder).manifest, tmp_path / "here"
    here.mkdir()
    for record in manifest.shards:
        (here / f".{record.file}.{record.sha256[:16]}.part").write_bytes((set_folder / record.file).read_bytes())
    assert zsq_set("pull", url(server), here).exit_code == 0
    assert [path for path, _ in server.asked] == [f"/{MANIFEST}"]
    assert content(here) == content(set_folder)


@pytest.mark.parametrize("change", ["flipped", "shorter", "longer", "empty"])
def test_a_shard_that_is_not_what_the_manifest_says_never_becomes_a_set(
    server: Server, set_folder: Path, tmp_path: Path, change: str
) -> None:
    true = (set_folder / SHARDS[0]).read_bytes()
    flipped = true[:700] + bytes([true[700] ^ 1]) + true[701:]
    server.swap = {"flipped": flipped, "shorter": true[:-512], "longer": true + b"\0" * 512, "empty": b""}[change]
    result = zsq_set("pull", url(server), tmp_path / "here")
    assert result.exit_code == 3, result.output
    assert result.stderr.count("\n") == 1
    assert no_set_in(tmp_path / "here") and not list((tmp_path / "here").glob("*.tar"))


def test_a_shard_that_is_missing_fails_verification(server: Server, set_folder: Path, tmp_path: Path) -> None:
    (set_folder / SHARDS[1]).unlink()
    result = zsq_set("pull", url(server), tmp_path / "here")
    assert result.exit_code == 3 and "missing at the source" in result.stderr
    assert no_set_in(tmp_path / "here")


def test_a_set_whose_members_are_hostile_is_refused_though_its_digests_are_right(
    set_folder: Path, tmp_path: Path
) -> None:
    text = json.loads((set_folder / MANIFEST).read_text())
    text["teacher"]["class_names"] = ["cat"]  # labels name class 1
    (set_folder / MANIFEST).write_text(json.dumps(text))
    result = zsq_set("pull", set_folder, tmp_path / "here")
    assert result.exit_code == 3 and "class beyond" in result.stderr
    assert no_set_in(tmp_path / "here")


def test_a_place_without_a_set_is_one_line(server: Server, tmp_path: Path, set_folder: Path) -> None:
    for source in (f"{url(server)}/none", tmp_path / "none", "http://127.0.0.1:9/set"):
        result = zsq_set("pull", source, tmp_path / "here")
        assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert not (tmp_path / "here").exists()


def test_another_set_is_replaced_only_when_told(set_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    assert zsq_set("subset", set_folder, "--count", 2, "--output", other).exit_code == 0
    before = content(other)
    result = zsq_set("pull", set_folder, other)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert content(other) == before
    assert zsq_set("pull", set_folder, other, "--overwrite").exit_code == 0
    assert content(other) == content(set_folder)


def test_nothing_of_a_larger_set_is_left_by_a_smaller_one(set_folder: Path, tmp_path: Path) -> None:
    smaller = tmp_path / "smaller"
    assert zsq_set("subset", set_folder, "--count", 2, "--output", smaller).exit_code == 0
    (set_folder / ".calib-000001.tar.0123456789abcdef.part").write_bytes(b"half")
    assert zsq_set("pull", smaller, set_folder, "--overwrite").exit_code == 0
    assert content(set_folder) == content(smaller)
    assert zsq_set("verify", set_folder).exit_code == 0


def test_shards_of_an_unfinished_run_are_not_written_over(set_folder: Path, tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    (here / SHARDS[0]).write_bytes(b"somebody's work")
    result = zsq_set("pull", set_folder, here)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert (here / SHARDS[0]).read_bytes() == b"somebody's work"


def test_only_the_digest_that_was_asked_for_is_taken(set_folder: Path, tmp_path: Path) -> None:
    digest = open_calibration_set(set_folder).manifest.digest
    assert zsq_set("pull", set_folder, tmp_path / "no", "--digest", "0" * 64).exit_code == 3
    assert not (tmp_path / "no").exists()
    assert zsq_set("pull", set_folder, tmp_path / "yes", "--digest", digest).exit_code == 0


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(
    set_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.sets.pull.shutil.disk_usage", lambda _: type("Usage", (), {"free": 100})())
    result = zsq_set("pull", set_folder, tmp_path / "here")
    assert result.exit_code == 2 and "100 bytes free" in result.stderr
    assert not (tmp_path / "here").exists()
