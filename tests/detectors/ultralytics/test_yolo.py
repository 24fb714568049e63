"""The adapter says what the library says: outputs, loss, predictions, letterboxing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou
from ultralytics import YOLO
from ultralytics.utils.nms import non_max_suppression

from detectors.detections import Detections
from detectors.embedded.scenes import Scene
from detectors.protocol import Suppression
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.image_size import ImageSize
from tests.small_detector import small_detector

LIMITS = Suppression(confidence=0.25, iou=0.7, max_detections=100, multi_label=False)


def relative(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_an_image_has_as_many_places_as_the_loss_assigns_to_an_object(embedded: UltralyticsDetector) -> None:
    assert embedded.smallest_input == 32  # 16 + 4 + 1 places
    two_levels = small_detector()  # of strides 16 and 32, so 32 pixels have 4 + 1
    assert two_levels.smallest_input == 64
    images, labels = torch.rand(1, 3, 64, 64), [Detections.of([[10.0, 10.0, 40.0, 40.0]], [0])]
    assert torch.isfinite(two_levels.detection_loss(images, labels))


def test_head_outputs_have_an_anchor_for_every_cell_of_every_level(embedded: UltralyticsDetector) -> None:
    outputs = embedded.head_outputs(torch.rand(2, 3, 96, 160))
    anchors = sum(96 // stride * 160 // stride for stride in (8, 16, 32))
    assert [tuple(logits.shape) for logits in outputs.class_logits] == [(2, 8, anchors)]
    assert [tuple(logits.shape) for logits in outputs.box_logits] == [(2, 4, 16, anchors)]
    assert not embedded.network.training
    assert not any(module.training for module in embedded.network.modules())


def test_head_outputs_are_logits_of_the_decoded_predictions(embedded: UltralyticsDetector, images: Tensor) -> None:
    outputs = embedded.head_outputs(images)
    decoded = embedded.network(images)[0]  # (B, 4 + classes, anchors): box as centre and size, then probabilities
    torch.testing.assert_close(outputs.class_logits[0].sigmoid(), decoded[:, 4:])
    # Edges are the means of the distributions, in strides from the anchor; left plus right is the width.
    edges = (outputs.box_logits[0].softmax(dim=2) * torch.arange(16.0)[:, None]).sum(dim=2)
    strides = torch.cat([torch.full(((160 // stride) ** 2,), float(stride)) for stride in (8, 16, 32)])
    torch.testing.assert_close((edges[:, 0] + edges[:, 2]) * strides, decoded[:, 2], rtol=1e-4, atol=1e-3)


def test_a_failure_inside_the_network_leaves_the_head_in_eval_mode(embedded: UltralyticsDetector) -> None:
    with pytest.raises(RuntimeError):
        embedded.head_outputs(torch.rand(1, 5, 64, 64))
    assert not embedded.network.model[-1].training


def test_images_get_gradients_and_weights_none(
    embedded: UltralyticsDetector, images: Tensor, labels: list[Detections]
) -> None:
    moving = images.clone().requires_grad_()
    embedded.task_loss(embedded.head_outputs(moving), labels).backward()
    assert moving.grad is not None
    assert bool(moving.grad.isfinite().all())
    assert float(moving.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in embedded.network.parameters())


def test_the_task_loss_is_the_library_criterion(
    embedded: UltralyticsDetector, images: Tensor, labels: list[Detections]
) -> None:
    outputs = embedded.head_outputs(images)
    rows = [
        (number, int(category), (x1 + x2) / 320, (y1 + y2) / 320, (x2 - x1) / 160, (y2 - y1) / 160)
        for number, label in enumerate(labels)
        for category, (x1, y1, x2, y2) in zip(label.classes, label.boxes.tolist(), strict=True)
    ]
    table = torch.tensor(rows)
    batch = {"batch_idx": table[:, 0], "cls": table[:, 1], "bboxes": table[:, 2:]}
    total, _ = embedded.network.init_criterion()(outputs.raw, batch)  # the library's is times the batch size
    torch.testing.assert_close(embedded.task_loss(outputs, labels), total.sum() / len(labels))


def test_the_task_loss_is_lower_for_true_labels(
    embedded: UltralyticsDetector, images: Tensor, labels: list[Detections]
) -> None:
    outputs = embedded.head_outputs(images)
    wrong = [Detections.of(label.boxes, (label.classes + 1) % 8) for label in labels]
    assert embedded.task_loss(outputs, labels) < embedded.task_loss(outputs, wrong)
    moved = [Detections.of((label.boxes + 40) % 160, label.classes) for label in labels]
    sane = [label.select((label.boxes[:, 2:] > label.boxes[:, :2]).all(dim=1)) for label in moved]
    assert embedded.task_loss(outputs, labels) < embedded.task_loss(outputs, sane)


def test_images_without_a_label_have_a_finite_loss(embedded: UltralyticsDetector, images: Tensor) -> None:
    empty = [Detections.of(torch.empty(0, 4), torch.empty(0)) for _ in images]
    assert bool(embedded.task_loss(embedded.head_outputs(images), empty).isfinite())


def test_images_that_are_not_square_place_their_boxes_right(embedded: UltralyticsDetector, scenes: list[Scene]) -> None:
    """A scene above a grey border of its own size: the loss of its labels is lower than of the same ones shifted."""
    tall = np.full((320, 160, 3), 114, dtype=np.uint8)
    tall[:160] = scenes[0].image
    outputs = embedded.head_outputs(torch.from_numpy(tall).permute(2, 0, 1)[None].float() / 255)
    truth = Detections.of(torch.from_numpy(scenes[0].boxes), torch.from_numpy(scenes[0].classes))
    stretched = Detections.of(truth.boxes * torch.tensor([1.0, 2.0, 1.0, 2.0]), truth.classes)
    assert embedded.task_loss(outputs, [truth]) < embedded.task_loss(outputs, [stretched])


@pytest.mark.parametrize("multi_label", [False, True])
def test_predictions_are_the_library_decoding_and_suppression(
    embedded: UltralyticsDetector, images: Tensor, multi_label: bool
) -> None:
    found = embedded.predict(images, replace(LIMITS, multi_label=multi_label, confidence=0.01))
    with torch.no_grad():
        decoded = embedded.network(images)[0]
    expected = non_max_suppression(
        decoded, conf_thres=0.01, iou_thres=0.7, max_det=100, multi_label=multi_label, nc=8, max_time_img=1e3
    )
    assert sum(len(rows) for rows in expected) > len(images)
    for mine, theirs in zip(found, expected, strict=True):
        assert torch.equal(mine.boxes, theirs[:, :4])
        assert torch.equal(mine.scores, theirs[:, 4])
        assert torch.equal(mine.classes, theirs[:, 5].long())


def test_the_embedded_teacher_finds_most_objects(
    embedded: UltralyticsDetector, images: Tensor, labels: list[Detections]
) -> None:
    found = embedded.predict(images, LIMITS)
    hits = total = 0
    for prediction, label in zip(found, labels, strict=True):
        total += len(label)
        same = prediction.classes[:, None] == label.classes[None]
        hits += int(((box_iou(prediction.boxes, label.boxes) > 0.5) & same).any(dim=0).sum())
    assert hits / total >= 0.7


def test_predictions_respect_confidence_and_number_and_come_best_first(
    embedded: UltralyticsDetector, images: Tensor
) -> None:
    many = embedded.predict(images, replace(LIMITS, confidence=0.001))
    few = embedded.predict(images, replace(LIMITS, confidence=0.001, max_detections=2))
    for all_, top in zip(many, few, strict=True):
        assert torch.equal(all_.scores, all_.scores.sort(descending=True).values)
        assert torch.equal(top.boxes, all_.boxes[:2])
    assert all(float(found.scores.min()) >= 0.25 for found in embedded.predict(images, LIMITS) if len(found))


def test_prediction_and_loss_do_not_change_the_network(
    embedded: UltralyticsDetector, images: Tensor, labels: list[Detections]
) -> None:
    before = {name: tensor.clone() for name, tensor in embedded.network.state_dict().items()}
    embedded.task_loss(embedded.head_outputs(images), labels)
    embedded.predict(images, LIMITS)
    assert all(torch.equal(before[name], tensor) for name, tensor in embedded.network.state_dict().items())


@pytest.mark.parametrize("size", [ImageSize.square(160), ImageSize(96, 160), ImageSize(160, 96)])
@pytest.mark.parametrize("shape", [(100, 200), (200, 100), (160, 160), (37, 53), (480, 640), (333, 500)])
def test_letterboxing_maps_boxes_there_and_back(
    embedded: UltralyticsDetector, shape: tuple[int, int], size: ImageSize
) -> None:
    height, width = shape
    x1, y1, x2, y2 = width // 4, height // 3, width // 4 * 3, height // 3 * 2
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[y1:y2, x1:x2] = 255
    placed, scale, (left, top) = embedded.letterbox(image, size)

    assert placed.shape == (size.height, size.width, 3)
    assert scale == pytest.approx(min(size.height / height, size.width / width))
    assert placed.dtype == np.uint8
    rows, columns = np.nonzero((placed > 200).all(axis=2))
    box = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], dtype=float)
    back = (box - [left, top, left, top]) / scale
    np.testing.assert_allclose(back, [x1, y1, x2, y2], atol=1.5 / min(scale, 1))
    if top:
        assert (placed[: top - 1] == 114).all()
    if left:
        assert (placed[:, : left - 1] == 114).all()


def test_a_letterboxed_rectangle_is_seen_as_the_library_sees_it(real_teacher: Path, coco_val: Path) -> None:
    """Boxes and scores of the library's own `predict` at [384, 640], letterboxed into the whole of it."""
    mine, theirs = UltralyticsDetector.load(real_teacher), YOLO(real_teacher)
    size, limits = ImageSize(384, 640), Suppression(0.05, iou=0.7, multi_label=False)
    found = 0
    for path in sorted((coco_val / "images").iterdir())[:4]:
        image = np.asarray(Image.open(path).convert("RGB"))
        canvas, scale, (left, top) = mine.letterbox(image, size)
        pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255
        (here,) = mine.predict(pixels, limits)
        boxes = (here.boxes - torch.tensor([left, top, left, top])) / scale
        boxes = boxes.clamp(min=0).minimum(torch.tensor(ImageSize(*image.shape[:2]).corners))
        (there,) = theirs.predict(
            Image.fromarray(image), imgsz=[384, 640], rect=False, conf=0.05, iou=0.7, device="cpu", verbose=False
        )
        assert len(here) == len(there.boxes)
        torch.testing.assert_close(here.scores, there.boxes.conf, rtol=0, atol=1e-3)
        torch.testing.assert_close(boxes, there.boxes.xyxy, rtol=0, atol=0.5)
        assert here.classes.tolist() == there.boxes.cls.int().tolist()
        found += len(here)
    assert found > 20


