"""The adapters of torchvision detectors compute what the library does, with gradients and without its randomness."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler

from detectors.detections import Detections
from detectors.protocol import HeadOutputs, Suppression
from detectors.shapes.masks import decode
from detectors.shapes.shapes import Placement
from detectors.torchvision.build import build
from detectors.torchvision.models import Architecture
from detectors.torchvision.two_stage import EvenSampler
from schemas.errors import VerificationError
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.teacher import TeacherIdentity

MODELS = ["fasterrcnn", "maskrcnn", "retinanet", "fcos", "ssdlite320_mobilenet_v3_large"]
TWO_STAGE = ("fasterrcnn", "maskrcnn")
LABELS = [Detections.of([[8.0, 8.0, 70.0, 60.0], [0.0, 50.0, 30.0, 96.0]], [2, 1]), Detections.of([], [])]
LARGE = [Detections.of(each.boxes * 320 / 96, each.classes) for each in LABELS]


@pytest.fixture(scope="module", params=MODELS)
def detector(request: pytest.FixtureRequest, torchvision_detector: Callable[..., Any]) -> Any:
    built = torchvision_detector(request.param)
    for name in [] if request.param.startswith("ssd") else built.output_layers():
        nn.init.normal_(built.network.get_submodule(name).weight, std=0.1)  # initial ones score all alike
    return built


def images_of(height: int, width: int) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def images(detector: Any) -> Tensor:
    side = 320 if detector.architecture.model.startswith("ssd") else 96
    return images_of(side, side)


def labels(detector: Any) -> list[Detections]:
    return LARGE if detector.architecture.model.startswith("ssd") else LABELS


def library(detector: Any, images: Tensor) -> Any:
    """The library's own network, told not to resize, and to propose in training what it proposes otherwise."""
    network = detector.copy().network
    network.transform.min_size, network.transform.max_size = (min(images.shape[2:]),), max(images.shape[2:])
    if hasattr(network, "rpn"):
        network.rpn._pre_nms_top_n["training"] = network.rpn._pre_nms_top_n["testing"]
        network.rpn._post_nms_top_n["training"] = network.rpn._post_nms_top_n["testing"]
    return network


def test_predictions_are_the_librarys(detector: Any, images: Tensor) -> None:
    check_predictions(detector, images)


@pytest.mark.parametrize("size", [(96, 160), (160, 96)])
def test_predictions_on_rectangles_are_the_librarys(detector: Any, size: tuple[int, int]) -> None:
    if detector.needs_squares is None:
        check_predictions(detector, images_of(*size))


def check_predictions(detector: Any, images: Tensor) -> None:
    network = library(detector, images)
    holder = network.roi_heads if hasattr(network, "roi_heads") else network
    holder.score_thresh, holder.detections_per_img = 0.005, 10_000
    if not hasattr(network, "roi_heads"):
        network.topk_candidates = 10_000
    with torch.no_grad():
        expected = network(list(images))
    found = detector.predict(images, Suppression(0.005, max_detections=30))
    for mine, theirs in zip(found, expected, strict=True):
        # RetinaNet and FCOS have an output 0 too, which no class has.
        known = torch.nonzero(theirs["labels"] > 0).flatten()[:30]
        assert len(mine) == len(known) == 30
        torch.testing.assert_close(mine.scores, theirs["scores"][known], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.boxes, theirs["boxes"][known], rtol=1e-4, atol=1e-2)
        assert torch.equal(mine.classes + 1, theirs["labels"][known])


@pytest.mark.parametrize("masks", [True, False])
def test_masks_are_the_librarys_where_they_are_asked_for(masks: bool, torchvision_detector: Callable[..., Any]) -> None:
    detector, images = torchvision_detector("maskrcnn"), images_of(96, 160)
    nn.init.normal_(detector.network.roi_heads.mask_predictor.mask_fcn_logits.weight, std=0.1)
    network = library(detector, images)
    network.roi_heads.score_thresh = 0.005
    with torch.no_grad():
        expected = network(list(images))
    found = detector.predict(images, Suppression(0.005, max_detections=40, masks=masks))

    assert detector.predicts is ShapeKind.MASK and detector.sees is ShapeKind.BOX
    for mine, theirs in zip(found, expected, strict=True):
        if not masks:
            assert mine.shapes is None
            continue
        coded = mine.shapes.placed(Placement(1.0, (0, 0), 160, 96)).codes
        pixels = torch.from_numpy(np.stack([decode(code) for code in coded])).bool()
        other = theirs["masks"][: len(mine), 0] > 0.5
        assert len(mine) == 40 and 0 < int(other.sum()) < other.numel()
        assert float((pixels != other).float().mean()) < 1e-4


