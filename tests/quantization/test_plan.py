"""The two policies quantize what they say they do."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from detectors.protocol import Detector
from quantization.convert import in_float, make_student, mean_weight_bits, quantized_layers, quantizer_records
from quantization.layers import QuantizedLayer
from quantization.plan import QuantizerSpec, plan_layers
from schemas.errors import ConfigError
from schemas.qat_config import BitPolicy, Policy, Quantizer

PAPER = BitPolicy(policy=Policy.PAPER, weight_bits=4, activation_bits=6)
DEPLOY = BitPolicy(policy=Policy.DEPLOY, weight_bits=4, activation_bits=6)


def convolutions(detector: Detector) -> set[str]:
    return {name for name, module in detector.network.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))}


def test_the_paper_policy_leaves_first_layer_and_head_in_float(teacher: Detector) -> None:
    plan = plan_layers(teacher, PAPER)
    assert convolutions(teacher) - plan.keys() == {teacher.first_layer(), *teacher.head_layers()}
    weight, activation = QuantizerSpec(4, "per_tensor", "symmetric"), QuantizerSpec(6, "per_tensor", "symmetric")
    assert {(layer.weight, layer.input) for layer in plan.values()} == {(weight, activation)}


def test_the_deploy_policy_leaves_only_decoding_in_float_and_its_edges_at_8_bits(teacher: Detector) -> None:
    plan = plan_layers(teacher, DEPLOY)
    assert convolutions(teacher) - plan.keys() == {"model.13.dfl.conv"}
    edges = {name for name, layer in plan.items() if (layer.weight.bits, layer.input.bits) == (8, 8)}
    assert edges == {teacher.first_layer(), *teacher.output_layers()}
    inner = {(layer.weight, layer.input) for name, layer in plan.items() if name not in edges}
    assert inner == {(QuantizerSpec(4, "per_channel", "symmetric", True), QuantizerSpec(6, "per_tensor", "affine"))}


@pytest.mark.parametrize(
    ("bits", "lowest"),
    [
        (BitPolicy(), {-64}),
        (BitPolicy(weight_bits=4, layers={"model.4.cv2.conv": 8}), {-8, -64}),
        (BitPolicy(reduce_range=False), {-128}),
        (BitPolicy(policy=Policy.PAPER), {-128}),
        (BitPolicy(policy=Policy.PAPER, reduce_range=True), {-64}),
    ],
)
def test_weights_of_8_bits_use_the_values_of_7_unless_asked_otherwise(
    teacher: Detector, bits: BitPolicy, lowest: set[int]
) -> None:
    student = make_student(teacher, bits)
    assert {layer.weight.range[0] for layer in plan_layers(teacher, bits).values()} == lowest
    weights = [record for record in quantizer_records(student.network) if record.name.endswith(".weight")]
    assert {record.reduced_range for record in weights if record.bits == 8} == {-64 in lowest}
    assert not any(record.reduced_range for record in weights if record.bits < 8)


def test_a_layer_that_is_given_8_bits_later_uses_the_values_of_7_as_well(teacher: Detector) -> None:
    student = make_student(teacher, BitPolicy(weight_bits=4))
    layer = quantized_layers(student.network)["model.4.cv2.conv"]
    layer.set_weight_bits(8)
    assert layer.weight_quantizer.spec.range == (-64, 63)


def test_single_layers_take_their_own_weight_bits_and_nothing_else_changes(teacher: Detector) -> None:
    layers = {"model.4.cv2.conv": 2, "model.4.cv1.conv": 8}
    mixed = plan_layers(teacher, DEPLOY.model_copy(update={"layers": layers}))
    for name, plan in plan_layers(teacher, DEPLOY).items():
        assert mixed[name].input == plan.input
        assert mixed[name].weight.bits == layers.get(name, plan.weight.bits)


@pytest.mark.parametrize(
    ("bits", "name"), [(DEPLOY, "model.13.dfl.conv"), (DEPLOY, "model.0.conv"), (PAPER, "model.13.cv2.0.0.conv")]
)
def test_layers_that_the_policy_decides_about_cannot_be_named(teacher: Detector, bits: BitPolicy, name: str) -> None:
    with pytest.raises(ConfigError, match=f"the {bits.policy.value} policy decides about '{name}' itself"):
        plan_layers(teacher, bits.model_copy(update={"layers": {name: 4}}))


def test_a_layer_that_is_not_there_is_named_with_the_nearest_one(teacher: Detector) -> None:
    with pytest.raises(ConfigError, match=r"no layer 'model\.4\.cv2'; did you mean"):
        plan_layers(teacher, DEPLOY.model_copy(update={"layers": {"model.4.cv2": 4}}))


def test_the_mean_counts_every_quantized_weight_once(teacher: Detector) -> None:
    student = make_student(teacher, DEPLOY)
    plan = plan_layers(teacher, DEPLOY)
    sizes = {name: layer.weight.numel() for name, layer in quantized_layers(student.network).items()}
    expected = sum(sizes[name] * layer.weight.bits for name, layer in plan.items()) / sum(sizes.values())
    assert mean_weight_bits(student.network) == pytest.approx(expected)
    assert 4 < expected < 8


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize(("quantizer", "scheme"), [(Quantizer.LSQ, "symmetric"), (Quantizer.LSQ_PLUS, "affine")])
def test_a_chosen_quantizer_overrides_the_policy_for_activations_only(
    teacher: Detector, policy: Policy, quantizer: Quantizer, scheme: str
) -> None:
    plan = plan_layers(teacher, BitPolicy(policy=policy, quantizer=quantizer))
    assert {layer.input.scheme for layer in plan.values()} == {scheme}
    assert {layer.weight.scheme for layer in plan.values()} == {"symmetric"}


@pytest.mark.parametrize("bits", range(2, 9))
def test_integer_ranges_are_those_of_the_bits(bits: int) -> None:
    assert QuantizerSpec(bits, "per_tensor", "affine").range == (0, 2**bits - 1)
    lowest, highest = QuantizerSpec(bits, "per_tensor", "symmetric").range
    assert highest - lowest == 2**bits - 1
    assert lowest == -highest - 1


def test_the_paper_student_keeps_batch_norm_and_the_deploy_student_has_none(teacher: Detector) -> None:
    paper, deploy = (make_student(teacher, bits) for bits in (PAPER, DEPLOY))
    assert len(paper.statistics_sites()) == len(teacher.statistics_sites()) > 0
    assert deploy.statistics_sites() == []


@pytest.mark.parametrize("bits", [PAPER, DEPLOY], ids=["paper", "deploy"])
def test_a_student_quantizes_exactly_the_planned_layers(teacher: Detector, bits: BitPolicy) -> None:
    student = make_student(teacher, bits)
    plan = plan_layers(teacher, bits)
    assert quantized_layers(student.network).keys() == plan.keys()
    for name, layer in quantized_layers(student.network).items():
        assert (layer.weight_quantizer.spec, layer.input_quantizer.spec) == (plan[name].weight, plan[name].input)
        channels = layer.weight.shape[0] if plan[name].weight.granularity == "per_channel" else 1
        assert layer.weight_quantizer.step_size.shape == (channels,)


def test_making_a_student_leaves_the_teacher_as_it_was(teacher: Detector) -> None:
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    student = make_student(teacher, DEPLOY)
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(1)
    after = teacher.network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(isinstance(module, QuantizedLayer) for module in teacher.network.modules())


@pytest.mark.parametrize("bits", [PAPER, DEPLOY], ids=["paper", "deploy"])
def test_a_student_in_float_computes_what_the_teacher_does(teacher: Detector, bits: BitPolicy) -> None:
    student = make_student(teacher, bits)
    images = torch.rand(1, 3, 64, 64)
    expected = teacher.head_outputs(images).class_logits[0]
    with in_float(student.network):
        actual = student.head_outputs(images).class_logits[0]
    assert (actual - expected).norm() / expected.norm() < 1e-4
    assert all(layer.enabled for layer in quantized_layers(student.network).values())


def test_quantizers_are_on_again_after_an_error_in_float(teacher: Detector) -> None:
    student = make_student(teacher, DEPLOY)
    with pytest.raises(RuntimeError), in_float(student.network):
        raise RuntimeError
    assert all(layer.enabled for layer in quantized_layers(student.network).values())


def test_records_name_every_quantizer_once(teacher: Detector) -> None:
    student = make_student(teacher, DEPLOY)
    records = quantizer_records(student.network)
    assert len({record.name for record in records}) == len(records) == 2 * len(quantized_layers(student.network))
    first = {record.name: record for record in records}[f"{teacher.first_layer()}.input"]
    assert (first.bits, first.granularity, first.scheme, first.signed) == (8, "per_tensor", "affine", False)


def test_a_student_names_the_layers_that_its_teacher_does(teacher: Detector) -> None:
    student = make_student(teacher, BitPolicy(policy=Policy.DEPLOY))
    assert student.layers == replace(teacher.layers, statistics=()), "its batch norms are folded"
    assert make_student(teacher, BitPolicy(policy=Policy.PAPER)).layers == teacher.layers
