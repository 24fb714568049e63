"""The search for the fewest bits, and the drop it measures."""

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.embedded.scenes import VALIDATION_SEED, render_scene
from detectors.protocol import Detector
from qat_job.sensitivity.planning import RESOLUTION, AgreementDrop, Plan, plan_for_budget, plan_for_drop
from quantization.convert import make_student, quantized_layers
from quantization.mixed_precision import mean_bits
from quantization.plan import plan_layers
from schemas.errors import ConfigError, InputError
from schemas.qat_config import BitPolicy
from schemas.sensitivity import ErrorAtBits, LayerSensitivity

BITS = BitPolicy(weight_bits=8)
LAYERS = [
    LayerSensitivity(
        name=f"l{k}",
        weights=100,
        fixed_bits=8 if k == 0 else None,
        errors=tuple(ErrorAtBits(weight_bits=bits, error=(k + 1) * 4.0**-bits) for bits in (2, 3, 4, 6, 8)),
    )
    for k in range(40)
]


def falling_drop(plan: Mapping[str, int]) -> float:
    """A drop that is gone at 8 bits in the mean and 1 at 2."""
    return (8 - mean_bits(LAYERS, plan)) / 6


@pytest.mark.parametrize("max_drop", [0.05, 0.3, 0.8])
def test_the_fewest_bits_that_keep_the_drop_are_found(max_drop: float) -> None:
    plan = plan_for_drop(LAYERS, max_drop, falling_drop)
    assert plan.drop == falling_drop(plan.layers)
    assert plan.drop <= max_drop
    fewer = plan_for_budget(LAYERS, plan.mean_bits - 2 * RESOLUTION)
    assert falling_drop(fewer.layers) > max_drop


def test_a_drop_that_cannot_be_kept_is_named() -> None:
    with pytest.raises(ConfigError, match=r"got 0.1, but with 8 bits everywhere the drop is 0.250"):
        plan_for_drop(LAYERS, 0.1, lambda plan: 0.25)


def test_the_learning_rate_follows_the_mean_of_a_plan() -> None:
    bits = Plan({"l1": 2}, mean_bits=4.4, error=0.0).applied_to(BITS)
    assert (bits.weight_bits, bits.layers, bits.activation_bits) == (4, {"l1": 2}, 8)


@pytest.fixture(scope="module")
def scenes() -> tuple[list[Tensor], list[Detections]]:
    """Four rendered scenes and their labels, one batch."""
    found = [render_scene(VALIDATION_SEED, index) for index in range(4)]
    images = torch.stack([torch.from_numpy(scene.image.copy()).permute(2, 0, 1).float() / 255 for scene in found])
    return [images], [Detections.of(torch.from_numpy(s.boxes), torch.from_numpy(s.classes)) for s in found]


def test_fewer_bits_drop_more_and_one_plan_does_not_touch_the_next(
    teacher: Detector, scenes: tuple[list[Tensor], list[Detections]]
) -> None:
    free = [name for name, plan in plan_layers(teacher, BITS.model_copy(update={"weight_bits": 2})).items()
            if plan.weight.bits == 2]  # fmt: skip
    drop_of = AgreementDrop(teacher, BITS, *scenes)
    first, coarse, again = (drop_of(dict.fromkeys(free, bits)) for bits in (8, 2, 8))
    assert first == again < 0.2 < coarse <= 1


def test_a_set_on_which_the_teacher_finds_nothing_is_refused(teacher: Detector) -> None:
    nothing = [Detections.of([[1.0, 1.0, 3.0, 3.0]], [0])]
    with pytest.raises(InputError, match="the teacher finds no label"):
        AgreementDrop(teacher, BITS, [torch.zeros(1, 3, 64, 64)], nothing)


def test_a_plan_gives_each_layer_a_fresh_quantizer_of_its_bits(teacher: Detector) -> None:
    student = make_student(teacher, BITS)
    layer = quantized_layers(student.network)["model.4.cv2.conv"]
    layer.set_weight_bits(3)
    assert layer.weight_quantizer.spec.bits == 3
    assert layer.weight_quantizer.step_size.shape == (layer.weight.shape[0],)
