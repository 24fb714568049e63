"""Traced students of the embedded teacher."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from detectors.protocol import Detector
from quantization.onnx.export import TracedStudent, trace_student
from schemas.qat_config import BitPolicy
from schemas.student import StudentManifest


@pytest.fixture(scope="session")
def traced(
    calibrated: Callable[[BitPolicy], Detector], manifest_of: Callable[[Detector, BitPolicy], StudentManifest]
) -> Callable[[BitPolicy], TracedStudent]:
    """The graph of a policy's student, traced once; tests must not change it."""
    made: dict[str, TracedStudent] = {}

    def trace(bits: BitPolicy) -> TracedStudent:
        key = bits.model_dump_json()
        if key not in made:
            made[key] = trace_student(calibrated(bits), manifest_of(calibrated(bits), bits))
        return made[key]

    return trace


@pytest.fixture(scope="session")
def pixels(images: Tensor) -> NDArray[np.float32]:
    """The scenes as an array."""
    return images.numpy()
