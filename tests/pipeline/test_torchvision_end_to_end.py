"""The whole pipeline on a two-stage detector, as a user runs it: no stage knows what family it works on."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from detectors.embedded.scenes import CLASS_NAMES
from schemas.evaluation import PAGE, EvalReport
from schemas.student import StudentManifest

SMALLEST = {
    "teacher.family": "torchvision", "image_size": 128, "synth.images": 2, "synth.labels.size": 64,
    "synth.labels.iterations": 2, "synth.labels.warm_up": 1, "synth.labels.interval": 1,
    "synth.inversion.iterations": 1, "qat.steps": 1, "qat.batch": 2, "eval.batch": 64, "eval.samples": 2,
    "qat.targets": "[onnxruntime]", "eval.onnx.models": "students",
}  # fmt: skip


def zsq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipeline.cli", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_mask_rcnn_with_swin_goes_through_all_stages(torchvision_detector: Callable[..., Any], tmp_path: Path) -> None:
    outputs = len(CLASS_NAMES) + 1
    teacher = torchvision_detector("maskrcnn", outputs=outputs)
    architecture = teacher.identity.architecture | {"labels": list(range(1, outputs))}
    content = {"model": teacher.network.state_dict(), "architecture": architecture, "class_names": list(CLASS_NAMES)}
    torch.save(content | {"input_size": 64}, tmp_path / "teacher.pt")
    settings = [
        part
        for k, v in (SMALLEST | {"teacher.path": tmp_path / "teacher.pt"}).items()
        for part in ("--set", f"{k}={v}")
    ]
    storage = tmp_path / "run"

    first = zsq("run", "--storage", storage, *settings)
    assert first.returncode == 0, first.stderr
    assert (storage / "student" / "model.onnxruntime.onnx.json").exists()
    student = StudentManifest.read(storage / "student" / "student.json")
    assert student.teacher.family == "torchvision"
    assert any(record.name.endswith("attn.scores.left") for record in student.quantizers)
    report = EvalReport.read(storage / "eval" / "report.json")
    bits = student.bits.name
    assert [model.name for model in report.models] == [
        "full precision", f"PTQ {bits}", f"QAT {bits}", f"QAT {bits}, onnxruntime",
    ]  # fmt: skip
    assert (storage / "eval" / PAGE).stat().st_size > 0

    second = zsq("run", "--storage", storage, *settings)
    events = [json.loads(line) for line in second.stdout.splitlines()]
    assert {each["stage"] for each in events if "up to date" in str(each)} >= {"synth", "qat", "eval"}
    refused = zsq("export", "--student", storage / "student", "--target", "litert")
    assert refused.returncode == 2
    assert "LiteRT has no operators that pool regions" in refused.stderr
