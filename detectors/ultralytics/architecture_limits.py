"""Bounds on an architecture that came with somebody's artifact, checked before a library builds it."""

import copy
import re
from typing import Any

import torch
from torch import nn
from ultralytics.nn import tasks

from detectors.stored import one_line
from schemas.errors import VerificationError
from schemas.teacher import TeacherIdentity

MAX_NUMBER = 16_384
"""Largest number: channels, kernel sides, classes. The widest published detectors have 2,048 channels."""
MAX_ENTRIES = 1000
"""Longest list and longest text: layers, module names."""
MAX_DEPTH = 8
"""Deepest nesting."""
MAX_REPEATS, MAX_MULTIPLE = 100, 8
"""Most copies of one block, and the largest factor on copies and on channels; published ones are 9 and 1.5."""
ACTIVATION = re.compile(r"(torch\.)?nn\.\w+\([\w.=, ]*\)")
"""One module of torch.nn with plain arguments. The library evaluates this text as code, unless its safe loading was on
before it was first imported, by whomever."""


def buildable(architecture: dict[str, Any]) -> dict[str, Any]:
    """A copy of the architecture that the library may build: within bounds, of known layers, asking no network.

    A layer of torchvision's networks would fetch their published weights, which the checkpoint's own replace at once.

    Raises:
        VerificationError: it is beyond the bounds, names a layer that the library does not have, or takes images of
            another number of channels than 3.
    """
    check_limits(architecture)
    made = copy.deepcopy(architecture)
    if made.get("channels", 3) != 3:
        raise VerificationError(
            f"the teacher takes images of {made['channels']} channels; only colour images, of 3, fit"
        )
    for entry in [*made.get("backbone", []), *made.get("head", [])]:
        kind, arguments = [*entry, None, None, None][2:4]
        if not (isinstance(kind, str) and isinstance(arguments, list) and _is_layer(kind)):
            raise VerificationError(
                f"the architecture of the teacher names the layer {str(kind)[:60]!r}, which the ultralytics package "
                "does not have; only detectors of the package's own layers fit"
            )
        if kind == "TorchVision":  # [channels, name, weights, unwrap, truncate, split]
            arguments[2:3] = ["None"]
    return made


def stored_numbers(identity: TeacherIdentity) -> int:
    """How many numbers the weights of an architecture are, told without making them.

    Raises:
        VerificationError: it does not build, or is larger than any detector.
    """
    architecture = buildable(identity.architecture) | {"nc": len(identity.class_names)}
    try:
        with torch.device("meta"):
            layers, _ = tasks.parse_model(architecture, ch=3, verbose=False)
    except Exception as error:  # whatever a foreign architecture makes the library raise
        raise VerificationError(f"the architecture of the teacher does not build ({one_line(error)})") from error
    return sum(tensor.numel() for tensor in layers.state_dict().values())


def _is_layer(name: str) -> bool:
    """Whether the library knows a layer of that name; whole networks, which read files and URLs, are none."""
    package, _, kind = name.rpartition(".")
    known = {"nn": vars(nn), "": vars(tasks) | {"Silence": nn.Identity}}
    if package == "torchvision.ops":
        import torchvision  # takes seconds, and hardly a detector names a layer of it

        known[package] = vars(torchvision.ops)
    layer = known.get(package, {}).get(kind)
    return isinstance(layer, type) and issubclass(layer, nn.Module) and not issubclass(layer, tasks.BaseModel)


def check_limits(architecture: dict[str, Any]) -> None:
    """Refuse what no detector needs: building it could take all memory, or not end.

    Args:
        architecture: `backbone` and `head` are lists of layers `[from, repeats, module, arguments]`.

    Raises:
        VerificationError: a number, a list or the nesting is beyond the bounds above.
    """
    _check(architecture, MAX_DEPTH)
    for part in ("backbone", "head"):
        for entry in _list(architecture.get(part, [])):
            repeats = [*_list(entry), None, None][1]
            if not isinstance(repeats, int) or repeats > MAX_REPEATS:
                raise _refusal(f"repeats a block {str(repeats)[:20]} times")
    activation = architecture.get("activation")
    if activation is not None and not ACTIVATION.fullmatch(str(activation)):
        raise _refusal(f"has the activation {str(activation)[:40]!r}")
    scales = architecture.get("scales") or {}
    factors = [architecture.get(name, 1) for name in ("depth_multiple", "width_multiple")]
    for scale in scales.values() if isinstance(scales, dict) else ():
        factors += _list(scale)[:2]
    if any(not isinstance(factor, int | float) or factor > MAX_MULTIPLE for factor in factors):
        raise _refusal(f"is scaled by {str(max(factors, key=str))[:20]}")


def _check(value: Any, depth: int) -> None:
    if depth == 0:
        raise _refusal(f"is nested more than {MAX_DEPTH} deep")
    if isinstance(value, dict | list | str) and len(value) > MAX_ENTRIES:
        raise _refusal(f"has a list or text of {len(value)} entries")
    if isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            _check(part, depth - 1)
    elif isinstance(value, int | float) and not abs(value) <= MAX_NUMBER:
        raise _refusal(f"has the number {value:g}")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise _refusal(f"has {str(value)[:20]!r} where a list belongs")
    return list(value)


def _refusal(what: str) -> VerificationError:
    return VerificationError(f"the architecture of the teacher {what}, as no detector does")
