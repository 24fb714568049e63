"""RT-DETR: a query set instead of anchors, through the library's own loss in eval mode."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import RTDETRDetectionModel

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.registry import load_teacher
from detectors.ultralytics.rtdetr import CELL, RtdetrDetector
from schemas.errors import InputError
from schemas.teacher import TeacherSource

SMALL = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 16, 16, 16, 32)],
    "head": [
        [-1, 1, "AIFI", [64, 4]],
        [[2, 3, 5], 1, "RTDETRDecoder", ["nc", 32, 20, 2, 4, 3, 64]],
    ],
}
"""32 channels, 20 queries, 2 sampling points, 4 attention heads, 3 decoder layers."""
LABELS = [Detections.of([[8.0, 8.0, 50.0, 40.0]], [2]), Detections.of([[20.0, 10.0, 60.0, 60.0]], [0])]


@pytest.fixture(scope="module")
def network() -> Any:
    """A small network of the library, random weights."""
    torch.manual_seed(0)
    made = RTDETRDetectionModel(SMALL, ch=3, nc=3, verbose=False)
    made.names = {0: "cat", 1: "dog", 2: "cow"}
    made.train()
    with torch.no_grad():
        made(torch.rand(2, 3, 64, 64))
    return made.eval()


@pytest.fixture
def detector(network: Any, save_checkpoint: Callable[[Any], Path]) -> RtdetrDetector:
    path = save_checkpoint({"model": network, "train_args": {"imgsz": 64}})
    loaded = load_teacher(TeacherSource(path=str(path), family="rtdetr"), torch.device("cpu"))
    assert isinstance(loaded, RtdetrDetector)
    return loaded


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_predictions_are_those_of_the_library_in_pixels(detector: RtdetrDetector, network: Any, images: Tensor) -> None:
    rows = network(images)[0]
    x, y, w, h, score, category = rows[0, 0].tolist()
    found = detector.predict(images, Suppression(0.0, max_detections=5, multi_label=False))[0]
    assert len(found) == 5
    expected = [(x - w / 2) * 96, (y - h / 2) * 64, (x + w / 2) * 96, (y + h / 2) * 64]
    assert found.boxes[0].tolist() == pytest.approx(expected, abs=1e-3)
    assert (float(found.scores[0]), int(found.classes[0])) == (pytest.approx(score), int(category))


def test_head_outputs_hold_encoder_and_decoder_by_place(detector: RtdetrDetector, images: Tensor) -> None:
    places = 8 * 12 + 4 * 6 + 2 * 3
    outputs = detector.head_outputs(images)
    assert [tuple(logits.shape) for logits in outputs.class_logits] == [(2, 3, places)] * 2
    assert [tuple(boxes.shape) for boxes in outputs.box_logits] == [(2, 4, 1, places)] * 2

    (decoder_boxes, decoder_scores, encoder_boxes, encoder_scores, _), _ = outputs.raw
    encoder, decoder = outputs.class_logits
    chosen = encoder.amax(dim=1).topk(20, dim=1).indices
    sides = torch.tensor([96.0, 64, 96, 64]) / CELL
    for n in range(2):
        torch.testing.assert_close(encoder[n, :, chosen[n]].T, encoder_scores[n])
        torch.testing.assert_close(decoder[n, :, chosen[n]].T, decoder_scores[0, n])
        torch.testing.assert_close(outputs.box_logits[0][n, :, 0, chosen[n]].T, encoder_boxes[n] * sides)
        torch.testing.assert_close(outputs.box_logits[1][n, :, 0, chosen[n]].T, decoder_boxes[0, n] * sides)
        others = torch.ones(places, dtype=torch.bool)
        others[chosen[n]] = False
        assert float(decoder[n, :, others].sigmoid().max()) < 1e-8


def test_the_loss_reaches_the_images_in_eval_mode(detector: RtdetrDetector, images: Tensor) -> None:
    start = images.clone().requires_grad_()
    loss = detector.detection_loss(start, LABELS)
    loss.backward()
    assert start.grad is not None
    assert bool(start.grad.isfinite().all()) and float(start.grad.abs().sum()) > 0
    torch.testing.assert_close(detector.task_loss(detector.head_outputs(images), LABELS), loss.detach())
    assert not detector.network.training


def test_the_loss_is_that_of_the_library_and_lower_for_what_is_found(detector: RtdetrDetector, images: Tensor) -> None:
    found = detector.predict(images, Suppression(0.0, max_detections=1, multi_label=False))
    outputs = detector.head_outputs(images)
    raw, _ = outputs.raw
    boxes = torch.cat([each.boxes for each in found]) / torch.tensor([96.0, 64, 96, 64])
    batch = {
        "img": images,
        "batch_idx": torch.tensor([0, 1]),
        "cls": torch.cat([each.classes for each in found]),
        "bboxes": torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), dim=1),
    }
    theirs = detector.network.loss(batch, preds=(None, raw))[0]
    torch.testing.assert_close(detector.task_loss(outputs, found), theirs)
    elsewhere = [Detections.of([[0.0, 0, 10, 10]], each.classes) for each in found]
    assert float(theirs) < float(detector.task_loss(outputs, elsewhere))


def test_folding_leaves_no_batch_norm_and_the_outputs(detector: RtdetrDetector, images: Tensor) -> None:
    folded = detector.copy()
    folded.fold_batch_norm()
    assert folded.statistics_sites() == []
    mine, theirs = folded.head_outputs(images).class_logits[0], detector.head_outputs(images).class_logits[0]
    assert float((mine - theirs).norm() / theirs.norm()) < 1e-4


def test_layers_that_attention_reads_itself_stay_in_float(detector: RtdetrDetector) -> None:
    attention = [name for name, m in detector.network.named_modules() if isinstance(m, nn.MultiheadAttention)]
    assert len(attention) == 4
    unused = [f"model.6.dec_score_head.{layer}" for layer in range(2)]
    assert sorted(detector.float_layers()) == sorted([f"{name}.out_proj" for name in attention] + unused)
    assert len(detector.output_layers()) == 4
    assert set(detector.output_layers()) < set(detector.head_layers())


def test_the_families_refuse_each_others_checkpoints(
    network: Any, library_model: Any, save_checkpoint: Callable[[Any], Path]
) -> None:
    for model, family in ((network, "ultralytics"), (library_model, "rtdetr")):
        path = save_checkpoint({"model": model})
        with pytest.raises(InputError, match=f"model of family {family}"):
            load_teacher(TeacherSource(path=str(path), family=family), torch.device("cpu"))