def test_a_detector_without_a_mask_head_predicts_boxes(torchvision_detector: Callable[..., Any]) -> None:
    detector = torchvision_detector("fasterrcnn")

    assert detector.predicts is ShapeKind.BOX
    assert all(each.shapes is None for each in detector.predict(images_of(96, 96), Suppression(0.005, masks=True)))


def test_the_loss_is_the_librarys_dictionary_summed(detector: Any, images: Tensor) -> None:
    network = library(detector, images).train()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    if hasattr(network, "roi_heads"):
        network.roi_heads.mask_roi_pool = None
    targets = [{"boxes": each.boxes, "labels": each.classes + 1} for each in labels(detector)]
    expected = sum(network(list(images), targets).values())
    loss = detector.detection_loss(images, labels(detector))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    outputs = detector.head_outputs(images)
    torch.testing.assert_close(detector.task_loss(outputs, labels(detector)), loss)


def test_the_loss_reaches_the_pixels_and_depends_on_no_random_numbers(detector: Any, images: Tensor) -> None:
    moving = images.clone().requires_grad_()
    torch.manual_seed(1)
    first = detector.detection_loss(moving, labels(detector))
    first.backward()
    assert moving.grad is not None and bool(moving.grad.isfinite().all()) and float(moving.grad.abs().sum()) > 0
    torch.manual_seed(2)
    assert torch.equal(first, detector.detection_loss(moving, labels(detector)))


def test_labels_without_area_do_not_count(detector: Any, images: Tensor) -> None:
    flat = Detections.of([[5.0, 5.0, 5.0, 20.0]], [1])
    with torch.no_grad():
        loss = detector.detection_loss(images, [flat, flat])
        none = Detections.of([], [])
        assert torch.equal(loss, detector.detection_loss(images, [none, none]))
        assert bool(loss.isfinite())


def test_decoded_outputs_are_suppressed_to_the_predictions(detector: Any, images: Tensor) -> None:
    limits = Suppression(0.01, max_detections=15)
    found = detector.predict(images, limits)
    with torch.no_grad():
        again = detector.suppress(detector.decoded(images), limits)
    for mine, other in zip(found, again, strict=True):
        torch.testing.assert_close(mine.boxes, other.boxes)
        assert torch.equal(mine.classes, other.classes)


