"""The anchor-based YOLOv5 as a detector family, with the library's letterboxing and NMS."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.base import BaseDetector
from detectors.detections import Detections
from detectors.protocol import HeadOutputs
from detectors.stored import check_growth, check_tensors, class_names, input_size, number, one_line, reading
from detectors.ultralytics.architecture_limits import buildable, check_limits
from detectors.ultralytics.checkpoint import plain_architecture
from detectors.ultralytics.yolo import UltralyticsDetector
from detectors.yolov5.checkpoint import StoredModule, read_checkpoint
from detectors.yolov5.loss import Gains, detection_loss
from detectors.yolov5.network import Yolov5Network, difference
from schemas.errors import VerificationError
from schemas.teacher import TeacherIdentity
from stages.storage import file_digest

DESCRIPTION = ("nc", "depth_multiple", "width_multiple", "activation", "anchors", "backbone", "head")
"""What the network is built from; whatever else its description holds stays at home."""
SCALE = 100.0
"""The repository's gains are that much smaller (a box term of 0.05 where the library has 7.5), and the weights of
`LossWeights` and `DistillationWeights` are to mean the same for every family. On noise of 320 px with a box in each of
two images YOLO11n's loss is 78 times YOLOv5n's, the gradient 110 times."""
INPUT_SIZE = {64: 1280, 32: 640}
"""Side of the images that the repository trains at, by the network's largest stride, pixels."""


