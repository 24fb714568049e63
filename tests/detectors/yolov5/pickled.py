"""Networks as the repository ultralytics/yolov5 pickles them: instances of modules that exist only there."""

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detectors.yolov5.network import Yolov5Network

COMMON, YOLO = "models.common", "models.yolo"
RENAMED = {"AnchorHead": "Detect", "Yolov5Network": "Model"}


@contextmanager
def repository() -> Iterator[None]:
    """Modules of the repository's names, empty, for as long as something is pickled."""
    modules = {name: types.ModuleType(name) for name in ("models", COMMON, YOLO)}
    assert not modules.keys() & sys.modules.keys()
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def as_pickled(module: nn.Module, **attributes: Any) -> Any:
    """A copy of a module tree whose classes are those of the repository, by name alone; inside `repository`."""
    if type(module).__module__.startswith("torch."):
        made = type(module).__new__(type(module))
    else:
        kind = RENAMED.get(type(module).__name__, type(module).__name__)
        place = sys.modules[YOLO if kind in RENAMED.values() else COMMON]
        if not hasattr(place, kind):
            setattr(place, kind, type(kind, (nn.Module,), {"__module__": place.__name__}))
        made = getattr(place, kind).__new__(getattr(place, kind))
    made.__dict__ = dict(module.__dict__) | attributes
    made.__dict__["_modules"] = {name: as_pickled(child) for name, child in module.named_children()}
    return made


def write_checkpoint(
    path: Path,
    network: Yolov5Network,
    architecture: dict[str, Any],
    names: Any,
    averaged: Yolov5Network | None = None,
    options: dict[str, Any] | None = None,
    **attributes: Any,
) -> Path:
    """Write a network as the repository's training script does."""
    described = {"yaml": architecture, "names": names} | attributes
    with repository():
        torch.save(
            {
                "epoch": -1,
                "best_fitness": np.array([0.5])[0],
                "model": as_pickled(network, **described),
                "ema": as_pickled(averaged, **described) if averaged else None,
                "opt": options,
            },
            path,
        )
    return path
