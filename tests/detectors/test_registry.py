"""Devices and architectures come by name."""

import subprocess
import sys

import pytest
import torch

from detectors.registry import build_detector, load_teacher, resolve_device
from schemas.errors import ConfigError
from schemas.teacher import TeacherSource


def test_auto_is_the_best_device_here() -> None:
    assert resolve_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu:x", "meta!", "cuda:-2"])
def test_a_device_that_is_not_here_is_a_configuration_error(name: str) -> None:
    with pytest.raises(ConfigError, match="take auto, cpu or cuda:N") as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)


def test_a_detector_built_from_an_identity_takes_the_weights_of_the_teacher() -> None:
    teacher = load_teacher(TeacherSource(), torch.device("cpu"))
    twin = build_detector(teacher.identity)
    twin.network.load_state_dict(teacher.network.state_dict())
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(twin.head_outputs(images).class_logits[0], teacher.head_outputs(images).class_logits[0])


def test_no_family_imports_ultralytics_before_its_safe_loading_is_on() -> None:
    code = "import detectors.registry, ultralytics.nn.tasks as tasks; assert tasks.SAFE_LOAD"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
