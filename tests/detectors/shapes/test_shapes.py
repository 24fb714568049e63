"""Masks, keypoints and turned boxes go through flips, shifts, sizes, canvases and files as the boxes around them do."""

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from pycocotools import mask as coco
from torch import Tensor

from detectors.detections import Detections
from detectors.shape_precision import shape_precision
from detectors.shapes.labels import shapes_of_data
from detectors.shapes.masks import MaskShapes
from detectors.shapes.points import Keypoints, TurnedBoxes
from detectors.shapes.region_masks import RegionMasks
from detectors.shapes.shapes import Placement, Shapes
from label_formats.objects import FurtherLabels
from schemas.errors import InputError, VerificationError
from schemas.image_size import ImageSize
from schemas.labels import WITH_SHAPES, ImageLabels, LabelOrigin, ShapeKind
from synth_job.views import View

SIZE = ImageSize(48, 64)
BOX = (10.0, 8.0, 30.0, 28.0)
MIRROR = (0, 2, 1)


def mask() -> MaskShapes:
    """A rectangle of pixels that fills `BOX`."""
    pixels = torch.zeros(1, SIZE.height, SIZE.width, dtype=torch.bool)
    pixels[0, 8:28, 10:30] = True
    return MaskShapes.of(pixels)


def region_mask() -> RegionMasks:
    """The same rectangle as a probability in `BOX`."""
    return RegionMasks(torch.ones(1, 28, 28), torch.tensor([BOX]), SIZE)


def keypoints() -> Keypoints:
    """Three corners of `BOX`; the second and the third are a pair."""
    return Keypoints(torch.tensor([[[20.0, 8.0, 2.0], [10.0, 28.0, 2.0], [30.0, 28.0, 1.0]]]))


def turned() -> TurnedBoxes:
    """A square on its corner, whose upright box is `BOX`."""
    side = 20 / math.sqrt(2)
    return TurnedBoxes.of(torch.tensor([[20.0, 18.0, side, side, math.pi / 4]]))


def bounds(shapes: Shapes) -> Tensor:
    """The upright box `(4,)` around the only object."""
    if isinstance(shapes, RegionMasks):
        return bounds(shapes.coded().decoded())
    if isinstance(shapes, MaskShapes):
        rows, columns = shapes.at(shapes.size.height, shapes.size.width)[0].nonzero(as_tuple=True)
        return torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
    points = shapes.points[0, :, :2] if isinstance(shapes, Keypoints) else shapes.corners[0]
    return torch.cat((points.amin(dim=0), points.amax(dim=0)))


KINDS = pytest.mark.parametrize("make", [mask, region_mask, keypoints, turned])


@KINDS
@pytest.mark.parametrize(("flipped", "shift"), [(False, (5, -3)), (True, (0, 0)), (True, (-4, 6))])
def test_a_view_moves_shapes_as_it_moves_boxes(
    make: Callable[[], Shapes], flipped: bool, shift: tuple[int, int]
) -> None:
    label = Detections.of([BOX], [0], shapes=make())
    seen = View(SIZE, flipped, shift, ImageSize(96, 128), MIRROR).of_labels(label)
    assert seen.shapes is not None
    torch.testing.assert_close(bounds(seen.shapes), seen.boxes[0], atol=1.01, rtol=0)


@KINDS
def test_shapes_are_stored_and_read_again(make: Callable[[], Shapes]) -> None:
    label = Detections.of([BOX], [0], shapes=make())
    stored = label.to_labels(SIZE, [LabelOrigin.SAMPLED])
    assert stored.schema_version == WITH_SHAPES
    again = Detections.from_labels(ImageLabels.parse(stored.to_json().encode(), "here"))
    assert again.shapes is not None and again.shapes.kind is make().kind
    torch.testing.assert_close(bounds(again.shapes), bounds(make()), atol=1e-4, rtol=0)


@KINDS
def test_shapes_on_a_canvas_come_back_to_their_image(make: Callable[[], Shapes]) -> None:
    """An image of 32 x 24 pixels that lies 8 pixels from the left on a canvas, twice as large."""
    placed = make().placed(Placement(2.0, (8, 0), 28, 24))
    found = placed.decoded() if hasattr(placed, "decoded") else placed
    expected = (torch.tensor(BOX) - torch.tensor([8.0, 0, 8, 0])) / 2
    tolerance = 1.0 if make is region_mask else 0.51  # torchvision pastes regions into whole pixels
    torch.testing.assert_close(bounds(found), expected, atol=tolerance, rtol=0)


def test_a_mirrored_pair_of_keypoints_changes_places() -> None:
    flipped = keypoints().flipped(SIZE.width, MIRROR)
    assert flipped.points[0].tolist() == [[44.0, 8.0, 2.0], [34.0, 28.0, 1.0], [54.0, 28.0, 2.0]]


