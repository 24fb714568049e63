"""D-FINE, RT-DETR and RT-DETRv2: predictions, losses and layers, against the library's own."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.registry import load_teacher
from detectors.transformers.detector import CELL, TransformersDetector
from qat_job.distillation import output_divergence
from quantization.convert import make_student, quantized_layers
from schemas.qat_config import BitPolicy
from schemas.teacher import TeacherSource
from tests.conformance.cases import saved_network

LABELS = [Detections.of([[8.0, 8.0, 50.0, 40.0]], [2]), Detections.of([[20.0, 10.0, 60.0, 60.0]], [0])]
KINDS = ("DFine", "RTDetr", "RTDetrV2")


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[TransformersDetector, Any]:
    """A small detector, and the network of the library that it was saved from."""
    folder = tmp_path_factory.mktemp(request.param)
    network = saved_network(request.param, folder)
    teacher = load_teacher(TeacherSource(path=str(folder)), torch.device("cpu"))
    assert isinstance(teacher, TransformersDetector)
    return teacher, network


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_predictions_are_those_of_the_library_in_pixels(pair: Any, images: Tensor) -> None:
    detector, network = pair
    processor = transformers.RTDetrImageProcessor()
    size = torch.tensor([[64, 96]] * 2)
    with torch.no_grad():
        wanted = processor.post_process_object_detection(network(images), threshold=0.3, target_sizes=size)
    found = detector.predict(images, Suppression(0.3))
    assert sum(map(len, found)) > 0
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine.boxes, theirs["boxes"], rtol=1e-4, atol=1e-3)
        torch.testing.assert_close(mine.scores, theirs["scores"], rtol=1e-4, atol=1e-4)
        assert torch.equal(mine.classes, theirs["labels"])


def test_the_loss_is_the_librarys_of_the_last_layer_and_the_encoder(pair: Any, images: Tensor) -> None:
    detector, network = pair
    targets = []
    for label in LABELS:
        x1, y1, x2, y2 = (label.boxes / torch.tensor([96.0, 64.0, 96.0, 64.0])).unbind(1)
        boxes = torch.stack(((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1), 1)
        targets.append({"class_labels": label.classes, "boxes": boxes})
    with torch.no_grad():
        parts = network(images, labels=targets).loss_dict
    layers = len(network.model.decoder.class_embed)
    encoder = f"_aux_{0 if 'DFine' in type(network).__name__ else layers - 1}"
    wanted = sum(float(value) for name, value in parts.items() if "aux" not in name or name.endswith(encoder))
    assert float(detector.detection_loss(images, LABELS)) == pytest.approx(wanted, rel=1e-4)
    assert torch.isfinite(detector.detection_loss(images, [Detections.of([], []), Detections.of([], [])]))


def test_the_loss_reaches_the_pixels(pair: Any, images: Tensor) -> None:
    detector, _ = pair
    pixels = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.detection_loss(pixels, LABELS), pixels)
    assert torch.isfinite(gradient).all() and float(gradient.abs().sum()) > 0


def test_head_outputs_stand_at_the_places_that_queries_come_from(pair: Any, images: Tensor) -> None:
    detector, network = pair
    places, queries = 8 * 12 + 4 * 6 + 2 * 3, 20
    with torch.no_grad():
        outputs, raw = detector.head_outputs(images), network(images)
    assert [tuple(each.shape) for each in outputs.class_logits] == [(2, 3, places)] * 2
    assert [each.shape[3] for each in outputs.box_logits] == [places] * 2
    refined = outputs.class_logits[1]
    there = refined.amax(dim=1) > -19
    assert there.sum(dim=1).tolist() == [queries] * 2
    mine, theirs = refined.transpose(1, 2)[there], raw.logits.flatten(0, 1)
    torch.testing.assert_close(mine.sort(dim=0).values, theirs.sort(dim=0).values, rtol=1e-4, atol=1e-4)
    dense = outputs.box_logits[0][:, :, 0].transpose(1, 2) * CELL / torch.tensor([96.0, 64.0, 96.0, 64.0])
    torch.testing.assert_close(dense, raw.enc_outputs_coord_logits.sigmoid())
    (plain,) = outputs.plain
    assert plain.values.shape == (2, 4, places) and plain.weights.shape == (2, places)
    assert float(output_divergence(outputs, outputs, 4.0)) == pytest.approx(0, abs=1e-5)


def test_every_quantized_layer_learns_from_the_losses(pair: Any, images: Tensor) -> None:
    detector, _ = pair
    student = make_student(detector, BitPolicy(weight_bits=8))
    layers = quantized_layers(student.network)
    for layer in layers.values():
        layer.enabled = False  # step sizes are not set
        layer.weight.requires_grad_(True)
    noise = images + 0.05 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    outputs, wanted = student.head_outputs(noise), detector.head_outputs(images)
    (output_divergence(outputs, wanted, 4.0) + student.task_loss(outputs, LABELS)).backward()
    still = [name for name, layer in layers.items() if layer.weight.grad is None or not layer.weight.grad.any()]
    # The attention of one token to itself, and positions that are added to it, do not depend on the weights.
    assert still == []


def test_layers_lie_where_the_policy_looks_for_them(pair: Any) -> None:
    detector, _ = pair
    layers = detector.layers
    assert layers.first.startswith("model.backbone.model.embedder")
    assert {"model.enc_score_head", "model.decoder.class_embed.1"} <= set(layers.output) <= set(layers.head)
    assert "model.decoder.class_embed.0" in layers.in_float
    assert not set(layers.in_float) & set(layers.head)
    assert not hasattr(detector.network, "class_embed"), "each layer has one name"
    names = [name for name, module in detector.network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert list(layers.statistics) == names
    detector.copy().fold_batch_norm()
    assert list(detector.layers.statistics) == names


def test_an_image_has_as_many_places_as_there_are_queries(pair: Any) -> None:
    detector, _ = pair
    assert detector.smallest_input == 32
    detector.network.config.num_queries = 300
    try:
        assert detector.smallest_input == 128  # 256 + 64 + 16 places
    finally:
        detector.network.config.num_queries = 20


def test_layers_of_prediction_share_no_weights(tmp_path: Path) -> None:
    network = saved_network("RTDetrV2", tmp_path)
    network.model.decoder.bbox_embed[1] = network.model.decoder.bbox_embed[0]
    teacher = load_teacher(TeacherSource(path=str(tmp_path)), torch.device("cpu"))
    parameters = [id(parameter) for parameter in teacher.network.state_dict(keep_vars=True).values()]
    assert len(parameters) == len(set(parameters))
