"""What augmentation does to an image it does to masks, keypoints and turned boxes too."""

import torch
from torch import Tensor
from torchvision import tv_tensors

from detectors.detections import Detections
from detectors.shapes.masks import MaskShapes
from detectors.shapes.points import Keypoints, TurnedBoxes
from qat_job.images import Opaque, augmentation, labels_of
from schemas.qat_config import AugmentationConfig

SIDE = 64
BOX = [12.0, 16.0, 32.0, 40.0]


def augmented(shapes: MaskShapes | Keypoints | TurnedBoxes, config: AugmentationConfig) -> tuple[Tensor, Detections]:
    """A white box on black, and its labels, augmented."""
    image = torch.zeros(3, SIDE, SIDE, dtype=torch.uint8)
    image[:, 16:40, 12:32] = 255
    boxes = tv_tensors.BoundingBoxes([BOX, [0, 0, 2, 2]], format="XYXY", canvas_size=(SIDE, SIDE))
    target = {
        "boxes": boxes, "labels": torch.tensor([3, 1]), "objects": torch.arange(2), "shapes": Opaque(shapes),
        "witness": tv_tensors.KeyPoints([[0.0, 0.0], [1.0, 0.0]], canvas_size=(SIDE, SIDE)),
    } | shapes.targets((SIDE, SIDE))  # fmt: skip
    changed, labels = augmentation(config, padding=114)(tv_tensors.Image(image), target)
    return changed.as_subclass(Tensor)[0] == 255, labels_of(labels, (1, 0))


def two(mask: Tensor) -> Tensor:
    """The mask of the box, and an empty one of what is too small to be kept."""
    return torch.stack((mask, torch.zeros_like(mask)))


def test_masks_points_and_turned_boxes_follow_the_image() -> None:
    white = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    white[16:40, 12:32] = True
    corners = torch.tensor([[[12.0, 16.0], [32.0, 16.0], [32.0, 40.0], [12.0, 40.0]]]).repeat(2, 1, 1)
    points = torch.cat((corners[:, [0, 2]], torch.full((2, 2, 1), 2.0)), dim=2)
    config = AugmentationConfig(flip=0.5, shift=0.1, scale=0.1, brightness=0.0)
    mirrored = 0
    for seed in range(12):
        for shapes in (MaskShapes.of(two(white)), Keypoints(points), TurnedBoxes(corners)):
            torch.manual_seed(seed)
            seen, label = augmented(shapes, config)
            assert label.classes.tolist() == [3] and label.shapes is not None and len(label.shapes) == 1
            rows, columns = seen.nonzero(as_tuple=True)
            expected = torch.stack((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)).float()
            if isinstance(label.shapes, MaskShapes):
                overlap = (label.shapes.at(SIDE, SIDE)[0] & seen).sum() / (label.shapes.at(SIDE, SIDE)[0] | seen).sum()
                assert overlap > 0.85
                continue
            found = label.shapes.points[0] if isinstance(label.shapes, Keypoints) else label.shapes.corners[0]
            bounds = torch.cat((found[:, :2].amin(dim=0), found[:, :2].amax(dim=0)))
            torch.testing.assert_close(bounds, expected, atol=2.0, rtol=0)
            if isinstance(label.shapes, Keypoints):
                assert found[0, 0] < found[1, 0]  # in a mirrored image the pair has changed places
                mirrored += bool(found[0, 1] > found[1, 1])
    assert 0 < mirrored < 12