class Yolov5Detector(UltralyticsDetector):
    """Implements `detectors.protocol.Detector` for checkpoints of the repository ultralytics/yolov5.

    What the library has (letterboxing, NMS, folding of batch norm) is inherited; decoding and loss are this family's.
    """

    def __init__(self, identity: TeacherIdentity, network: Any, gains: Gains | None = None) -> None:
        BaseDetector.__init__(self, identity, network)  # the library's networks alone have settings of a loss
        self.gains = gains or Gains.default(len(network.head.strides), network.head.classes, identity.input_size)

    @classmethod
    def load(cls, path: Path, trust_pickle: bool = False) -> Self:
        """Read a checkpoint; nothing it names is built, so `trust_pickle` makes no difference.

        Raises:
            InputError: not such a checkpoint, or one of a network that would not be built as it was.
        """
        with reading(path):
            stored, content = read_checkpoint(path)
            names = class_names(stored.attributes.get("names"))
            architecture = plain_architecture(stored.attributes.get("yaml"), DESCRIPTION) | {"nc": len(names)}
            check_growth(stored_numbers(architecture, len(names)), path.stat().st_size)
            network = _built(architecture, len(names))
            if found := difference(network.model, stored.modules["model"]):
                raise VerificationError(f"is not the YOLOv5 that would be built: {found}")
            _load_weights(network, stored, path)
            stride = max(network.head.strides)
            identity = TeacherIdentity(
                family="yolov5",
                architecture=architecture,
                sha256=file_digest(path),
                class_names=names,
                input_size=_image_size(content.get("opt"), stride),
                stride=stride,
            )
            detector = cls(identity, network)
            detector.gains = _gains(stored.attributes.get("hyp"), detector.gains)
        return detector

    @classmethod
    def build(cls, identity: TeacherIdentity, gains: Any = None) -> Self:
        """See `UltralyticsDetector.build`."""
        return cls(identity, _built(identity.architecture, len(identity.class_names)), gains)

    @property
    def smallest_input(self) -> int:
        """See `Detector`: this loss takes an object's own places, however few there are."""
        return self.identity.stride

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`.

        A class logit is that of the score, objectness times class probability: a class means nothing where there is no
        object. Boxes are the distances of their edges from the middle of the cell, in cells.
        """
        raw = self.network(images)
        scores, edges = [], []
        for level, boxes in zip(raw, self.network.head.boxes(raw), strict=True):
            scores.append(joint_logits(level[..., 4:5], level[..., 5:]).flatten(1, 3))
            centres, sides = boxes[..., :2] - 0.5, boxes[..., 2:]
            edges.append(torch.cat((sides / 2 - centres, sides / 2 + centres), dim=-1).flatten(1, 3))
        return HeadOutputs(
            class_logits=(torch.cat(scores, dim=1).transpose(1, 2),),
            box_logits=(torch.cat(edges, dim=1).transpose(1, 2).unsqueeze(2),),
            raw=raw,
        )

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`: with the gains the checkpoint was trained with, on the scale of the library's own losses."""
        return SCALE * detection_loss(self.network.head, outputs.raw, labels, self.gains)

    def decoded(self, images: Tensor) -> Tensor:
        """See `Detector`."""
        decoded: Tensor = self.network.head.decode(self.network(images))
        return decoded

    @property
    def end_to_end(self) -> bool:
        """See `Detector`."""
        return False

    def deployed(self) -> nn.Module:
        """See `Detector`: scores are objectness times class probability, as the library's own networks give them."""
        twin = self.copy()
        twin.fold_batch_norm()
        twin.network.decoding = True
        network: nn.Module = twin.network.cpu()
        return network

    def output_layers(self) -> list[str]:
        """See `Layers.output`: the head is nothing but its output convolutions."""
        return self.head_layers()

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`: decoding has no layers."""
        return []


def joint_logits(objectness: Tensor, classes: Tensor) -> Tensor:
    """Logits of the product of two probabilities given as logits: log p − log(1 − p), finite where float32 is."""
    log_p = F.logsigmoid(objectness) + F.logsigmoid(classes)
    # 1 − σ(a)σ(b) = σ(−a) + σ(a)σ(−b), a sum without cancellation.
    return log_p - torch.logaddexp(F.logsigmoid(-objectness), F.logsigmoid(objectness) + F.logsigmoid(-classes))


def stored_numbers(architecture: dict[str, Any], classes: int) -> int:
    """How many numbers the weights of an architecture are, told without making them.

    Raises:
        VerificationError: it does not build, or is larger than any detector.
    """
    with torch.device("meta"):
        network = _built(architecture, classes)
    return sum(tensor.numel() for tensor in network.state_dict().values())


def _built(architecture: dict[str, Any], classes: int) -> Yolov5Network:
    """The network of an architecture, weights unset.

    Raises:
        VerificationError: it does not build, or is larger than any detector.
    """
    layers = buildable(architecture | {"head": list(architecture.get("head", []))[:-1]})
    check_limits(architecture)
    try:
        return Yolov5Network(architecture | {"backbone": layers["backbone"]}, classes)
    except Exception as error:  # whatever a foreign architecture makes the library raise
        raise VerificationError(f"the architecture of the teacher does not build ({one_line(error)})") from error


def _load_weights(network: Yolov5Network, stored: StoredModule, path: Path) -> None:
    """Copy tensors of equal shapes; others are refused before anything is converted."""
    expected = network.state_dict()
    # Releases before 6 stored the anchors once more, in pixels.
    tensors = {name: tensor for name, tensor in stored.state_dict().items() if not name.endswith(".anchor_grid")}
    check_tensors(tensors, path.stat().st_size)
    strange = sorted(tensors.keys() ^ expected.keys())
    strange += [name for name in tensors.keys() & expected.keys() if tensors[name].shape != expected[name].shape]
    if strange:
        raise VerificationError(f"its weights do not fit its own architecture ({strange[0][:100]})")
    network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in tensors.items()})
    if not bool((network.head.anchors > 0).all()):
        raise VerificationError("its anchors are not positive sizes")


def _image_size(options: object, stride: int) -> int:
    """Side of the training images, from the options stored beside the network."""
    stored = options.get("imgsz") if isinstance(options, dict) else None
    return input_size(stored, stride, INPUT_SIZE.get(stride, 640))


def _gains(stored: object, default: Gains) -> Gains:
    """The settings of training, as far as they are stored."""
    return Gains(
        box=number(stored, "box", default.box),
        objectness=number(stored, "obj", default.objectness),
        classes=number(stored, "cls", default.classes),
        anchor_ratio=number(stored, "anchor_t", default.anchor_ratio),
        object_weight=number(stored, "obj_pw", default.object_weight),
        class_weight=number(stored, "cls_pw", default.class_weight),
        smoothing=min(number(stored, "label_smoothing", default.smoothing), 1.0),
    )