def test_a_keypoint_that_leaves_the_image_is_not_labelled() -> None:
    moved = keypoints().moved(0, -10, SIZE)
    assert moved.points[0, :, 2].tolist() == [0.0, 2.0, 1.0]


def test_labels_of_boxes_read_as_they_always_did() -> None:
    stored = Detections.of([BOX], [0]).to_labels(SIZE, [LabelOrigin.SAMPLED])
    assert stored.schema_version == "1.0"
    assert not {"segmentation", "keypoints", "turned"} & set(json.loads(stored.to_json())["boxes"][0])


@pytest.mark.parametrize("counts", ["0", "oooooo", "S26"])
def test_run_lengths_that_are_no_mask_are_refused(counts: str) -> None:
    stored = Detections.of([BOX], [0], shapes=mask()).to_labels(SIZE, [LabelOrigin.SAMPLED])
    text = stored.to_json()
    good = stored.boxes[0].segmentation
    assert good is not None
    broken = ImageLabels.parse(text.replace(good.counts, counts).encode(), "here")
    with pytest.raises(VerificationError, match="do not decode"):
        Detections.from_labels(broken)


def test_a_mask_of_another_size_or_too_many_masks_are_refused() -> None:
    text = Detections.of([BOX], [0], shapes=mask()).to_labels(SIZE, [LabelOrigin.SAMPLED]).to_json()
    with pytest.raises(VerificationError, match="a mask of"):
        ImageLabels.parse(text.replace('"width": 64', '"width": 60').encode(), "here")


def test_ellipses_stay_in_their_boxes() -> None:
    made = MaskShapes.ellipses(torch.tensor([BOX]), SIZE)
    assert float(made.at(48, 64).sum()) == pytest.approx(math.pi / 4 * 400, rel=0.02)
    torch.testing.assert_close(bounds(made), torch.tensor(BOX))


@pytest.mark.parametrize("kind", [ShapeKind.MASK, ShapeKind.TURNED_BOX])
def test_polygons_of_validation_data_are_masks_or_turned_boxes(kind: ShapeKind) -> None:
    polygon = turned().corners[0].flatten().tolist()
    code = coco.merge(coco.frPyObjects([polygon], SIZE.height, SIZE.width))
    for segmentation in ([polygon], code | {"counts": code["counts"].decode()}):
        found = shapes_of_data(FurtherLabels([segmentation]), kind, SIZE, "here")
        assert found is not None and found.kind is kind
        decoded = found.decoded() if hasattr(found, "decoded") else found
        torch.testing.assert_close(bounds(decoded), torch.tensor(BOX), atol=1.5, rtol=0)


@pytest.mark.parametrize("segmentation", [[[1.0, 2.0]], {"counts": "zzz", "size": [48, 64]}, {"size": [48, 64]}])
def test_a_segmentation_that_is_none_is_refused(segmentation: object) -> None:
    with pytest.raises(InputError, match="here: a segmentation is no polygon or mask"):
        shapes_of_data(FurtherLabels([segmentation]), ShapeKind.MASK, SIZE, "here")  # type: ignore[list-item]


@KINDS
def test_what_is_labelled_has_full_precision_and_what_is_elsewhere_none(make: Callable[[], Shapes]) -> None:
    truth = [Detections.of([BOX], [0], shapes=make())]
    for shift, expected in (((0, 0), 1.0), ((30, 15), 0.0)):
        moved = Detections.of([BOX], [0], [0.9], make().moved(*shift, ImageSize(96, 128)))
        found = shape_precision(truth, [moved], ["thing"])
        assert found is not None and found[0] is make().kind
        assert found[1].map50_95 == pytest.approx(expected, abs=0.01)


def test_masks_are_scored_by_their_pixels_not_by_their_boxes() -> None:
    half = mask().at(48, 64)
    half[0, 18:] = False
    found = Detections.of([BOX], [0], [0.9], MaskShapes.of(half))
    precision = shape_precision([Detections.of([BOX], [0], shapes=mask())], [found], ["thing"])
    assert precision is not None
    assert precision[1].map50 == pytest.approx(1.0) and precision[1].map75 == 0  # half of the pixels


def test_detections_without_shapes_have_no_such_precision() -> None:
    assert shape_precision([Detections.of([BOX], [0])], [Detections.of([BOX], [0])], ["thing"]) is None


def test_corners_and_boxes_at_an_angle_are_the_same() -> None:
    boxes = torch.tensor([[30.0, 20.0, 24.0, 10.0, 0.3], [20.0, 20.0, 12.0, 6.0, 2.0]])
    np.testing.assert_allclose(TurnedBoxes.of(boxes).as_boxes().numpy(), boxes.numpy(), atol=1e-3)
