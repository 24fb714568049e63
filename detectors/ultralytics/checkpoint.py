"""Reading checkpoints of the ultralytics package: the network that is stored, and what it says of itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from ultralytics.nn.tasks import torch_safe_load

from detectors.stored import (
    check_packed,
    check_tensors,
    class_names,
    input_size,
    largest_stride,
    network_state,
    number,
    one_line,
    plain_values,
)
from detectors.unusable import own_class
from schemas.errors import InputError, VerificationError
from schemas.teacher import Family, PixelFormat, TeacherIdentity
from stages.storage import file_digest

LOSS_GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "pose": 12.0, "kobj": 1.0, "rle": 1.0, "angle": 1.0}
"""Weights of the loss terms, and the library's defaults."""
MAX_NAMES, MAX_NAME = 1000, 100
"""Most keypoints, and most characters of the name of one."""
DESCRIPTION = (
    "nc",
    "scales",
    "scale",
    "depth_multiple",
    "width_multiple",
    "activation",
    "reg_max",
    "end2end",
    "channels",
    "backbone",
    "head",
    "kpt_shape",
)
"""What the library builds a network from. Whatever else a description holds, as its owner's paths, stays at home."""


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
    check_packed(path)
    try:
        checkpoint, _ = torch_safe_load(path, safe_only=not trust_pickle)
    except Exception as error:  # the library raises TypeError, RuntimeError, pickle and import errors alike
        own = None if trust_pickle else own_class(path)
        reason = f"it needs the class {own}, which is not of the package" if own else one_line(error)
        raise InputError(
            f"teacher {path}: not an Ultralytics YOLO checkpoint that loads safely ({reason}); "
            "check teacher.family, or set teacher.trust_pickle for a file you made yourself"
        ) from error
    content = checkpoint if isinstance(checkpoint, dict) else {}
    stored = content.get("ema") if content.get("ema") is not None else content.get("model")
    if head_name(stored) not in heads:
        raise InputError(
            f"teacher {path}: holds no Ultralytics *detection* model of family {family} (classification, depth "
            "and others do not fit)"
        )
    arguments = content.get("train_args")
    return stored, arguments if isinstance(arguments, dict) else {}


def described(path: Path, family: Family, stored: Any, arguments: dict[str, Any]) -> TeacherIdentity:
    """What a stored network and the arguments of its training say of it.

    Raises:
        VerificationError: it says nothing that a detector could be.
    """
    names, stride = class_names(stored.names), largest_stride(stored.stride)
    return TeacherIdentity(
        family=family,
        architecture=plain_architecture(stored.yaml, DESCRIPTION) | {"nc": len(names)} | keypoint_names(stored),
        sha256=file_digest(path),
        class_names=names,
        input_size=input_size(arguments.get("imgsz"), stride),
        stride=stride,
        pixels=PixelFormat(),
    )


def keypoint_names(stored: Any) -> dict[str, Any]:
    """What a stored network of poses calls its keypoints, as an entry of its description; none where it is silent."""
    every = getattr(stored, "kpt_names", None)
    names = next(iter(every.values()), None) if isinstance(every, dict) else None
    if not isinstance(names, list | tuple):
        return {}
    return {"kpt_names": [str(name)[:MAX_NAME] for name in names[:MAX_NAMES]]}


def loss_gains(arguments: dict[str, Any]) -> dict[str, float]:
    """The weights of the loss terms that the network was trained with, as far as they are stored."""
    return {gain: number(arguments, gain, default) for gain, default in LOSS_GAINS.items() if gain in arguments}


def weights(stored: Any, built: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The tensors of a stored network, for one that was built with the tensors `built`.

    Raises:
        VerificationError: they are not the weights of such a network.
    """
    state = network_state(stored)
    check_tensors(state, path.stat().st_size)
    if not any("running_mean" in name for name in state) and any("running_mean" in name for name in built):
        raise VerificationError(
            "was fused: its batch norm was folded into the convolutions (model.fuse()), and with it went the "
            "statistics that images are made from; take the checkpoint as training wrote it"
        )
    strange = sorted(state.keys() ^ built.keys())
    strange += [name for name in state.keys() & built.keys() if state[name].shape != built[name].shape]
    if strange:
        raise VerificationError(f"its weights do not fit its own architecture ({strange[0][:100]})")
    return state


def plain_architecture(stored: object, keys: Sequence[str]) -> dict[str, Any]:
    """A description of a network as JSON has it, no tuples and no paths, of `keys` alone; the scale written out.

    Raises:
        VerificationError: it is no such description.
    """
    if not isinstance(stored, dict):
        raise VerificationError(f"has no description of its network, but a {type(stored).__name__} (model.yaml)")
    plain: dict[str, Any] = plain_values({key: stored[key] for key in keys if key in stored}, "its model.yaml")
    scales = plain.get("scales")
    if isinstance(scales, dict) and scales and not plain.get("scale"):
        plain["scale"] = next(iter(scales))  # as the library does; JSON with its keys in another order would lose it
    return plain


def head_name(stored: object) -> str:
    """Name of the class of a stored network's last layer."""
    layers = getattr(getattr(stored, "model", None), "_modules", None)
    return type(list(layers.values())[-1]).__name__ if isinstance(layers, dict) and layers else ""
