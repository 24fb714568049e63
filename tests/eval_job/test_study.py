"""Students of a small detector looked into: layers, weights against activations, what would help."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from detectors.embedded.scenes import VALIDATION_SEED, render_scene
from detectors.protocol import Detector
from eval_job.data import EmbeddedScenes
from eval_job.evaluate import Looking
from eval_job.fidelity import HIGHEST_DB, layer_fidelity, reference_of
from eval_job.measure import labelled
from eval_job.remedies import measure_parts
from eval_job.study import Study
from quantization.calibrate import calibrate
from quantization.convert import in_float, make_student, quantized_layers
from quantization.student import save_student
from schemas.calibration_set import ImageSource, LabelMode
from schemas.eval_config import EvalConfig
from schemas.image_size import ImageSize
from schemas.layer_study import Parts
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, Policy, QatConfig
from schemas.sensitivity import ErrorAtBits, LayerSensitivity, SensitivityReport
from schemas.student import CalibrationSetReference, StudentManifest, TrainingMethod, TrainingSummary
from stages.options import read_config
from stages.stage import Stage

BATCHES = [
    torch.from_numpy(np.stack([render_scene(VALIDATION_SEED, n).image[:128, :128] for n in range(4)]))
    .permute(0, 3, 1, 2)
    .float()
    / 255
]


@pytest.fixture(scope="module")
def teacher(small_teacher: Detector) -> Detector:
    return small_teacher


def student_of(teacher: Detector, bits: BitPolicy) -> Detector:
    student = make_student(teacher, bits)
    calibrate(student.network, lambda: BATCHES, student.head_outputs)
    return student


@pytest.mark.parametrize("policy", [Policy.DEPLOY, Policy.PAPER])
def test_a_student_in_float_is_as_close_as_can_be_told_layer_by_layer(teacher: Detector, policy: Policy) -> None:
    bits = BitPolicy(policy=policy)
    student = student_of(teacher, bits)
    with in_float(student.network):
        found = layer_fidelity(reference_of(teacher, bits), student, BATCHES)
    assert found.keys() == quantized_layers(student.network).keys()
    assert all(each.snr_db > 80 and each.cosine > 0.9999 for each in found.values())


def test_fewer_bits_are_further_from_full_precision(teacher: Detector) -> None:
    median = []
    for weight_bits in (8, 4, 2):
        bits = BitPolicy(weight_bits=weight_bits)
        found = layer_fidelity(reference_of(teacher, bits), student_of(teacher, bits), BATCHES)
        median.append(float(np.median([each.snr_db for each in found.values()])))
    assert HIGHEST_DB > median[0] > median[1] + 6 > median[2] + 12


def test_the_signal_to_noise_of_a_layer_is_that_of_its_outputs(teacher: Detector) -> None:
    bits = BitPolicy(weight_bits=4)
    student, reference = student_of(teacher, bits), reference_of(teacher, bits)
    name, layer = next(iter(quantized_layers(student.network).items()))
    with torch.no_grad():
        theirs = reference.network.get_submodule(name)(BATCHES[0])
        mine = layer(BATCHES[0])
    expected = 10 * torch.log10(theirs.square().sum() / (mine - theirs).square().sum())
    found = layer_fidelity(reference, student, BATCHES)[name]
    assert found.snr_db == pytest.approx(float(expected), abs=0.01)


def sensitivity_of(student: Detector, worst: str) -> SensitivityReport:
    layers = quantized_layers(student.network)
    measured = tuple(
        LayerSensitivity(
            name=name,
            weights=layer.weight.numel(),
            fixed_bits=8 if layer.weight_quantizer.spec.bits == 8 else None,
            errors=tuple(
                ErrorAtBits(weight_bits=bits, error=(10.0 if name == worst else 1.0) / 4.0**bits) for bits in (2, 4, 8)
            ),
        )
        for name, layer in layers.items()
    )
    return SensitivityReport.model_construct(layers=measured)


def measured(teacher: Detector, bits: BitPolicy, score: Callable[[Detector, str], float] | None = None) -> Parts:
    """Parts by how close outputs are, 1 for equal ones: faster than mAP, and in the same order."""
    student, reference = student_of(teacher, bits), reference_of(teacher, bits)
    with torch.no_grad():
        expected = reference.decoded(BATCHES[0])

    def closeness(detector: Detector, label: str) -> float:
        with torch.no_grad():
            return float(1 / (1 + (detector.decoded(BATCHES[0]) - expected).abs().mean()))

    worst = list(quantized_layers(student.network))[4]
    manifest = StudentManifest.model_construct(bits=bits)
    before = {name: layer.weight.clone() for name, layer in quantized_layers(student.network).items()}
    parts = measure_parts(student, reference, manifest, sensitivity_of(student, worst), score or closeness)
    after = quantized_layers(student.network)
    assert all(torch.equal(before[name], after[name].weight) for name in before), "the student itself is left alone"
    return parts


def test_weights_of_two_bits_cost_more_than_activations_of_eight(teacher: Detector) -> None:
    parts = measured(teacher, BitPolicy(weight_bits=2))
    assert parts.full_precision == pytest.approx(1, abs=1e-6)
    assert parts.weights_only < parts.activations_only
    assert parts.student <= min(parts.weights_only, parts.activations_only) + 0.05
    kinds = [each.kind for each in parts.remedies]
    assert set(kinds) == {"weights", "layers", "mixed"}
    recovered = [each.recovered for each in parts.remedies]
    assert recovered == sorted(recovered, reverse=True) and recovered[0] > 0.2
    more = next(each for each in parts.remedies if each.kind == "weights")
    assert more.settings == ("bits.weight_bits=4",) and more.mean_weight_bits > 3.9
    planned = next(each for each in parts.remedies if each.kind == "layers")
    assert planned.settings[0].startswith("bits.layers={")


def test_activations_of_few_bits_are_advised_to_have_eight(teacher: Detector) -> None:
    parts = measured(teacher, BitPolicy(weight_bits=8, activation_bits=3))
    assert parts.activations_only < parts.weights_only
    assert parts.remedies[0].settings == ("bits.activation_bits=8",)


def test_a_student_that_keeps_nearly_all_is_given_no_advice(teacher: Detector) -> None:
    parts = measured(teacher, BitPolicy(), score=lambda detector, label: 0.5)
    assert parts.plainly_rounded is None and parts.remedies == ()


def test_settings_of_remedies_are_settings_that_qat_takes(teacher: Detector) -> None:
    for remedy in measured(teacher, BitPolicy(weight_bits=2, activation_bits=6)).remedies:
        read_config(QatConfig, None, ["bits.weight_bits=2", "targets=[]", *remedy.settings])


def test_a_study_looks_at_the_data_and_at_the_set(teacher: Detector, tmp_path: Path) -> None:
    student = student_of(teacher, BitPolicy(weight_bits=4))
    provenance = Provenance.of("qat", {}, {})
    reference = CalibrationSetReference(
        digest="d", samples=1, image_size=160, label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED
    )
    summary = TrainingSummary(steps=0, seconds=0, first_loss=None, last_loss=None)
    save_student(
        student, tmp_path, method=TrainingMethod.PTQ, config=QatConfig(bits=BitPolicy(weight_bits=4)),
        calibration_set=reference, training=summary, provenance=provenance,
    )  # fmt: skip
    size = ImageSize.square(160)
    images = labelled(EmbeddedScenes(4).read(teacher.identity.class_names), "d", size)
    config = EvalConfig(layer_images=2, advice_images=4)
    study = Study(teacher, images, None, Looking(config, size, torch.device("cpu"), Stage("eval")))

    (gap,) = study.gaps({"student": tmp_path})
    assert (gap.model, gap.calibration_images, gap.real_images) == ("student", 0, 2)
    assert all(layer.calibration is None and layer.real is not None for layer in gap.layers)
    parts = study.parts({"student": tmp_path})
    assert parts is not None and (parts.model, parts.images) == ("student", 4) and parts.full_precision > 0.3
    assert study.set_check() is None
    off = replace(study, looking=replace(study.looking, config=EvalConfig(layer_images=0, advice_images=0)))
    assert off.gaps({"student": tmp_path}) == () and off.parts({"student": tmp_path}) is None
