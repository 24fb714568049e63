"""What is in the images, and what a container of them cannot do."""

import json
import subprocess
from typing import Any

import pytest

from tests.docker.conftest import IMAGES, STAGES, Project

pytestmark = [pytest.mark.docker, pytest.mark.timeout(900)]

PACKAGES = {
    "synth": {"schemas", "stages", "label_formats", "detectors", "synth_job"},
    "qat": {"schemas", "stages", "label_formats", "detectors", "quantization", "qat_job"},
    "eval": {"schemas", "stages", "label_formats", "detectors", "quantization", "eval_job"},
    "check": {
        "schemas", "stages", "label_formats", "detectors", "quantization", "synth_job", "qat_job", "eval_job",
        "pipeline", "zsq",
    },
    "set": {"schemas", "stages", "label_formats", "pipeline"},
}  # fmt: skip
WRITE_ANYWHERE = """
import os, tempfile
for folder in ("/", "/opt/zsq", "/opt/venv", "/config", "/models", "/usr/local", "/var/tmp"):
    try:
        tempfile.TemporaryFile(dir=folder)
    except OSError:
        continue
    raise SystemExit(f"{folder} can be written")
for folder in ("/tmp", "/data"):
    tempfile.TemporaryFile(dir=folder).close()
print(os.getuid(), os.getgid())
"""
GO_ONLINE = """
import socket
names = sorted(name for _, name in socket.if_nameindex())
try:
    socket.create_connection(("1.1.1.1", 53), timeout=5)
except OSError as error:
    print(names, error.errno)
"""
ENETUNREACH = 101


def inspect(stage: str) -> Any:
    listed = subprocess.run(["docker", "image", "inspect", f"zsq-{stage}"], capture_output=True, check=True)
    return json.loads(listed.stdout)[0]


def python(project: Project, stage: str, script: str) -> subprocess.CompletedProcess[str]:
    return project("run", "--rm", "--no-deps", "--entrypoint", "python", stage, "-c", script)


def plainly(image: str, script: str) -> str:
    """What Python says in a container of an image that Compose has nothing to do with."""
    command = ["docker", "run", "--rm", "--network", "none", "--entrypoint", "python", f"zsq-{image}", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("stage", [*STAGES, "check"])
def test_a_container_is_not_root_and_writes_to_tmp_and_data_alone(project: Project, stage: str) -> None:
    finished = python(project, stage, WRITE_ANYWHERE)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == ["10001", "10001"]


@pytest.mark.parametrize("stage", [*STAGES, "check"])
def test_a_container_has_no_network(project: Project, stage: str) -> None:
    assert python(project, stage, GO_ONLINE).stdout.strip() == f"['lo'] {ENETUNREACH}"


@pytest.mark.parametrize("image", IMAGES)
def test_an_image_holds_its_own_stage_and_no_other(images: None, image: str) -> None:
    script = "import os; print(*(e.name for e in os.scandir('/opt/zsq') if e.is_dir() and '-' not in e.name))"
    assert set(plainly(image, script).split()) == PACKAGES[image]


def test_the_image_of_sets_has_what_sets_take_and_no_pytorch(images: None) -> None:
    script = (
        "import importlib.util as u; "
        "print(*(n for n in ('torch', 'onnx', 'docker', 'fsspec', 'aiohttp', 's3fs') if u.find_spec(n)))"
    )
    assert plainly("set", script).split() == ["fsspec", "aiohttp", "s3fs"]
    helped = subprocess.run(["docker", "run", "--rm", "zsq-set"], capture_output=True, text=True, check=True)
    assert all(command in helped.stdout for command in ("pull", "push", "verify", "merge", "subset", "export"))


def test_only_what_makes_or_runs_onnx_models_carries_its_libraries(project: Project) -> None:
    script = (
        "import importlib.util as u; print(*(u.find_spec(n) is not None for n in ('onnx', 'onnxruntime', 'docker')))"
    )
    found = {stage: python(project, stage, script).stdout.split() for stage in STAGES}
    assert found == {
        "synth": ["False", "False", "False"],
        "qat": ["True", "True", "False"],
        "eval": ["True", "True", "False"],
    }


def test_the_layer_with_the_dependencies_is_stored_once(images: None) -> None:
    layers = {stage: inspect(stage)["RootFS"]["Layers"] for stage in STAGES}
    shared = len(layers["synth"]) - 1  # all but the code
    assert layers["qat"][:shared] == layers["eval"][:shared] == layers["synth"][:shared]
    assert layers["qat"][:-1] == layers["eval"][:-1], "ONNX, too"


@pytest.mark.parametrize("stage", IMAGES)
def test_an_image_names_itself_its_version_and_its_licence_and_no_project(images: None, stage: str) -> None:
    config = inspect(stage)["Config"]
    labels = config["Labels"]
    assert not [name for name in labels if name.startswith("com.docker.compose")]
    assert not [entry for entry in config["Env"] if "proxy" in entry.lower()]
    prefix = "org.opencontainers.image."
    assert labels[prefix + "title"] == f"zsq {stage}"
    assert labels[prefix + "licenses"] == "AGPL-3.0-only"
    assert labels[prefix + "version"] and labels[prefix + "revision"]


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_run_with_help_says_what_it_takes(images: None, stage: str) -> None:
    finished = subprocess.run(
        ["docker", "run", "--rm", f"zsq-{stage}", "--help"], capture_output=True, text=True, check=True
    )
    assert "--output" in finished.stdout and "--run-config" in finished.stdout
