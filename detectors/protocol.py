"""What a detector family implements. A new family is one new file that does, and its name in `schemas.teacher`."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from detectors.detections import Detections
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.teacher import TeacherIdentity


class StatisticsKind(Enum):
    """What a network keeps of its training images, and how inversion makes its images alike."""

    BATCH_NORM = "batch norm"
    """Sites are `BatchNorm2d` or `FrozenBatchNorm2d`: the mean and variance of their inputs are stored."""
    ATTENTION = "attention"
    """Sites are attention modules that give out `(B, h, w, C)`: their patches differ more on images than on noise."""


@dataclass(frozen=True)
class BinaryOutputs:
    """Further outputs of a head that are yes-or-no each: the pixels of masks, centre-ness.

    Attributes:
        logits: `(B, E, K)`: E independent logits of K places (regions, anchors).
        weights: `(B, K)`: what each place counts, as the confidence that an object is there.
    """

    logits: Tensor
    weights: Tensor


@dataclass(frozen=True)
class PlainOutputs:
    """Further outputs of a head that are numbers, compared by their absolute difference: keypoints, angles.

    Attributes:
        values: `(B, E, K)`: E numbers of K places.
        weights: `(B, K)`: what each place counts.
    """

    values: Tensor
    weights: Tensor


@dataclass(frozen=True)
class HeadOutputs:
    """Raw outputs of the detection head, before decoding: one entry of each tuple per branch.

    A branch's anchors are dense or regions; where their number differs from image to image, the fewer are filled up
    with a certain background.

    Attributes:
        class_logits: `(B, C, A)` each: class logits of A anchors.
        box_logits: `(B, 4, R, A)` each: logits of box-edge distributions over R bins; R = 1 is a plain distance.
        raw: what the family's own loss takes.
        categorical: whether the class logits of each branch are one distribution over classes (softmax), background
            first; else they are independent. Empty: all are independent.
        binary: other outputs of the head.
        plain: other outputs of the head.
    """

    class_logits: tuple[Tensor, ...]
    box_logits: tuple[Tensor, ...]
    raw: Any
    categorical: tuple[bool, ...] = ()
    binary: tuple[BinaryOutputs, ...] = ()
    plain: tuple[PlainOutputs, ...] = ()


@dataclass(frozen=True)
class Suppression:
    """Which of the decoded boxes of an image are left.

    Attributes:
        confidence: lowest score.
        iou: highest overlap of two boxes of a class; None for what the family is used with.
        max_detections: most boxes.
        multi_label: several classes an anchor, else its best one.
        masks: also the masks of what is left, where a part of the network that takes its time gives them.
    """

    confidence: float
    iou: float | None = None
    max_detections: int = 300
    multi_label: bool = True
    masks: bool = False


@dataclass(frozen=True)
class Layers:
    """Where in a network things are, by the names of its modules.

    Attributes:
        first: the layer that sees the pixels.
        output: layers whose outputs are decoded.
        head: all layers of the detection head, output layers included.
        in_float: layers that no policy quantizes (decoding).
        distillation: modules whose outputs a student should reproduce.
        statistics: modules that describe the training images, in the order of the forward pass.
        statistics_kind: what those are.
    """

    first: str
    output: tuple[str, ...]
    head: tuple[str, ...]
    in_float: tuple[str, ...]
    distillation: tuple[str, ...]
    statistics: tuple[str, ...]
    statistics_kind: StatisticsKind = StatisticsKind.BATCH_NORM


Decoded = Any
"""A tensor, or a tuple of tensors where a head gives several: rows of boxes, then prototypes of masks."""


class Detector(Protocol):
    """A detector of some family: the teacher, or the student made from it.

    Images are `(B, 3, H, W)` float RGB in [0, 1], sides a multiple of the stride; the mean and deviation that a
    network was trained with are applied inside. The network is always in eval mode: batch-norm statistics never move.
    """

    identity: TeacherIdentity

    @property
    def network(self) -> nn.Module:
        """The module that computes."""
        ...

    @property
    def sees(self) -> ShapeKind:
        """What the head sees of an object; `Detections.shapes` of its labels and predictions are of this kind."""
        ...

    @property
    def predicts(self) -> ShapeKind:
        """What `predict` gives where `Suppression.masks` asks for it: what the head sees, or masks beside its boxes."""
        ...

    @property
    def keypoints(self) -> int:
        """How many keypoints of each object the head sees; 0 for a head that sees none."""
        ...

    @property
    def mirror(self) -> tuple[int, ...] | None:
        """The keypoint that each is in a mirrored image; empty without keypoints.

        None where nobody knows which of them are a pair: images must not be mirrored then.
        """
        ...

    def shaped(self, images: Tensor, labels: Sequence[Detections]) -> list[Detections]:
        """Labels with the shapes of their objects, as the head sees them at these places of the images.

        Where it sees none there, an object has the outline that most have. Labels of a head that sees boxes alone stay.
        """
        ...

    @property
    def smallest_input(self) -> int:
        """Smallest side of an image that the network takes, pixels."""
        ...

    @property
    def needs_squares(self) -> str | None:
        """Why the detector takes square images alone, in one line; None where it takes rectangles too."""
        ...

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """Raw head outputs, with gradients to the images and the weights.

        `like`: outputs of another detector of the family on the same images, to compare with: where the head looks at
        regions that an earlier part of the network proposed, it looks at those regions instead of its own.
        """
        ...

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """The family's own detection loss, a scalar: mean over the B images."""
        ...

    def detection_loss(self, images: Tensor, labels: Sequence[Detections]) -> Tensor:
        """`task_loss` of images, without the head outputs that only a student's teacher needs."""
        ...

    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        """Decoded, suppressed predictions of each image, best first."""
        ...

    def decoded(self, images: Tensor) -> Decoded:
        """Outputs of the network before `suppress`, as `deployed()` gives them."""
        ...

    def suppress(self, decoded: Decoded, limits: Suppression) -> list[Detections]:
        """The part of `predict` after the network: decoded outputs, of `deployed()` or an engine, to detections."""
        ...

    @property
    def end_to_end(self) -> bool:
        """Whether decoded outputs are final `(B, N, 6)` rows [x1, y1, x2, y2, score, class] that need no NMS.

        Further numbers of a row stand behind those.
        """
        ...

    @property
    def export_obstacle(self) -> str | None:
        """Why the detector cannot be exported, in one line; None where it can."""
        ...

    def deployed(self) -> nn.Module:
        """A copy of the network as the family exports it, on the CPU, batch norm folded where layers are in float.

        It takes images and gives one tensor: `(B, 4 + C, A)`, box centres and sizes in pixels and class scores of A
        anchors, or end-to-end rows. A head that sees more than boxes adds its numbers behind those, and what belongs to
        no anchor as a second tensor. Not called where there is an `export_obstacle`.
        """
        ...

    def deployment_metadata(self, image_size: ImageSize) -> dict[str, str]:
        """What the family's own tools read from an exported model; `image_size` is its usual input."""
        ...

    def letterbox(self, image: NDArray[np.uint8], size: ImageSize) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """An `(h, w, 3)` image on a canvas of `size`, as the family does; its scale and (left, top) border."""
        ...

    def copy(self) -> Self:
        """An independent copy."""
        ...

    def fold_batch_norm(self) -> None:
        """Fold every batch norm into the convolution before it, in place; the function stays the same."""
        ...

    @property
    def layers(self) -> Layers:
        """Where in the network things are, as it stands now."""
        ...
