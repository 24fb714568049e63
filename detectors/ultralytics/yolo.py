"""Ultralytics YOLO detectors (v3 to 26), through the library's own loss, letterboxing and NMS."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from ultralytics import __version__ as ultralytics_version
from ultralytics.cfg import get_cfg
from ultralytics.data.augment import LetterBox
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.nms import non_max_suppression

from detectors.base import BaseDetector
from detectors.detections import Detections
from detectors.embedded import ARCHITECTURE, WEIGHTS
from detectors.embedded.scenes import CLASS_NAMES, SCENE_SIZE
from detectors.protocol import Decoded, HeadOutputs, Suppression
from detectors.query_sets import smallest_side
from detectors.stored import check_growth, largest_stride, one_line, reading
from detectors.ultralytics.architecture_limits import buildable, stored_numbers
from detectors.ultralytics.checkpoint import described, loss_gains, read_checkpoint, weights
from schemas.errors import VerificationError
from schemas.image_size import ImageSize
from schemas.teacher import Family, TeacherIdentity
from stages.storage import file_digest

NMS_SECONDS_PER_IMAGE = 1e3
"""Suppression is never cut short by the clock: results must not depend on the machine's load."""
NMS_IOU = 0.7
"""The library's own, in validation and in prediction."""
ASSIGNED_PLACES = 10
"""How many the library's assigner picks for each object (`topk`). Its loss fails on an image that has fewer places."""
EXPORTED_DETECTIONS = 300
"""Rows that an exported end-to-end head gives; the library's own exports have as many."""


