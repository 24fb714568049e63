"""CPU images, with an index of stand-ins: PyTorch's own index of CPU builds may not be reached where tests run."""

import ipaddress
import json
import subprocess
import threading
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.docker.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

IMAGE = "zsq-test-cpu-base"
LOOK = """
import importlib.metadata as m, json
found = {d.name: d.version for d in m.distributions()}
print(json.dumps(found))
"""


def locked_version(name: str) -> str:
    packages = tomllib.loads((ROOT / "uv.lock").read_text())["package"]
    return next(package["version"] for package in packages if package["name"] == name)


def put_wheel(index: Path, name: str, cuda: str | None) -> None:
    """A package that says which CUDA it was built for."""
    version = f"{locked_version(name)}+cpu"
    (index / name).mkdir(parents=True)
    about = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(index / name / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"from {name} import version\n")
        wheel.writestr(f"{name}/version.py", f"cuda = {cuda!r}\n")
        wheel.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")


@pytest.fixture
def build(engine: None, tmp_path: Path) -> Iterator[Callable[[str | None], subprocess.CompletedProcess[str]]]:
    """Build what every stage of a CPU image installs, from an index of packages for this CUDA."""
    found = subprocess.run(
        ["docker", "network", "inspect", "bridge"], capture_output=True, text=True, check=True
    )  # fmt: skip
    config = json.loads(found.stdout)[0]["IPAM"]["Config"][0]
    gateway = config.get("Gateway") or str(next(ipaddress.ip_network(config["Subnet"]).hosts()))
    server = ThreadingHTTPServer((gateway, 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def make(cuda: str | None) -> subprocess.CompletedProcess[str]:
        for name in ("torch", "torchvision"):
            put_wheel(tmp_path, name, cuda)
        arguments = {"TORCH": "cpu", "TORCH_CPU_INDEX": f"http://{gateway}:{server.server_port}", "NO_PROXY": gateway}
        command = ["docker", "buildx", "build", "--file", "docker/Dockerfile", "--target", "base", "--tag", IMAGE, "."]
        command += [part for name, value in arguments.items() for part in ("--build-arg", f"{name}={value}")]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    yield make
    server.shutdown()
    server.server_close()
    subprocess.run(["docker", "image", "rm", "--force", IMAGE], capture_output=True, check=False)


def test_a_cpu_image_has_the_locked_versions_of_the_cpu_index_and_no_cuda(
    build: Callable[[str | None], subprocess.CompletedProcess[str]],
) -> None:
    made = build(None)
    assert made.returncode == 0, made.stderr
    command = ["docker", "run", "--rm", "--network", "none", IMAGE, "python", "-c", LOOK]
    found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert {name: found[name] for name in ("torch", "torchvision")} == {
        name: f"{locked_version(name)}+cpu" for name in ("torch", "torchvision")
    }
    assert [name for name in found if name.startswith(("nvidia-", "cuda-"))] == ["nvidia-ml-py"]
    assert not {"triton", "polars"} & found.keys()
    assert found["ultralytics"] == locked_version("ultralytics")


def test_an_index_of_cuda_builds_is_refused(
    build: Callable[[str | None], subprocess.CompletedProcess[str]],
) -> None:
    made = build("13.2")
    assert made.returncode != 0
    assert "TORCH_CPU_INDEX gave a CUDA build of PyTorch" in made.stderr