def test_metadata_name_height_before_width(embedded: UltralyticsDetector) -> None:
    assert embedded.deployment_metadata(ImageSize(96, 160))["imgsz"] == "[96, 160]"


def test_letterboxing_of_a_square_of_the_right_size_changes_nothing(
    embedded: UltralyticsDetector, scenes: list[Scene]
) -> None:
    placed, scale, border = embedded.letterbox(scenes[0].image, ImageSize.square(160))
    np.testing.assert_array_equal(placed, scenes[0].image)
    assert (scale, tuple(border)) == (1, (0, 0))


def test_folding_batch_norm_keeps_the_outputs_and_leaves_none(embedded: UltralyticsDetector, images: Tensor) -> None:
    folded = embedded.copy()
    folded.fold_batch_norm()
    assert not [module for module in folded.network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert embedded.statistics_sites(), "folding a copy must leave the original alone"
    mine, theirs = folded.head_outputs(images), embedded.head_outputs(images)
    assert relative(mine.class_logits[0], theirs.class_logits[0]) < 1e-4
    assert relative(mine.box_logits[0], theirs.box_logits[0]) < 1e-4
    assert not any(parameter.requires_grad for parameter in folded.network.parameters())


def test_a_copy_shares_no_tensor(embedded: UltralyticsDetector) -> None:
    twin = embedded.copy()
    mine = {tensor.data_ptr() for tensor in embedded.network.state_dict().values() if tensor.numel()}
    theirs = {tensor.data_ptr() for tensor in twin.network.state_dict().values() if tensor.numel()}
    assert not mine & theirs


def test_layers_play_their_named_parts(embedded: UltralyticsDetector) -> None:
    network = embedded.network
    assert embedded.first_layer() == "model.0.conv"
    assert isinstance(network.get_submodule(embedded.first_layer()), nn.Conv2d)
    outputs = [network.get_submodule(name) for name in embedded.output_layers()]
    assert sorted(layer.out_channels for layer in outputs) == [8] * 3 + [64] * 3
    assert set(embedded.output_layers()) < set(embedded.head_layers())
    assert all(name.startswith("model.23.") for name in embedded.head_layers() + embedded.float_layers())
    assert "model.23.dfl.conv" in embedded.float_layers()
    sites = embedded.distillation_sites()
    assert sites[0] == "model.0"
    assert "model.23" not in sites
    assert not any(isinstance(network.get_submodule(site), nn.Upsample) for site in sites)


def test_statistics_sites_are_all_batch_norms_the_first_layer_first(embedded: UltralyticsDetector) -> None:
    sites = embedded.statistics_sites()
    order: list[nn.Module] = []
    handles = [site.register_forward_hook(lambda module, *_: order.append(module)) for site in sites]
    embedded.network(torch.rand(1, 3, 64, 64))
    for handle in handles:
        handle.remove()
    assert sites[0] is embedded.network.model[0].bn is order[0]
    assert set(order) == set(sites)


def test_the_loss_gains_of_the_training_run_count() -> None:
    identity = UltralyticsDetector.embedded().identity
    images, labels = torch.rand(1, 3, 64, 64), [Detections.of([[8.0, 8.0, 40.0, 50.0]], [1])]
    losses = []
    for gains in ({"box": 7.5}, {"box": 75.0}):
        detector = UltralyticsDetector.build(identity, gains)
        detector.network.load_state_dict(UltralyticsDetector.embedded().network.state_dict())
        losses.append(float(detector.task_loss(detector.head_outputs(images), labels)))
    assert losses[1] > losses[0] + 1
