"""What the images install, without an engine: the lists that the Dockerfile makes of the lock file."""

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXPORTED = """\
# made by uv
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via torch
nvidia-cublas==13.4 ; sys_platform == 'linux' \\
    --hash=sha256:cc
nvidia-ml-py==13.6 \\
    --hash=sha256:dd
onnx==1.23.2 \\
    --hash=sha256:ee
polars==2.1.0
torch==2.15.0 \\
    --hash=sha256:ff
torchvision==0.29.2 \\
    --hash=sha256:gg
triton==3.9.0 ; sys_platform == 'linux' \\
    --hash=sha256:hh
"""
NUMPY = "numpy==2.4.6 ; python_full_version < '3.12' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"


@pytest.fixture(scope="module")
def requirements() -> ModuleType:
    specification = importlib.util.spec_from_file_location("requirements", ROOT / "docker" / "requirements.py")
    assert specification and specification.loader
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def names(text: str) -> list[str]:
    return [line.partition("==")[0] for line in text.splitlines() if not line.startswith(" ")]


def test_a_cuda_image_takes_all_that_is_used_from_the_lock_file(requirements: ModuleType) -> None:
    made = requirements.lists(EXPORTED, "cuda")
    assert names(made["base.txt"]) == ["numpy", "nvidia-cublas", "nvidia-ml-py", "torch", "torchvision"]
    assert names(made["onnx.txt"]) == ["numpy", "nvidia-cublas", "nvidia-ml-py", "onnx", "torch", "torchvision"]
    assert made["torch.txt"] == ""
    assert made["base.txt"].startswith(NUMPY), "markers and hashes stay"


def test_a_cpu_image_takes_no_cuda_and_torch_of_the_same_versions_from_elsewhere(requirements: ModuleType) -> None:
    made = requirements.lists(EXPORTED, "cpu")
    assert names(made["base.txt"]) == ["numpy", "nvidia-ml-py"]
    assert names(made["onnx.txt"]) == ["numpy", "nvidia-ml-py", "onnx"]
    assert made["torch.txt"] == "torch==2.15.0\ntorchvision==0.29.2\n", "the lock file's hashes are of other builds"
    assert made["base.txt"].startswith(NUMPY)


def test_another_build_is_refused(requirements: ModuleType) -> None:
    with pytest.raises(SystemExit, match="TORCH=rocm: takes cuda or cpu"):
        requirements.lists(EXPORTED, "rocm")


def test_every_package_that_is_treated_apart_is_in_the_lock_file(requirements: ModuleType) -> None:
    locked = {package["name"] for package in tomllib.loads((ROOT / "uv.lock").read_text())["package"]}
    apart = requirements.ONNX | requirements.UNUSED | requirements.TORCH | requirements.NOT_CUDA
    assert apart <= locked
    assert sum(requirements.needs_cuda(name) for name in locked) > 10
