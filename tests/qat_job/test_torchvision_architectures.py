"""Every torchvision detector goes through all stages; small ones quickly, the published ones at their size slowly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector, StatisticsKind
from detectors.torchvision.models import PUBLISHED
from qat_job.distillation import FeatureTap, output_divergence
from qat_job.training import Seen, parameter_groups, training_loss
from quantization.calibrate import calibrate
from quantization.convert import make_student, quantized_layers, quantized_matmuls
from quantization.student import load_student, save_student
from schemas.calibration_set import ImageSource, LabelMode
from schemas.image_size import ImageSize
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, Policy, QatConfig
from schemas.student import CalibrationSetReference, TrainingMethod, TrainingSummary
from schemas.synth_config import LabelConfig, LossWeights, ViewConfig
from schemas.training_terms import DistillationWeights
from stages.stage import Stage
from synth_job.divergence import Attempts
from synth_job.initialisation import sample_generator
from synth_job.inversion import Course, Inversion
from synth_job.label_sampling import LabelSampler
from synth_job.statistics import statistics_of

SMALL = ["fasterrcnn", "maskrcnn", "retinanet", "fcos", "ssdlite320_mobilenet_v3_large"]
EVERYTHING_LEARNS = QatConfig(learn_weights=True, learning_rate=1e-3, bias_learning_rate=1e-3)
LABELS = [Detections.of([[8.0, 8.0, 70.0, 60.0]], [2]), Detections.of([[20.0, 10.0, 90.0, 90.0]], [0])]
ONE_VIEW = ViewConfig(flip=0, shift=0, scales=(1.0,))


@pytest.fixture(
    scope="module", params=[*SMALL, *(pytest.param(n, marks=pytest.mark.slow) for n in PUBLISHED if n not in SMALL)]
)
def detector(request: pytest.FixtureRequest, torchvision_detector: Callable[..., Any]) -> Any:
    return torchvision_detector(request.param)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def test_labels_are_sampled(detector: Detector) -> None:
    config = LabelConfig(size=96, iterations=2, warm_up=1, interval=1, batch=2, confidence=0.01)
    sampled = LabelSampler(detector, config, seed=0).sample(
        range(2), ImageSize.square(96), Stage("test"), Attempts(print)
    )
    assert sampled.images.shape == (2, 3, 96, 96)
    assert all(len(found) >= 1 for found in sampled.detections)


def test_inversion_lowers_the_loss_and_the_statistics(detector: Detector, images: Tensor) -> None:
    def losses(x: Tensor) -> tuple[float, float]:
        with statistics_of(detector) as statistics, torch.no_grad():
            task = detector.detection_loss(x, LABELS)
            return float(task), float(statistics.losses()[0])

    def inverted(weights: LossWeights) -> Tensor:
        course = Course(6, 0.01, weights, ONE_VIEW)
        return Inversion(detector).run(images, LABELS, course, sample_generator(0, 0))

    off = {"task": 0.0, "batch_norm": 0.0, "attention": 0.0, "first_layer": 0.0, "total_variation": 0.0}
    before = losses(images)
    assert losses(inverted(LossWeights(**off | {"task": 1.0})))[0] < before[0]
    if detector.statistics_sites():
        assert losses(inverted(LossWeights(**off | {"batch_norm": 1.0, "attention": 1.0})))[1] < before[1]


@pytest.mark.parametrize("policy", Policy)
def test_a_calibrated_student_is_near_its_teacher_and_nearer_at_more_bits(
    detector: Detector, images: Tensor, policy: Policy
) -> None:
    with torch.no_grad():
        expected = detector.head_outputs(images)
        found = []
        for bits in (3, 8):
            student = make_student(detector, BitPolicy(policy=policy, weight_bits=bits, activation_bits=bits))
            calibrate(student.network, lambda: [images], student.head_outputs)
            found.append(float(output_divergence(student.head_outputs(images, like=expected), expected, 1.0)))
    assert 0 <= found[1] < found[0]


def test_one_training_step_moves_every_weight(detector: Detector, images: Tensor) -> None:
    student, outputs, expected, features = trained(detector, images)
    seen, aim = Seen(outputs, features[0]), Seen(expected, features[1])
    loss = training_loss(student, DistillationWeights(), LABELS, seen, aim)
    before = {name: layer.weight.detach().clone() for name, layer in quantized_layers(student.network).items()}
    optimizer = torch.optim.Adam(parameter_groups(student, EVERYTHING_LEARNS))
    loss.backward()
    optimizer.step()

    assert bool(loss.isfinite())
    assert all(bool(parameter.isfinite().all()) for parameter in student.network.parameters())
    still = [n for n, layer in quantized_layers(student.network).items() if torch.equal(layer.weight, before[n])]
    assert still == []


def trained(detector: Detector, images: Tensor) -> tuple[Detector, Any, Any, tuple[list[Tensor], list[Tensor]]]:
    """A calibrated student and what a training step starts from."""
    student = make_student(detector, BitPolicy(weight_bits=4, activation_bits=8))
    calibrate(student.network, lambda: [images], student.head_outputs)
    for group in parameter_groups(student, EVERYTHING_LEARNS):
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    sites = student.distillation_sites()
    with FeatureTap(student.network, sites) as mine, FeatureTap(detector.network, sites) as theirs:
        with torch.no_grad():
            expected = detector.head_outputs(images)
        outputs = student.head_outputs(images, like=expected)
        return student, outputs, expected, (mine.features(), theirs.features())


def test_a_reloaded_student_is_bit_exact(detector: Detector, images: Tensor, tmp_path: Path) -> None:
    config = QatConfig(bits=BitPolicy(weight_bits=4, activation_bits=8))
    student = make_student(detector, config.bits)
    calibrate(student.network, lambda: [images], student.head_outputs)
    reference = CalibrationSetReference(
        digest="0" * 64, samples=1, image_size=96, label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED
    )
    save_student(
        student, tmp_path, method=TrainingMethod.PTQ, config=config, calibration_set=reference,
        training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
        provenance=Provenance.of("qat", {}, {}),
    )  # fmt: skip
    loaded, manifest = load_student(tmp_path, torch.device("cpu"))
    products = [record.name for record in manifest.quantizers if record.name.endswith((".left", ".right"))]
    assert len(products) == 2 * len(quantized_matmuls(student.network))
    assert bool(products) == (detector.statistics_kind is StatisticsKind.ATTENTION)
    with torch.no_grad():
        mine, theirs = loaded.head_outputs(images), student.head_outputs(images)
    for one, other in zip(mine.class_logits + mine.box_logits, theirs.class_logits + theirs.box_logits, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(loaded.decoded(images), student.decoded(images))
