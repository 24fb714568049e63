"""Teachers by their source, detectors by their identity, and the device that they run on."""

import torch

from detectors.examination import examine
from detectors.family import adapter
from detectors.protocol import Detector
from detectors.source import checkpoint_family, checkpoint_path
from detectors.stored import check_growth, reading
from schemas.errors import ConfigError
from schemas.image_size import ImageSize
from schemas.teacher import TeacherIdentity, TeacherSource


def load_teacher(source: TeacherSource, device: torch.device) -> Detector:
    """Load a full-precision detector.

    Raises:
        InputError: the checkpoint is missing, is of another family, does not load safely, has two classes of one name,
            or is found wrong by `examine`.
    """
    path = checkpoint_path(source)
    teacher = adapter(checkpoint_family(source, path)).load(path, source)
    with reading(path):
        teacher.network.to(device)
        examine(teacher, device)
    return teacher


def check_size(teacher: Detector, size: ImageSize, setting: str) -> None:
    """Check that the teacher takes images of `size`; `setting` names where the size comes from.

    Raises:
        ConfigError: it does not.
    """
    stride, smallest = teacher.identity.stride, teacher.smallest_input
    sides = (size.height, size.width)
    if any(side % stride for side in sides):
        below, above = (
            ImageSize(*(max(side // stride * stride + more * bool(side % stride), smallest) for side in sides)).plain()
            for more in (0, stride)
        )
        raise ConfigError(
            f"{setting}: got {size.plain()}, the teacher takes multiples of {stride}; set {below} or {above}"
        )
    if size.shorter < smallest:
        raise ConfigError(
            f"{setting}: got {size.plain()}, a teacher of family {teacher.identity.family} takes {smallest} pixels or "
            "more"
        )
    if not size.is_square and teacher.needs_squares is not None:
        raise ConfigError(f"{setting}: got {size.plain()}, but {teacher.needs_squares}; set {size.longer}")


def build_detector(identity: TeacherIdentity, file_bytes: int | None = None) -> Detector:
    """A detector of the same architecture with unset weights.

    Args:
        identity: of the detector.
        file_bytes: size of the file that its weights will come from, where they come from one.

    Raises:
        VerificationError: the architecture does not build, or has more weights than the file can hold.
    """
    family = adapter(identity.family)
    if file_bytes is not None and (numbers := family.numbers(identity)) is not None:
        check_growth(numbers, file_bytes)
    return family.build(identity)


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
