"""A checkpoint of each family is checked and tried out without a look at the network."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.detectors.test_odd_checkpoints import (
    rtdetr_content,
    torchvision_content,
    ultralytics_content,
    yolov5_content,
)
from tests.detectors.yolov5.pickled import repository

CHECK = """
import sys
from pipeline.preflight.checks import examine
from pipeline.settings import read_run_config
for path in sys.argv[1:]:
    settings = ["device=cpu", "image_size=128", "synth.labels.size=128", "synth.images=1", "synth.inversion.batch=1"]
    print(examine(read_run_config(path, settings), containers=False).family)
"""


@pytest.mark.usefixtures("cut_network")
def test_a_dry_run_of_any_family_asks_no_network(tmp_path: Path, torchvision_detector: Callable[..., Any]) -> None:
    makers: dict[str, Callable[[], Any]] = {
        "ultralytics": ultralytics_content,
        "rtdetr": rtdetr_content,
        "yolov5": yolov5_content,
        "torchvision": lambda: torchvision_content(torchvision_detector),
    }
    for family, make in makers.items():
        with repository():
            torch.save(make(), tmp_path / f"{family}.pt")
    command = [sys.executable, "-c", CHECK, *(str(tmp_path / f"{family}.pt") for family in makers)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.split() == list(makers)


@pytest.mark.usefixtures("cut_network")
def test_the_cut_is_seen(tmp_path: Path) -> None:
    script = "import socket; socket.getaddrinfo('example.org', 443)"
    finished = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert "the network is cut" in finished.stderr
    log = tmp_path / "network.log"
    assert "example.org" in log.read_text()
    log.unlink()
