"""What a checkpoint says of itself, believed only after a look: class names, numbers, sizes, tensors.

A safe load builds nothing dangerous, yet every field may hold anything. Each family reads through this module.
"""

import math
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from schemas.errors import InputError, VerificationError, ZsqError

MAX_CLASSES, MAX_NAME = 10_000, 1000
"""Most classes of a detector, and most characters of a class name."""
MAX_MODULES, MAX_DEPTH = 10_000, 32
"""Most modules in a network and their deepest nesting; YOLO11x has 1,000, 9 deep."""
LARGEST_GAIN = 1e4
"""Of a loss term, and of what else a training is set by; with larger ones a loss leaves single precision."""
MAX_GROWTH, SLACK_BYTES = 4, 64 * 2**20
"""A file's tensors, in single precision, take at most this many times its bytes, and this much more.

Half precision doubles; a megabyte that unfolds to gigabytes (compressed, or one number repeated) is refused."""
SMALLEST_INPUT, DEFAULT_INPUT, LARGEST_INPUT = 32, 640, 4096
"""Sides of training images, pixels: the smallest and the largest that are believed, and the library's default."""
LARGEST_STRIDE, MAX_LEVELS = 512, 16
"""Largest stride that is believed, pixels, and most levels of a pyramid."""
MAX_VALUES = 20_000
"""Most values of a description; those of published detectors have 500."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around what reads a checkpoint: whatever its content makes the libraries raise becomes one line that names it.

    Raises:
        InputError: from any error inside.
    """
    try:
        yield
    except VerificationError as error:
        raise InputError(f"teacher {path}: {error}") from error
    except ZsqError:
        raise
    except Exception as error:  # the fields of a foreign file may hold anything, and libraries check little
        raise InputError(
            f"teacher {path}: holds something else than a detector of its family does ({type(error).__name__}: "
            f"{one_line(error)}); take the checkpoint as its training wrote it, and check teacher.family"
        ) from error


def one_line(error: object, limit: int = 200) -> str:
    """The text of a library's error on one line, cut short."""
    return " ".join(str(error).split())[:limit]


