"""What learns, at which rate, and the terms of the loss."""

import math

import pytest
import torch
from torch import nn

from detectors.detections import Detections
from detectors.protocol import Detector
from qat_job.distillation import FeatureTap, feature_error, output_divergence
from qat_job.training import Seen, check_finite, parameter_groups, training_loss
from quantization.calibrate import calibrate
from quantization.convert import make_student, quantized_layers
from quantization.fake_quantize import FakeQuantizer
from schemas.errors import InputError
from schemas.qat_config import BitPolicy, Policy, QatConfig
from schemas.training_terms import DistillationWeights

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
CONFIG = QatConfig(learn_weights=True, learning_rate=1e-4, bias_learning_rate=1e-2, step_size_learning_rate=1e-3)
LABELS = [Detections.of([[8.0, 8.0, 50.0, 40.0]], [2]), Detections.of([[20.0, 10.0, 60.0, 60.0]], [5])]


@pytest.fixture(scope="module")
def student(teacher: Detector) -> Detector:
    student = make_student(teacher, BitPolicy(weight_bits=4))
    calibrate(student.network, lambda: [IMAGES], student.head_outputs)
    return student


def test_every_parameter_is_in_one_group_but_those_of_decoding(student: Detector) -> None:
    groups = parameter_groups(student, CONFIG)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len({id(parameter) for parameter in grouped}) == len(grouped)
    fixed = {id(p) for name in student.float_layers() for p in student.network.get_submodule(name).parameters()}
    symmetric = {
        id(module.zero_point)
        for module in student.network.modules()
        if isinstance(module, FakeQuantizer) and not module.spec.affine
    }
    everything = {id(parameter) for parameter in student.network.parameters()}
    assert {id(parameter) for parameter in grouped} == everything - fixed - symmetric


def test_weights_are_in_no_group_where_they_do_not_learn(student: Detector) -> None:
    config = CONFIG.model_copy(update={"learn_weights": False})
    grouped, learned = (
        {id(p) for group in parameter_groups(student, each) for p in group["params"]} for each in (config, CONFIG)
    )
    layers = quantized_layers(student.network).values()
    assert learned - grouped >= {id(layer.weight) for layer in layers}
    assert grouped >= {id(layer.bias) for layer in layers if layer.bias is not None}
    assert grouped >= {id(layer.weight_quantizer.step_size) for layer in layers}


def test_step_sizes_learn_relative_to_themselves(student: Detector) -> None:
    rates = {id(p): group["lr"] for group in parameter_groups(student, CONFIG) for p in group["params"]}
    for layer in quantized_layers(student.network).values():
        assert rates[id(layer.weight)] == 1e-4
        assert layer.bias is None or rates[id(layer.bias)] == 1e-2
        for quantizer in (layer.weight_quantizer, layer.input_quantizer):
            expected = 1e-3 * float(quantizer.step_size.detach().mean())
            assert rates[id(quantizer.step_size)] == pytest.approx(expected)


def test_step_sizes_stay_fixed_at_rate_zero(student: Detector) -> None:
    config = CONFIG.model_copy(update={"step_size_learning_rate": 0.0})
    grouped = {id(p) for group in parameter_groups(student, config) for p in group["params"]}
    quantizers = [module for module in student.network.modules() if isinstance(module, FakeQuantizer)]
    assert not any(id(quantizer.step_size) in grouped for quantizer in quantizers)


def test_the_loss_is_the_weighted_sum_of_its_three_terms(student: Detector, teacher: Detector) -> None:
    sites = student.distillation_sites()
    with torch.no_grad(), FeatureTap(student.network, sites) as mine, FeatureTap(teacher.network, sites) as theirs:
        outputs, expected = student.head_outputs(IMAGES), teacher.head_outputs(IMAGES)
        features, teacher_features = mine.features(), theirs.features()

        def loss(task: float, divergence: float, error: float) -> float:
            weights = DistillationWeights(task=task, outputs=divergence, features=error)
            seen, aim = Seen(outputs, features), Seen(expected, teacher_features)
            return float(training_loss(student, weights, LABELS, seen, aim))

        parts = (
            float(student.task_loss(outputs, LABELS)),
            float(output_divergence(outputs, expected, DistillationWeights().temperature)),
            float(feature_error(features, teacher_features)),
        )
        assert all(part > 0 for part in parts)
        assert loss(2, 0, 0) == pytest.approx(2 * parts[0], rel=1e-5)
        assert loss(0, 3, 0) == pytest.approx(3 * parts[1], rel=1e-5)
        assert loss(0, 0, 5) == pytest.approx(5 * parts[2], rel=1e-5)
        assert loss(2, 3, 5) == pytest.approx(2 * parts[0] + 3 * parts[1] + 5 * parts[2], rel=1e-5)
        assert loss(0, 0, 0) == 0


def test_distillation_sites_of_student_and_teacher_agree(student: Detector, teacher: Detector) -> None:
    assert student.distillation_sites() == teacher.distillation_sites()
    assert not any(
        isinstance(student.network.get_submodule(site), nn.Upsample) for site in student.distillation_sites()
    )


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training(loss: float) -> None:
    config = QatConfig(learning_rate=1e-4)
    check_finite([torch.tensor(1.0)], config)
    with pytest.raises(InputError, match=r"lower learning_rate \(now 0.0001\), bias_learning_rate \(now 0.002\)"):
        check_finite([torch.tensor(1.0), torch.tensor(loss)], config)


def test_biases_learn_faster_than_weights_unless_set() -> None:
    assert QatConfig(bits=BitPolicy(weight_bits=4)).rate_of_biases == pytest.approx(4e-3)
    assert QatConfig(bits=BitPolicy(weight_bits=8)).rate_of_biases == pytest.approx(2.5e-4)
    assert QatConfig(bias_learning_rate=0.0).rate_of_biases == 0
    assert QatConfig(learning_rate=1.0).rate_of_biases == 1


def test_weights_are_rounded_for_good_unless_they_learn() -> None:
    assert [QatConfig().compensates(trained=trained) for trained in (False, True)] == [True, True]
    learning = QatConfig(learn_weights=True)
    assert [learning.compensates(trained=trained) for trained in (False, True)] == [True, False]
    assert QatConfig(bits=BitPolicy(policy=Policy.PAPER)).learns_weights
    assert QatConfig(compensated_rounding=True).compensates(trained=True)
    assert not QatConfig(compensated_rounding=False).compensates(trained=False)


def test_compensated_rounding_that_has_no_images_to_round_on_is_refused() -> None:
    with pytest.raises(ValueError, match="compensated_rounding is true but correction_images is 0"):
        QatConfig(compensated_rounding=True, correction_images=0)
    assert QatConfig(compensated_rounding=False, correction_images=0).correction_images == 0


@pytest.mark.parametrize(("bits", "rate"), [(8, 1.25e-5), (6, 5e-5), (4, 2e-4), (3, 4e-4)])
def test_the_default_learning_rate_halves_with_each_weight_bit(bits: int, rate: float) -> None:
    assert QatConfig(bits=BitPolicy(weight_bits=bits)).rate_of_weights == pytest.approx(rate)
    assert QatConfig(bits=BitPolicy(weight_bits=bits), learning_rate=1e-3).rate_of_weights == 1e-3
