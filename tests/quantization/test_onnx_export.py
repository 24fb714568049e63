"""An exported student computes what the simulated one computes, says what it is, and damage is found."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from torch import Tensor
from ultralytics import YOLO

from detectors.detections import Detections
from detectors.protocol import Detector
from quantization.onnx_engine import open_engine
from quantization.onnx_export import export_full_precision, export_student, verify_onnx
from quantization.student import load_student
from schemas.errors import InputError, VerificationError
from schemas.qat_config import BitPolicy, Policy, Quantizer
from schemas.student import OnnxManifest, StudentManifest, onnx_manifest_path

CPU = torch.device("cpu")
SIZE = 160
POLICIES = {
    "W8A8": BitPolicy(),
    "W4A8": BitPolicy(weight_bits=4),
    "W6A6": BitPolicy(weight_bits=6, activation_bits=6),
    "W8A4 symmetric": BitPolicy(activation_bits=4, quantizer=Quantizer.LSQ),
    "W6A6 paper": BitPolicy(policy=Policy.PAPER, weight_bits=6, activation_bits=6),
}
Export = Callable[..., tuple[Path, OnnxManifest]]


@pytest.fixture
def export(save: Callable[[BitPolicy], Path], images: Tensor) -> Export:
    """Save and export the student of a policy; gives the model file and its manifest."""

    def run(bits: BitPolicy, int4: bool = False) -> tuple[Path, OnnxManifest]:
        folder = save(bits)
        student, manifest = load_student(folder, CPU)
        path = folder / "model.onnx"
        return path, export_student(student, manifest, path, images, image_size=SIZE, int4=int4)

    return run


@pytest.fixture(scope="module")
def exported(
    calibrated: Callable[[BitPolicy], Detector], images: Tensor, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, StudentManifest]:
    """The teacher in both precisions beside a W8A8 student; tests must not change the folder."""
    folder = tmp_path_factory.mktemp("exported")
    export_full_precision(calibrated(BitPolicy()), SIZE, folder / "single.onnx", folder / "half.onnx")
    raise AssertionError


def intersection_over_union(one: Detections, other: Detections) -> Tensor:
    low = torch.maximum(one.boxes[:, None, :2], other.boxes[None, :, :2])
    high = torch.minimum(one.boxes[:, None, 2:], other.boxes[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = [(found.boxes[:, 2:] - found.boxes[:, :2]).prod(dim=1) for found in (one, other)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)