def check_packed(path: Path) -> None:
    """Refuse an archive whose members unfold to more than the file has; PyTorch stores them as they are.

    Raises:
        InputError: they do.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unfolded = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, ValueError, OSError, NotImplementedError) as error:
        raise InputError(f"teacher {path}: not a whole archive ({one_line(error)}); copy the file again") from error
    if unfolded > path.stat().st_size + SLACK_BYTES:
        raise InputError(
            f"teacher {path}: unfolds from {path.stat().st_size:,} to {unfolded:,} bytes, which no checkpoint does; "
            "save it again with torch.save"
        )


def network_state(network: object) -> dict[str, Tensor]:
    """All parameters and persistent buffers of a stored module by their full name; nothing of the module is called.

    Raises:
        VerificationError: it has more or deeper modules than any detector.
    """
    state: dict[str, Tensor] = {}
    count = 0

    def collect(module: object, prefix: str, depth: int) -> None:
        nonlocal count
        count += 1
        if not isinstance(module, nn.Module) or depth > MAX_DEPTH or count > MAX_MODULES:
            raise VerificationError("is not a network, or has more or deeper modules than any detector")
        fields = vars(module)
        passing = fields.get("_non_persistent_buffers_set") or ()
        for part in ("_parameters", "_buffers"):
            for name, value in fields[part].items():
                if isinstance(value, Tensor) and name not in passing:
                    state[f"{prefix}{name}"] = value
        for name, below in fields["_modules"].items():
            if below is not None:
                collect(below, f"{prefix}{name}.", depth + 1)

    collect(network, "", 0)
    return state


def check_tensors(state: Mapping[str, Tensor], file_bytes: int) -> None:
    """Refuse tensors that are no plain weights, before anything converts them.

    Raises:
        VerificationError: one is sparse, quantized, complex, without values, or not finite, or they are larger than
            their file can hold.
    """
    check_growth(sum(tensor.numel() for tensor in state.values()), file_bytes)
    for name, tensor in state.items():
        plain = tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized
        if not plain or tensor.is_complex():
            raise VerificationError(f"{name[:100]} is not a plain tensor of real numbers")
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise VerificationError(
                f"{name[:100]} holds values that are not finite (its training diverged, or the file is damaged); "
                "take an earlier checkpoint"
            )


def check_growth(numbers: int, file_bytes: int) -> None:
    """Refuse weights that are larger than their file can hold, before they are made.

    Raises:
        VerificationError: they are.
    """
    if numbers * 4 > MAX_GROWTH * file_bytes + SLACK_BYTES:
        raise VerificationError(f"its weights are {numbers:,} numbers, more than a file of {file_bytes:,} bytes holds")


def plain_values(stored: object, what: str) -> Any:
    """Lists, dictionaries, texts and numbers as JSON has them; tuples become lists.

    Raises:
        VerificationError: there is anything else in it, or more than any detector needs, also where parts are shared.
    """
    count = 0

    def convert(value: object, depth: int) -> Any:
        nonlocal count
        count += 1
        if count > MAX_VALUES or depth > MAX_DEPTH:
            raise VerificationError(f"{what} has more or deeper values than any detector's")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise VerificationError(f"{what} has keys that are no texts")
            return {key: convert(below, depth + 1) for key, below in value.items()}
        if isinstance(value, list | tuple):
            return [convert(below, depth + 1) for below in value]
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise VerificationError(f"{what} holds more than plain values: {brief(value)}")

    return convert(stored, 0)


def brief(value: object) -> str:
    """A foreign value in an error; of anything but texts and numbers only its type, for the rest may be endless."""
    plain = value is None or isinstance(value, bool | int | float | str | bytes)
    return repr(value)[:40] if plain else f"a {type(value).__name__}"


def class_names(stored: object) -> tuple[str, ...]:
    """Names of classes 0, 1, 2, …: a list, or a dictionary by class index.

    Raises:
        VerificationError: they are something else, or a name is empty, no text, or there twice.
    """
    if isinstance(stored, dict) and len(stored) <= MAX_CLASSES:
        indices = [int(key) if isinstance(key, str) and key.isdecimal() else key for key in stored]
        by_index = dict(zip(indices, stored.values(), strict=True))
        if not all(index in by_index for index in range(len(stored))):
            raise VerificationError(
                f"its class names are numbered {', '.join(brief(index) for index in indices[:5])}…, and classes "
                f"count from 0; set model.names to {{0: …, 1: …}} and save it again"
            )
        stored = [by_index[index] for index in range(len(by_index))]
    if not isinstance(stored, list | tuple) or not 0 < len(stored) <= MAX_CLASSES:
        raise VerificationError(f"has no list of class names, but {brief(stored)}; set model.names")
    for index, name in enumerate(stored):
        usable = isinstance(name, str | int) and not isinstance(name, bool) and 0 < len(str(name).strip()) <= MAX_NAME
        if not usable or _is_broken(str(name)):
            raise VerificationError(
                f"class {index} has no name that can be written down ({brief(name)}); set model.names and save it again"
            )
    names = tuple(str(name) for name in stored)
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise VerificationError(
            f"has more than one class of one name ({', '.join(name[:40] for name in repeated[:5])}); give each a name "
            "of its own: labels and figures could mean either"
        )
    return names


def _is_broken(text: str) -> bool:
    """Whether it holds half a character (a lone surrogate), which no file can."""
    return any("\ud800" <= character <= "\udfff" for character in text)


def number(values: object, name: str, default: float) -> float:
    """A finite number of at least 0 from stored settings, or the default; none is larger than `LARGEST_GAIN`."""
    value = values.get(name) if isinstance(values, dict) else None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
        return default
    return float(min(value, LARGEST_GAIN))


def largest_stride(stored: object) -> int:
    """The largest of stored strides, pixels.

    Raises:
        VerificationError: they are no strides.
    """
    few = isinstance(stored, Tensor) and stored.numel() <= MAX_LEVELS
    values = stored.flatten().tolist() if isinstance(stored, Tensor) and few else [stored]
    largest = max((each for each in values if isinstance(each, int | float)), default=math.nan)
    if not (1 <= largest <= LARGEST_STRIDE and largest == int(largest)):
        raise VerificationError(
            f"its strides are {', '.join(map(brief, values))}, not pixels from 1 to {LARGEST_STRIDE}"
        )
    return int(largest)


def input_size(stored: object, stride: int, default: int = DEFAULT_INPUT) -> int:
    """Side of the training images, pixels: the longer one of a rectangle, up to a multiple of the stride.

    What is no size of an image counts as not stored.
    """
    sides = stored if isinstance(stored, list | tuple) else [stored]
    believed = [each for each in sides if isinstance(each, int | float) and SMALLEST_INPUT <= each <= LARGEST_INPUT]
    side = math.ceil(max(believed, default=default) / stride) * stride
    return min(side, LARGEST_INPUT // stride * stride)
