"""Checkpoints of the repository ultralytics/yolov5, read without building anything they name.

Their pickles hold whole networks, as instances of modules that exist only in that repository. PyTorch's `weights_only`
unpickler reads them; every class it is allowed to meet, those of torch.nn included, is a container without behaviour.
"""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor
from torch.serialization import add_safe_globals, clear_safe_globals, get_safe_globals

from detectors.stored import check_packed, one_line
from detectors.unusable import own_class
from schemas.errors import InputError

MAX_MODULES, MAX_DEPTH = 10_000, 16
"""Most modules in a network and their deepest nesting; YOLOv5x6 has 900, 8 deep."""

CLASSES = (
    *(f"models.yolo.{name}" for name in ("Model", "DetectionModel", "Detect")),
    *(f"models.common.{name}" for name in ("Conv", "Bottleneck", "C3", "SPP", "SPPF", "Focus", "Concat")),
    *(f"torch.nn.modules.activation.{name}" for name in ("SiLU", "LeakyReLU", "ReLU", "Hardswish")),
    *(f"torch.nn.modules.container.{name}" for name in ("Sequential", "ModuleList")),
    "torch.nn.modules.conv.Conv2d",
    "torch.nn.modules.batchnorm.BatchNorm2d",
    "torch.nn.modules.pooling.MaxPool2d",
    "torch.nn.modules.upsampling.Upsample",
    "torch.nn.modules.linear.Identity",
    "numpy.dtype",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
    "numpy.ndarray",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
"""What such pickles name. Of numpy and pathlib come figures and paths of the training, which nothing here reads."""

_LOADING = threading.Lock()


class Inert:
    """Stands where a pickle names a class: keeps the state that was stored, and does nothing."""

    state: dict[str, Any]

    def __new__(cls, *_: object) -> Self:
        """Whatever arguments the class would have taken."""
        made = super().__new__(cls)
        made.state = {}
        return made

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        self.state = {str(key): value for key, value in state.items()} if isinstance(state, dict) else {}


@dataclass(frozen=True)
class StoredModule:
    """A module of a checkpoint, as plain values.

    Attributes:
        kind: name of its class, without the module that class was in.
        attributes: what was stored beside tensors and modules.
        tensors: parameters and buffers by name.
        modules: sub-modules by name.
    """

    kind: str
    attributes: dict[str, Any]
    tensors: dict[str, Tensor]
    modules: dict[str, "StoredModule"]

    def state_dict(self, prefix: str = "") -> dict[str, Tensor]:
        """All tensors by their full name."""
        named = {prefix + name: tensor for name, tensor in self.tensors.items()}
        for name, module in self.modules.items():
            named |= module.state_dict(f"{prefix}{name}.")
        return named


def read_checkpoint(path: Path) -> tuple[StoredModule, dict[str, Any]]:
    """The network of a checkpoint (the averaged one where there are two), and what was stored beside it.

    Raises:
        InputError: the file is no such checkpoint, or names a class beyond those above.
    """
    check_packed(path)
    try:
        content = _load_inert(path)
    except Exception as error:  # torch raises pickle, zip, runtime, key and index errors alike
        own = own_class(path)
        reason = f"it needs the class {own}, which is not of that repository" if own else one_line(error)
        raise InputError(
            f"teacher {path}: not a YOLOv5 checkpoint that loads safely ({reason}); check teacher.family"
        ) from error
    candidates = [content.get(name) for name in ("ema", "model")] if isinstance(content, dict) else []
    stored = next((each for each in candidates if type(each).__name__ in ("Model", "DetectionModel")), None)
    if not isinstance(stored, Inert):
        raise InputError(
            f"teacher {path}: holds no network of the repository ultralytics/yolov5; check teacher.family (yolov5 is "
            "the anchor-based one, checkpoints of the ultralytics package are of family ultralytics)"
        )
    return _module(stored, path), content


def _load_inert(path: Path) -> Any:
    """The pickle's content with `Inert` in place of every class; the process-wide allow-list is put back."""
    stand_ins: list[Any] = [(type(name.rpartition(".")[2], (Inert,), {}), name) for name in CLASSES]
    with _LOADING:
        before = get_safe_globals()
        clear_safe_globals()
        try:
            add_safe_globals(stand_ins)
            return torch.load(path, map_location="cpu", weights_only=True)
        finally:
            clear_safe_globals()
            add_safe_globals(before)


def _module(top: Inert, path: Path) -> StoredModule:
    count = 0

    def convert(inert: object, depth: int) -> StoredModule:
        nonlocal count
        count += 1
        if not isinstance(inert, Inert) or depth > MAX_DEPTH or count > MAX_MODULES:
            raise InputError(f"teacher {path}: is not a network, or has more or deeper modules than any detector")
        state = inert.state
        parts = [state.get(key) for key in ("_parameters", "_buffers", "_modules")]
        parameters, buffers, modules = (
            {str(k): v for k, v in part.items()} if isinstance(part, dict) else {} for part in parts
        )
        return StoredModule(
            kind=type(inert).__name__,
            attributes={key: value for key, value in state.items() if not key.startswith("_")},
            tensors={name: value for name, value in (parameters | buffers).items() if isinstance(value, Tensor)},
            modules={name: convert(module, depth + 1) for name, module in modules.items() if module is not None},
        )

    return convert(top, 0)
