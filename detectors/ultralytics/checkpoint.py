"""Reading checkpoints of the ultralytics package: the network that is stored, and what it says of itself."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from ultralytics.nn.tasks import torch_safe_load

from schemas.errors import InputError
from schemas.teacher import Family, PixelFormat, TeacherIdentity
from stages.storage import file_digest

LOSS_GAINS = ("box", "cls", "dfl")
SMALLEST_INPUT, DEFAULT_INPUT, LARGEST_INPUT = 32, 640, 4096
"""Sides of training images, pixels: the smallest and the largest that are believed, and the library's default."""


def read_checkpoint(path: Path, family: Family, heads: Sequence[str], trust_pickle: bool) -> tuple[Any, dict[str, Any]]:
    """The network of a checkpoint (the averaged one where there are two), and the arguments of its training.

    Args:
        path: the file.
        family: named in errors.
        heads: class names of the last layers that the family serves.
        trust_pickle: build whatever the file names, not only allow-listed classes.

    Raises:
        InputError: not an Ultralytics detection checkpoint, or it needs classes beyond the allow-list.
    """
    try:
        checkpoint, _ = torch_safe_load(path, safe_only=not trust_pickle)
    except Exception as error:  # the library raises TypeError, RuntimeError, pickle and import errors alike
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"teacher {path}: not an Ultralytics YOLO checkpoint that loads safely ({reason}); "
            "check teacher.family, or set teacher.trust_pickle for a file you made yourself"
        ) from error
    stored = checkpoint.get("ema") or checkpoint.get("model")
    if type(getattr(stored, "model", [None])[-1]).__name__ not in heads:
        raise InputError(
            f"teacher {path}: holds no Ultralytics *detection* model of family {family} (segmentation, pose "
            "and others do not fit)"
        )
    return stored, checkpoint.get("train_args") or {}


def described(path: Path, family: Family, stored: Any, arguments: dict[str, Any]) -> TeacherIdentity:
    """What a stored network and the arguments of its training say of it."""
    names, stride = stored.names, int(stored.stride.max())
    return TeacherIdentity(
        family=family,
        architecture=_plain_architecture(stored.yaml | {"nc": len(names)}),
        sha256=file_digest(path),
        class_names=tuple(str(names[index]) for index in range(len(names))),
        input_size=input_size(arguments.get("imgsz"), stride),
        stride=stride,
        pixels=PixelFormat(),
    )


def loss_gains(arguments: dict[str, Any]) -> dict[str, float]:
    """The weights of the loss terms that the network was trained with, as far as they are stored."""
    return {gain: float(arguments[gain]) for gain in LOSS_GAINS if gain in arguments}


def input_size(stored: object, stride: int) -> int:
    """Side of the training images, pixels: the longer one of a rectangle, up to a multiple of the stride.

    What is no size of an image counts as not stored.
    """
    sides = stored if isinstance(stored, list | tuple) else [stored]
    believed = [each for each in sides if isinstance(each, int | float) and SMALLEST_INPUT <= each <= LARGEST_INPUT]
    return math.ceil(max(believed, default=DEFAULT_INPUT) / stride) * stride


def _plain_architecture(architecture: dict[str, Any]) -> dict[str, Any]:
    """The architecture as JSON has it: no tuples, no paths."""
    plain: dict[str, Any] = yaml.safe_load(yaml.safe_dump(architecture))
    return plain
