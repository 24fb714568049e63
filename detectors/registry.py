"""Which adapter serves which family, and on which device it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from detectors.examination import examine
from detectors.protocol import Detector
from detectors.source import checkpoint_family, checkpoint_path
from detectors.stored import reading
from schemas.errors import ConfigError
from schemas.teacher import EMBEDDED, Family, TeacherIdentity, TeacherSource


@dataclass(frozen=True)
class FamilyAdapter:
    """How detectors of a family come about.

    Attributes:
        load: reads a checkpoint file.
        build: makes the architecture with unset weights.
    """

    load: Callable[[Path, TeacherSource], Detector]
    build: Callable[[TeacherIdentity], Detector]


# Each loads its library when it is asked for: to import torchvision takes as long as to import PyTorch.


def _ultralytics() -> FamilyAdapter:
    from detectors.ultralytics.yolo import UltralyticsDetector

    def load(path: Path, source: TeacherSource) -> Detector:
        if source.path == EMBEDDED:
            return UltralyticsDetector.embedded(path)
        return UltralyticsDetector.load(path, source.trust_pickle)

    return FamilyAdapter(load, UltralyticsDetector.build)


def _yolov5() -> FamilyAdapter:
    from detectors.yolov5.detector import Yolov5Detector

    return FamilyAdapter(lambda path, _: Yolov5Detector.load(path), Yolov5Detector.build)


def _rtdetr() -> FamilyAdapter:
    from detectors.ultralytics.rtdetr import RtdetrDetector

    return FamilyAdapter(lambda path, source: RtdetrDetector.load(path, source.trust_pickle), RtdetrDetector.build)


def _torchvision() -> FamilyAdapter:
    from detectors.torchvision import build, checkpoints

    return FamilyAdapter(checkpoints.load, build.build)


FAMILIES: dict[Family, Callable[[], FamilyAdapter]] = {
    "ultralytics": _ultralytics, "yolov5": _yolov5, "rtdetr": _rtdetr, "torchvision": _torchvision,
}  # fmt: skip


def load_teacher(source: TeacherSource, device: torch.device) -> Detector:
    """Load a full-precision detector.

    Raises:
        InputError: the checkpoint is missing, is of another family, does not load safely, has two classes of one name,
            or is found wrong by `examine`.
    """
    path = checkpoint_path(source)
    teacher = FAMILIES[checkpoint_family(source, path)]().load(path, source)
    with reading(path):
        teacher.network.to(device)
        examine(teacher, device)
    return teacher


def check_side(teacher: Detector, side: int, setting: str) -> None:
    """Check that the teacher takes square images of `side` pixels; `setting` names where the size comes from.

    Raises:
        ConfigError: it does not.
    """
    stride, smallest = teacher.identity.stride, teacher.smallest_input
    if side % stride:
        raise ConfigError(
            f"{setting}: got {side}, the teacher takes multiples of {stride}; "
            f"set {max(side // stride * stride, smallest)} or {max((side // stride + 1) * stride, smallest)}"
        )
    if side < smallest:
        raise ConfigError(
            f"{setting}: got {side}, a teacher of family {teacher.identity.family} takes {smallest} pixels or more"
        )


def build_detector(identity: TeacherIdentity) -> Detector:
    """A detector of the same architecture with unset weights.

    Raises:
        VerificationError: the architecture does not build.
    """
    return FAMILIES[identity.family]().build(identity)


def resolve_device(name: str, local_rank: int = 0) -> torch.device:
    """The torch device of a configuration; `auto` is cuda where there is one, else cpu.

    Args:
        name: `auto`, or what PyTorch calls a device.
        local_rank: of this process among those on this node; each takes the next GPU, where `name` chooses none.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and torch.cuda.is_available():
        name = f"cuda:{local_rank % torch.cuda.device_count()}"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: got {name!r}, which is not usable here; take auto, cpu or cuda:N") from error
    return torch.device(name)