class UltralyticsDetector(BaseDetector):
    """Implements `detectors.protocol.Detector`. Images are RGB in [0, 1]."""

    FAMILY: Family = "ultralytics"
    HEADS: tuple[str, ...] = ("Detect", "v10Detect")
    """Class names of the last layers that this adapter serves."""
    NETWORK: Any = DetectionModel
    TASK = "detect"
    """What the library calls it."""
    BRANCHES: tuple[str, ...] = ("cv2", "cv3")
    """The parts of the head whose last convolutions are outputs, less `one2one_`."""
    ARGUMENTS: Mapping[str, Any] = MappingProxyType({})
    """Of the library's loss."""

    # The network is untyped: the library builds it from a list of layers.
    def __init__(self, identity: TeacherIdentity, network: Any, gains: dict[str, float] | None = None) -> None:
        super().__init__(identity, network)
        self.network.args = get_cfg(overrides=(gains or {}) | dict(self.ARGUMENTS))
        self._criterion: Any = None

    @classmethod
    def load(cls, path: Path, trust_pickle: bool = False) -> Self:
        """Read an Ultralytics checkpoint; only allow-listed classes are built unless `trust_pickle`.

        Raises:
            InputError: not an Ultralytics detection checkpoint, or it needs classes beyond the allow-list.
        """
        with reading(path):
            heads = [head for kind in cls.kinds() for head in kind.HEADS]
            stored, arguments = read_checkpoint(path, cls.FAMILY, heads, trust_pickle)
            identity = described(path, cls.FAMILY, stored, arguments)
            check_growth(stored_numbers(identity), path.stat().st_size)
            detector = cls.build(identity, loss_gains(arguments))
            detector.network.load_state_dict(weights(stored, detector.network.state_dict(), path))
            if (stride := largest_stride(detector.network.stride)) != detector.identity.stride:
                raise VerificationError(f"says that its stride is {detector.identity.stride}, and it is {stride}")
        return detector

    @classmethod
    def build(cls, identity: TeacherIdentity, gains: dict[str, float] | None = None) -> Self:
        """The architecture of `identity`, weights unset.

        Raises:
            VerificationError: it does not build, or is larger than any detector.
        """
        architecture = buildable(identity.architecture)
        kind = cls.of_head(_last_layer(architecture))
        try:
            network: Any = kind.NETWORK(architecture, ch=3, nc=len(identity.class_names), verbose=False)
        except Exception as error:  # whatever a foreign architecture makes the library raise
            raise VerificationError(f"the architecture of the teacher does not build ({one_line(error)})") from error
        if type(network.model[-1]).__name__ not in kind.HEADS:
            raise VerificationError("the architecture of the teacher has no detection head")
        network.names = dict(enumerate(identity.class_names))
        return kind(identity, network, gains)

    @classmethod
    def kinds(cls) -> "tuple[type[Self], ...]":
        """The classes that serve the family, one for each kind of head."""
        from detectors.ultralytics.heads import FURTHER

        return (cls, *(kind for kind in FURTHER if issubclass(kind, cls)))

    @classmethod
    def of_head(cls, name: str) -> "type[Self]":
        """The class that serves a head; this one where none says that it does."""
        return next((kind for kind in cls.kinds() if name in kind.HEADS), cls)

    @classmethod
    def embedded(cls, weights: Path = WEIGHTS, architecture: Path = ARCHITECTURE) -> Self:
        """The small detector that ships with this project, or another one trained on the same rendered scenes."""
        identity = TeacherIdentity(
            family="ultralytics",
            architecture=yaml.safe_load(architecture.read_text(encoding="utf-8")),
            sha256=file_digest(weights),
            class_names=CLASS_NAMES,
            input_size=SCENE_SIZE,
            stride=32,
        )
        detector = cls.build(identity)
        detector.network.load_state_dict(load_file(weights))
        return detector

    @property
    def smallest_input(self) -> int:
        """See `Detector`: an image has at least as many places as the loss assigns to an object."""
        return smallest_side(sorted(max(1, int(stride)) for stride in self._head.stride), ASSIGNED_PLACES)

    @property
    def _head(self) -> Any:
        return self.network.model[-1]

    def head_outputs(self, images: Tensor, like: HeadOutputs | None = None) -> HeadOutputs:
        """See `Detector`. The head alone runs in training mode, so that nothing is decoded; it proposes no regions."""
        self._head.training = True
        try:
            raw = self.network(images)
        finally:
            self._head.training = False
        branches = [raw[name] for name in ("one2many", "one2one") if name in raw] or [raw]
        return HeadOutputs(
            class_logits=tuple(branch["scores"] for branch in branches),
            box_logits=tuple(branch["boxes"].unflatten(1, (4, -1)) for branch in branches),
            raw=raw,
        )

    def task_loss(self, outputs: HeadOutputs, labels: Sequence[Detections]) -> Tensor:
        """See `Detector`: box, class and distribution loss of the library, with the gains it was trained with."""
        if self._criterion is None:
            self._criterion = self.network.init_criterion()
        logits = outputs.class_logits[0]
        height, width = (side * int(self._head.stride[0]) for side in _feature_size(outputs.raw))
        size = logits.new_tensor([width, height, width, height])
        boxes = torch.cat([label.boxes for label in labels]).to(logits.device) / size
        batch = {
            "batch_idx": torch.cat([torch.full((len(label),), float(i)) for i, label in enumerate(labels)]).to(
                logits.device
            ),
            "cls": torch.cat([label.classes for label in labels]).to(logits),
            "bboxes": torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), dim=1),
        }
        batch |= self.further_targets(labels, ImageSize(height, width), logits.device)
        loss, _ = self._criterion(outputs.raw, batch)
        return loss.sum() / len(labels)

    def further_targets(self, labels: Sequence[Detections], size: ImageSize, device: torch.device) -> dict[str, Tensor]:
        """What the head's loss takes beside boxes, or in their place, of images of `size`: here nothing."""
        return {}

    @torch.no_grad()
    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        self._head.max_det = limits.max_detections
        return super().predict(images, limits)

    def decoded(self, images: Tensor) -> Decoded:
        """See `Detector`."""
        decoded: Decoded = self.network(images)[0]
        return decoded

    def suppress(self, decoded: Decoded, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        found = self.suppressed(decoded, limits)
        return [Detections.of(rows[:, :4], rows[:, 5].long(), rows[:, 4]) for rows in found]

    def suppressed(self, rows: Tensor, limits: Suppression, rotated: bool = False) -> list[Tensor]:
        """The rows that are left of each image: `(N, 6)` [x1, y1, x2, y2, score, class], and what stands behind those.

        Where boxes are `rotated`, they stay centres and sizes, and the last number of a row is their angle.
        """
        found: list[Tensor] = non_max_suppression(
            rows,
            conf_thres=limits.confidence,
            iou_thres=NMS_IOU if limits.iou is None else limits.iou,
            multi_label=limits.multi_label,
            max_det=limits.max_detections,
            nc=len(self.identity.class_names),
            max_time_img=NMS_SECONDS_PER_IMAGE,
            end2end=self.end_to_end,
            rotated=rotated,
        )
        return found

    @property
    def end_to_end(self) -> bool:
        """See `Detector`: YOLOv10 and 26 decode their one-to-one branch."""
        return bool(self._head.end2end)

    def deployed(self) -> nn.Module:
        """See `Detector`: the library's export mode, in which the head gives decoded outputs alone."""
        twin = self.copy()
        twin.fold_batch_norm()
        twin._head.export, twin._head.format = True, "onnx"
        twin._head.max_det = EXPORTED_DETECTIONS
        twin._head.shape = None  # anchors of an earlier input size
        network: nn.Module = twin.network.cpu()
        return network

    def deployment_metadata(self, image_size: ImageSize) -> dict[str, str]:
        """See `Detector`: what `ultralytics.YOLO("model.onnx")` reads. Values are Python literals."""
        values = {
            "description": "object detector, exported by zsq",
            "license": "AGPL-3.0 License (https://ultralytics.com/license)",
            "version": ultralytics_version,
            "task": self.TASK,
            "head": type(self._head).__name__,
            "stride": self.identity.stride,
            "batch": 1,
            "imgsz": [image_size.height, image_size.width],
            "names": dict(enumerate(self.identity.class_names)),
            "args": {"batch": 1, "dynamic": True, "nms": False},
            "channels": 3,
            "end2end": self.end_to_end,
        }
        return {key: str(value) for key, value in values.items()}

    def letterbox(self, image: NDArray[np.uint8], size: ImageSize) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """See `Detector`."""
        box = LetterBox(new_shape=(size.height, size.width), auto=False, padding_value=self.identity.pixels.padding)
        placed = box.get_params({"img": image})
        placed_image: Any = box(image=image)
        return placed_image, placed["ratio"][0], (placed["left"], placed["top"])

    def copy(self) -> Self:
        """See `Detector`."""
        twin = super().copy()
        twin._criterion = None
        return twin

    def fold_batch_norm(self) -> None:
        """See `Detector`. Every block of the library that pairs `conv` and `bn` is covered."""
        for block in self.network.modules():
            conv, norm = getattr(block, "conv", None), getattr(block, "bn", None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                block.conv = fuse_conv_bn_eval(conv, norm)
                block.bn = nn.Identity()
        self.network.requires_grad_(False)

    def distillation_sites(self) -> list[str]:
        """See `Layers.distillation`: the blocks of the network that carry weights, the head excepted."""
        blocks = list(self.network.model.named_children())[:-1]
        return [f"model.{name}" for name, block in blocks if any(True for _ in block.parameters())]

    def output_layers(self) -> list[str]:
        """See `Layers.output`: the last convolution of each branch and level."""
        branches = [
            branch for name, branch in self._head.named_children() if name.removeprefix("one2one_") in self.BRANCHES
        ]
        return self.names_of([list(level.modules())[-1] for branch in branches for level in branch])

    def head_layers(self) -> list[str]:
        """See `Layers.head`."""
        return self.names_of([module for module in self._head.modules() if isinstance(module, nn.Conv2d)])

    def float_layers(self) -> list[str]:
        """See `Layers.in_float`: the fixed convolution that takes the mean of a box-edge distribution."""
        return self.names_of(list(self._head.dfl.modules()))


def _last_layer(architecture: dict[str, Any]) -> str:
    """What a description calls the head; empty where it does not end in a layer."""
    entry = [*[[], *architecture.get("head", [])][-1], "", "", ""][2]
    return str(entry)


def _feature_size(raw: dict[str, Any]) -> tuple[int, int]:
    """Height and width of the finest feature map of raw head outputs."""
    branch = raw.get("one2many", raw)
    height, width = branch["feats"][0].shape[-2:]
    return int(height), int(width)
