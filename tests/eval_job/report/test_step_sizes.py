from typing import Any

import pytest
from safetensors.numpy import save_file

from eval_job.report.step_sizes import layer_steps
from schemas.errors import VerificationError
from schemas.student import StudentManifest
from stages.storage import file_digest


def test_step_sizes_are_read_layer_by_layer(run: Any) -> None:
    steps = layer_steps(run.student, StudentManifest.read(run.student / "student.json"))

    assert [each.name for each in steps] == ["model.0.conv", "model.1.conv", "model.2.cv1.conv"]
    assert [each.weight_median for each in steps] == pytest.approx([1.25, 0.125, 0.0125])
    assert (steps[0].weight_bits, steps[0].input_bits) == (4, 8)


def test_weights_without_the_named_quantizers_are_refused(run: Any) -> None:
    manifest = StudentManifest.read(run.student / "student.json")
    save_file({}, run.student / "model.safetensors")
    damaged = manifest.model_copy(update={"weights_sha256": file_digest(run.student / "model.safetensors")})

    with pytest.raises(VerificationError, match="does not hold the quantizers"):
        layer_steps(run.student, damaged)
