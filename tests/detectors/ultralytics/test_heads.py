"""Segment, Pose and OBB heads: what they see is what the library makes of the same outputs, and losses feel it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from ultralytics import YOLO
from ultralytics.utils.ops import process_mask

from benchmarks.train_heads import build
from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.shapes.masks import MaskShapes
from detectors.shapes.points import Keypoints, TurnedBoxes
from detectors.ultralytics.pose import mirrored
from detectors.ultralytics.yolo import UltralyticsDetector
from quantization.onnx.export import check_head
from quantization.onnx.graph import output_names, to_onnx, write_onnx
from schemas.errors import ConfigError, InputError
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.target import Target
from tests.small_detector import ARCHITECTURE, WEIGHTS

KINDS = {"segment": ShapeKind.MASK, "pose": ShapeKind.KEYPOINTS, "obb": ShapeKind.TURNED_BOX}
LIMITS = Suppression(0.01, iou=0.7, max_detections=20, multi_label=False)


def loaded(network: Any, path: Path) -> UltralyticsDetector:
    """A network from a checkpoint as the library writes it."""
    torch.save({"model": network.eval(), "train_args": {"imgsz": 160}}, path)
    return UltralyticsDetector.load(path)


@pytest.fixture(scope="module", params=KINDS)
def detector(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> UltralyticsDetector:
    """A detector of the scenes with another head: the embedded one, or the small one where that will do."""
    torch.manual_seed(0)
    network = build("segment") if request.param == "segment" else build(request.param, ARCHITECTURE, WEIGHTS)
    detector = loaded(network, tmp_path_factory.mktemp("heads") / "best.pt")
    assert detector.sees is KINDS[request.param]
    return detector


def test_masks_lie_where_they_belong_whatever_the_stride_of_the_prototypes(images: Tensor, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = loaded(build("segment", ARCHITECTURE, WEIGHTS), tmp_path / "best.pt")
    rows, prototypes = detector.decoded(images)
    assert prototypes.shape[2:] == (20, 20), "its finest level has stride 16"
    found = detector.suppress((rows, prototypes), LIMITS)
    for each, row, of in zip(found, detector.suppressed(rows, LIMITS), prototypes, strict=True):
        theirs = process_mask(of, row[:, 6:], row[:, :4], (160, 160), upsample=True)
        assert isinstance(each.shapes, MaskShapes) and torch.equal(each.shapes.at(160, 160), theirs > 0)


def test_shapes_are_those_of_the_librarys_own_code(detector: UltralyticsDetector, images: Tensor) -> None:
    decoded = detector.decoded(images)
    rows = detector.suppressed(decoded[0] if isinstance(decoded, tuple) else decoded, LIMITS, detector.TASK == "obb")
    for n, (found, row) in enumerate(zip(detector.suppress(decoded, LIMITS), rows, strict=True)):
        assert len(found) == len(row) > 0
        if isinstance(found.shapes, MaskShapes):
            theirs = process_mask(decoded[1][n], row[:, 6:], row[:, :4], (160, 160), upsample=True)
            assert torch.equal(found.shapes.at(160, 160), theirs > 0)
        elif isinstance(found.shapes, Keypoints):
            torch.testing.assert_close(found.shapes.points[..., :2], row[:, 6:].unflatten(1, (5, 3))[..., :2])
        else:
            assert isinstance(found.shapes, TurnedBoxes)
            torch.testing.assert_close(found.shapes.as_boxes()[:, :2], row[:, :2], atol=1e-2, rtol=0)
            assert bool((found.shapes.bounds() == found.boxes).all())


def test_the_loss_falls_where_labels_are_what_the_head_sees(detector: UltralyticsDetector, images: Tensor) -> None:
    labels = [Detections.of([[30.0, 40.0, 90.0, 120.0]], [0]) for _ in images]
    shaped = detector.shaped(images, labels)
    assert all(each.shapes is not None and each.shapes.kind is detector.sees for each in shaped)
    other = [_spoiled(each) for each in shaped]
    images = images.clone().requires_grad_()
    loss = detector.detection_loss(images, shaped)
    assert float(detector.detection_loss(images, other)) > float(loss)
    loss.backward()
    assert images.grad is not None and float(images.grad.abs().sum()) > 0


def test_labels_of_other_keypoints_are_refused(images: Tensor, tmp_path: Path) -> None:
    torch.save({"model": build("pose").eval(), "train_args": {"imgsz": 160}}, tmp_path / "pose.pt")
    detector = UltralyticsDetector.load(tmp_path / "pose.pt")
    label = Detections.of([[30.0, 40.0, 90.0, 120.0]], [0])
    other = replace(label, shapes=Keypoints(torch.full((1, detector.keypoints + 1, 3), 50.0)))
    with pytest.raises(InputError, match="6 keypoints of an object, and the detector sees 5"):
        detector.detection_loss(images[:1], [other])


def _spoiled(label: Detections) -> Detections:
    """The same box around an object that looks otherwise."""
    shapes: Any = label.shapes
    if isinstance(shapes, MaskShapes):
        shapes = MaskShapes.of(~shapes.at(160, 160))
    elif isinstance(shapes, Keypoints):
        shapes = Keypoints(shapes.points.flip(1) + torch.tensor([25.0, -25.0, 0.0]))
    else:
        shapes = TurnedBoxes.of(shapes.as_boxes() + torch.tensor([20.0, -15.0, 0, 0, 0.9]))
    return Detections(label.boxes, label.classes, label.scores, shapes)


def test_the_library_reads_the_exported_file(detector: UltralyticsDetector, images: Tensor, tmp_path: Path) -> None:
    metadata = detector.deployment_metadata(ImageSize.square(160))
    path = tmp_path / "model.onnx"
    write_onnx(to_onnx(detector.deployed(), 32, metadata, output_names(detector)), path)
    picture = (images[0].permute(1, 2, 0) * 255).round().byte().numpy()[..., ::-1]  # the library takes BGR
    (theirs,) = YOLO(path, task=detector.TASK).predict(
        np.ascontiguousarray(picture), imgsz=160, conf=0.01, iou=0.7, max_det=20, verbose=False, device="cpu"
    )
    (mine,) = detector.predict(torch.from_numpy(picture[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255, LIMITS)
    found = theirs.obb if detector.TASK == "obb" else theirs.boxes
    assert len(found) == len(mine)
    torch.testing.assert_close(found.conf, mine.scores, atol=1e-3, rtol=0)
    if isinstance(mine.shapes, MaskShapes):
        same = (theirs.masks.data > 0) == mine.shapes.at(160, 160)
        assert float(same.float().mean()) > 0.999
    elif isinstance(mine.shapes, Keypoints):
        seen = theirs.keypoints.conf >= 0.5  # the library sets others to 0
        assert seen.any()
        expected = mine.shapes.points[..., :2].clamp(0, 160)  # and those outside to the border
        torch.testing.assert_close(theirs.keypoints.xy[seen], expected[seen], atol=0.1, rtol=1e-3)


def test_litert_files_are_refused_before_anything_is_made(detector: UltralyticsDetector) -> None:
    check_head(detector, Target.ONNXRUNTIME)
    with pytest.raises(ConfigError, match="target litert: LiteRT files are made of heads that see boxes alone"):
        check_head(detector, Target.LITERT)


@pytest.mark.parametrize(
    ("names", "count", "expected"),
    [
        (["tip", "left_wing", "right_wing"], 3, (0, 2, 1)),
        (["Left eye", "Right eye"], 2, (1, 0)),
        (["left_ear", "tail"], 2, None),
        (["0", "1"], 2, None),
        (None, 3, None),
    ],
)
def test_a_pair_of_keypoints_is_told_by_its_names(
    names: list[str] | None, count: int, expected: tuple[int, ...] | None
) -> None:
    assert mirrored(names, count) == expected


def test_cocos_persons_are_mirrored_without_names() -> None:
    found = mirrored(None, 17)
    assert found is not None and [found[found[k]] for k in range(17)] == list(range(17)) and found[5] == 6
