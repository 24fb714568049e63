"""Every YOLO generation of the library goes through both stages: one inversion step and one training step."""

import pytest
import torch
from ultralytics.nn.tasks import yaml_model_load

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.ultralytics.yolo import UltralyticsDetector
from qat_job.distillation import FeatureTap
from qat_job.training import Seen, parameter_groups, training_loss
from quantization.calibrate import calibrate
from quantization.convert import make_student, quantized_layers
from schemas.qat_config import BitPolicy, QatConfig
from schemas.synth_config import ViewConfig
from schemas.teacher import TeacherIdentity
from schemas.training_terms import DistillationWeights
from synth_job.initialisation import sample_generator
from synth_job.inversion import Course, Inversion

ARCHITECTURES = {
    "v5u": "yolov5n.yaml",
    "v8": "yolov8n.yaml",
    "v9": "yolov9t.yaml",
    "v10": "yolov10n.yaml",
    "11": "yolo11n.yaml",
    "12": "yolo12n.yaml",
    "26": "yolo26n.yaml",
}
END_TO_END = {"v10", "26"}
EVERYTHING_LEARNS = QatConfig(learn_weights=True, learning_rate=1e-3, bias_learning_rate=1e-3)
LABELS = [Detections.of([[8.0, 8.0, 50.0, 40.0]], [2]), Detections.of([[20.0, 10.0, 60.0, 60.0]], [0])]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def generation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def detector(generation: str) -> UltralyticsDetector:
    """The smallest network of a generation, random weights, batch norms with statistics of random images."""
    torch.manual_seed(0)
    identity = TeacherIdentity(
        family="ultralytics",
        architecture=yaml_model_load(ARCHITECTURES[generation]) | {"nc": 3},
        sha256="0" * 64,
        class_names=("a", "b", "c"),
        input_size=64,
        stride=32,
    )
    built = UltralyticsDetector.build(TeacherIdentity.model_validate_json(identity.model_dump_json()))
    built.network.train()
    with torch.no_grad():
        for _ in range(3):
            built.network(torch.rand(4, 3, 64, 64))
    built.network.eval()
    return built


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_head_outputs_have_the_shapes_of_the_generation(
    generation: str, detector: UltralyticsDetector, images: torch.Tensor
) -> None:
    outputs = detector.head_outputs(images)
    branches, bins = (2 if generation in END_TO_END else 1), (1 if generation == "26" else 16)
    assert [tuple(logits.shape) for logits in outputs.class_logits] == [(2, 3, 84)] * branches
    assert [tuple(logits.shape) for logits in outputs.box_logits] == [(2, 4, bins, 84)] * branches
    assert len(detector.output_layers()) == 6 * branches


def test_folding_batch_norm_keeps_the_outputs_and_leaves_none(
    detector: UltralyticsDetector, images: torch.Tensor
) -> None:
    folded = detector.copy()
    folded.fold_batch_norm()
    assert folded.statistics_sites() == []
    mine, theirs = folded.head_outputs(images), detector.head_outputs(images)
    for one, other in zip(mine.class_logits + mine.box_logits, theirs.class_logits + theirs.box_logits, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-4


def test_predictions_decode_inside_reasonable_bounds(detector: UltralyticsDetector, images: torch.Tensor) -> None:
    for found in detector.predict(images, Suppression(1e-6, 0.7, 20, multi_label=False)):
        assert 0 < len(found) <= 20
        assert bool((found.boxes[:, 2:] >= found.boxes[:, :2]).all())
        assert set(found.classes.tolist()) <= {0, 1, 2}


def test_one_inversion_step_moves_the_images(detector: UltralyticsDetector, images: torch.Tensor) -> None:
    start = images.clone().requires_grad_()
    detector.task_loss(detector.head_outputs(start), LABELS).backward()
    assert start.grad is not None
    assert bool(start.grad.isfinite().all())
    assert float(start.grad.abs().sum()) > 0

    course = Course(1, 0.1, views=ViewConfig(flip=0, shift=0, scales=(1.0,)))
    moved = Inversion(detector).run(images, LABELS, course, sample_generator(0, 0))
    assert bool(moved.isfinite().all())
    assert float((moved - images).abs().max()) > 0.05
    assert 0 <= float(moved.min()) <= float(moved.max()) <= 1


def test_one_training_step_moves_every_weight(detector: UltralyticsDetector, images: torch.Tensor) -> None:
    student = make_student(detector, BitPolicy(weight_bits=4, activation_bits=8))
    calibrate(student.network, lambda: [images], student.head_outputs)
    groups = parameter_groups(student, EVERYTHING_LEARNS)
    for group in groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)
    optimizer = torch.optim.Adam(groups)
    before = {name: layer.weight.detach().clone() for name, layer in quantized_layers(student.network).items()}
    sites = student.distillation_sites()
    with FeatureTap(student.network, sites) as mine, FeatureTap(detector.network, sites) as theirs:
        with torch.no_grad():
            expected = detector.head_outputs(images)
        outputs = student.head_outputs(images)
        seen, aim = Seen(outputs, mine.features()), Seen(expected, theirs.features())
        loss = training_loss(student, DistillationWeights(), LABELS, seen, aim)
    loss.backward()
    optimizer.step()

    assert bool(loss.isfinite())
    layers = quantized_layers(student.network)
    assert all(bool(parameter.isfinite().all()) for parameter in student.network.parameters())
    still = [name for name, layer in layers.items() if torch.equal(layer.weight, before[name])]
    assert still == []
