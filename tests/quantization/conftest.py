"""A small teacher, images it was made for, and students of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detectors.embedded.scenes import VALIDATION_SEED, render_scene
from detectors.protocol import Detector
from quantization.calibrate import calibrate
from quantization.convert import make_student
from quantization.onnx.export import TracedStudent, trace_student
from quantization.student import save_student
from schemas.calibration_set import ImageSource, LabelMode
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.student import CalibrationSetReference, StudentManifest, TrainingMethod, TrainingSummary


@pytest.fixture(scope="session")
def teacher(small_teacher: Detector) -> Detector:
    """The small detector of scenes; tests must not change it."""
    return small_teacher


@pytest.fixture(scope="session")
def images() -> Tensor:
    """Four scenes, `(4, 3, 160, 160)` in [0, 1]."""
    pixels = np.stack([render_scene(VALIDATION_SEED, index).image for index in range(4)])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255


@pytest.fixture(scope="session")
def calibrated(teacher: Detector, images: Tensor) -> Callable[[BitPolicy], Detector]:
    """A student calibrated on the images; one per policy, shared, so tests must not change it."""
    students: dict[str, Detector] = {}

    def make(bits: BitPolicy) -> Detector:
        key = bits.model_dump_json()
        if key not in students:
            student = make_student(teacher, bits)
            calibrate(student.network, lambda: images.split(2), student.head_outputs)
            students[key] = student
        return students[key]

    return make


@pytest.fixture(scope="session")
def manifest_of() -> Callable[[Detector, BitPolicy], StudentManifest]:
    """The manifest of a student that lies in no folder."""

    def describe(student: Detector, bits: BitPolicy) -> StudentManifest:
        config = QatConfig(bits=bits, ptq_only=True)
        return StudentManifest(
            teacher=student.identity, method=TrainingMethod.PTQ, bits=bits, quantizers=(), qat=config,
            calibration_set=CalibrationSetReference(
                digest="of the set", samples=4, image_size=160,
                label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED,
            ),
            training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
            weights_sha256="5" * 64, provenance=Provenance.of("qat", config.keyed(), {"teacher": "t"}),
        )  # fmt: skip

    return describe


@pytest.fixture(scope="session")
def traced(
    calibrated: Callable[[BitPolicy], Detector],
    manifest_of: Callable[[Detector, BitPolicy], StudentManifest],
    each_trace_once: None,
) -> Callable[[BitPolicy], TracedStudent]:
    """The graph of a policy's student, traced once; tests must not change it."""
    made: dict[str, TracedStudent] = {}

    def trace(bits: BitPolicy) -> TracedStudent:
        key = bits.model_dump_json()
        if key not in made:
            made[key] = trace_student(calibrated(bits), manifest_of(calibrated(bits), bits))
        return made[key]

    return trace


@pytest.fixture
def save(calibrated: Callable[[BitPolicy], Detector], tmp_path: Path) -> Callable[[BitPolicy], Path]:
    """Save the student of a policy; gives its folder."""

    def write(bits: BitPolicy) -> Path:
        config = QatConfig(bits=bits, ptq_only=True)
        save_student(
            calibrated(bits),
            tmp_path,
            method=TrainingMethod.PTQ,
            config=config,
            calibration_set=CalibrationSetReference(
                digest="d", samples=4, image_size=160,
                label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED,
            ),
            training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
            provenance=Provenance.of("qat", config.keyed(), {"teacher": "t"}),
        )  # fmt: skip
        return tmp_path

    return write
