"""A small finished set, other folders to put it, and real servers on loopback."""

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app
from schemas.calibration_set import CalibrationSetManifest

BUCKET = "sets"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
NGINX_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log; {user}
events {{ worker_connections 64; }}
http {{
    access_log {folder}/access.log combined;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{ listen 127.0.0.1:{port}; root {served}; {extra} }}
}}
"""


def zsq_set(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["set", *map(str, arguments)])


@pytest.fixture
def set_folder(tmp_path: Path, make_calibration_set: Callable[[Path], CalibrationSetManifest]) -> Path:
    """Two shards of three 32 px images."""
    make_calibration_set(tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture(autouse=True)
def straight_to_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr("pipeline.sets.fetch.PAUSE_S", 0.01)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the server ended at once"
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("the server does not answer")


@dataclass
class Nginx:
    """A running nginx that serves `served` at `url`."""

    url: str
    served: Path
    log: Path

    def ranges(self) -> list[str]:
        """Status of each request for a shard, in order: 200 a whole file, 206 a part."""
        return [line.split()[8] for line in self.log.read_text().splitlines() if ".tar " in line]


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Starts nginx on a folder, with more lines for its server block."""
    if not Path(NGINX).exists():
        pytest.skip("NGINX IS NOT INSTALLED: transfers over http were not tested (apt-get install nginx-light)")
    running: list[subprocess.Popen[bytes]] = []

    def start(served: Path, extra: str = "") -> Nginx:
        folder, port = tmp_path / f"nginx{len(running)}", free_port()
        folder.mkdir()
        user = (
            "user root;" if Path.home() == Path("/root") else ""
        )  # as root it would drop to a user who reads no tests
        config = folder / "nginx.conf"
        config.write_text(NGINX_CONFIG.format(folder=folder, port=port, served=served, extra=extra, user=user))
        running.append(subprocess.Popen([NGINX, "-c", str(config), "-e", str(folder / "error.log")]))
        wait_for(port, running[-1])
        return Nginx(f"http://127.0.0.1:{port}", served, folder / "access.log")

    yield start
    for process in running:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of an S3 server on loopback."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for(port, process)
    yield f"http://127.0.0.1:{port}"
    process.terminate()
    process.wait(20)


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty place on the S3 server, as a URL."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    filesystem = s3fs.S3FileSystem(skip_instance_cache=True)
    if not filesystem.exists(BUCKET):
        filesystem.mkdir(BUCKET)
    return f"s3://{BUCKET}/{tmp_path.name}"