def test_folding_batch_norm_keeps_the_outputs_and_leaves_none(detector: Any, images: Tensor) -> None:
    folded = detector.copy()
    folded.fold_batch_norm()
    assert not [module for module in folded.network.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        theirs = detector.head_outputs(images)
        mine = folded.head_outputs(images, like=theirs)
    for one, other in zip(mine.class_logits + mine.box_logits, theirs.class_logits + theirs.box_logits, strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-4


def test_build_of_layers_are_there(detector: Any) -> None:
    names = dict(detector.network.named_modules())
    assert isinstance(names[detector.first_layer()], nn.Conv2d)
    assert set(detector.output_layers()) < set(detector.head_layers()) < names.keys()
    assert all(site in names for site in detector.distillation_sites())
    assert len(detector.distillation_sites()) >= 6


@pytest.mark.parametrize("model", TWO_STAGE)
def test_a_student_looks_at_the_regions_of_its_teacher(model: str, torchvision_detector: Callable[..., Any]) -> None:
    teacher = torchvision_detector(model)
    student = teacher.copy()
    with torch.no_grad():
        for parameter in student.network.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        images = torch.rand(2, 3, 96, 96)
        theirs = teacher.head_outputs(images)
        alone, mine = student.head_outputs(images), student.head_outputs(images, like=theirs)
    same, other = (
        [torch.equal(*pair) for pair in zip(regions(outputs), regions(theirs), strict=True)]
        for outputs in (mine, alone)
    )
    assert all(same) and not all(other)
    assert [each.shape for each in mine.class_logits] == [each.shape for each in theirs.class_logits]
    assert theirs.categorical == (False, True)
    if model == "maskrcnn":
        assert mine.binary[0].logits.shape == (2, 784, 16)
        assert torch.equal(mine.binary[0].weights, theirs.binary[0].weights)


def regions(outputs: HeadOutputs) -> list[Tensor]:
    return outputs.raw["proposals"].regions


def test_images_with_fewer_regions_are_filled_up_with_certain_background(
    torchvision_detector: Callable[..., Any],
) -> None:
    teacher = torchvision_detector("fasterrcnn")
    found = teacher.propose(torch.rand(2, 3, 96, 96))
    found.regions[1] = found.regions[1][:7]
    like = type("Like", (), {"raw": {"proposals": found, "category": torch.ones(len(found.regions[0]) + 7).long()}})()
    with torch.no_grad():
        logits = teacher.head_outputs(torch.rand(2, 3, 96, 96), like=like).class_logits[1]
    assert float(logits[1, :, 7:].softmax(dim=0)[0].min()) > 0.999
    assert bool((logits[1, 1:, :7] > -30).all())


def test_even_sampling_takes_as_many_as_the_librarys_and_always_the_same() -> None:
    candidates = [torch.tensor([1, 0, 0, -1, 2, 0, 1, 0, 0, 0, 1, 0]), torch.tensor([0, 0, -1, 0])]
    for size, share in ((4, 0.5), (8, 0.25), (64, 0.5)):
        mine = EvenSampler(size, share)(candidates)
        theirs = BalancedPositiveNegativeSampler(size, share)(candidates)
        for ours, other in zip(mine, theirs, strict=True):
            assert [int(mask.sum()) for mask in ours] == [int(mask.sum()) for mask in other]
        for positive, negative, labels in zip(*mine, candidates, strict=True):
            assert bool((labels[positive] >= 1).all()) and bool((labels[negative] == 0).all())


def test_letterboxing_keeps_the_shape_and_pads_with_the_mean_colour(torchvision_detector: Callable[..., Any]) -> None:
    detector = torchvision_detector("fcos")
    image = np.full((40, 80, 3), 200, dtype=np.uint8)
    canvas, scale, border = detector.letterbox(image, ImageSize.square(160))
    assert (canvas.shape, scale, border) == ((160, 160, 3), 2.0, (0, 0))
    assert bool((canvas[:80] == 200).all())
    assert detector.letterbox(image, ImageSize(96, 160))[0].shape == (96, 160, 3)
    tall, smaller, _ = detector.letterbox(image, ImageSize(60, 160))
    assert (tall.shape, smaller) == ((60, 160, 3), 1.5)
    assert bool((tall[:, :120] == 200).all()) and tall[30, 140].tolist() == [124, 116, 104]
    assert canvas[100, 100].tolist() == [124, 116, 104]
    batch = detector.prepared(torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 255)
    assert float(batch.tensors[0, :, 100, 100].abs().max()) < 0.01, "what the library pads with is 0"


def test_an_ssd_looks_at_its_own_size_whatever_it_is_given(torchvision_detector: Callable[..., Any]) -> None:
    detector = torchvision_detector("ssdlite320_mobilenet_v3_large")
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        assert detector.head_outputs(images).class_logits[0].shape == (1, 5, 3234)
        boxes = detector.decoded(images)[:, :4]
    assert float(boxes[:, :2].max()) <= 160


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "yolo"},
        {"outputs": 3},
        {"outputs": 10**9},
        {"labels": []},
        {"backbone": {"kind": "resnet", "blocks": [1, 1, 10**9, 1]}},
        {"backbone": {"kind": "swin", "blocks": [1, 1, 1, 1], "width": 16, "heads": [3, 3, 3, 3]}},
        {"weights": "x"},
    ],
)
def test_an_architecture_that_no_detector_has_is_refused(
    changed: dict[str, Any], torchvision_identity: Callable[..., TeacherIdentity]
) -> None:
    with pytest.raises(VerificationError, match="the architecture of the teacher"):
        identity = torchvision_identity("fasterrcnn")
        build(identity.model_copy(update={"architecture": identity.architecture | changed}))


def test_an_architecture_survives_json(torchvision_identity: Callable[..., TeacherIdentity]) -> None:
    values = torchvision_identity("maskrcnn").architecture
    assert Architecture.of(Architecture.of(values).model_dump(mode="json")) == Architecture.of(values)
