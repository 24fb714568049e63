"""A saved model as a detector: weights, network, classes and how pixels go in. No pickle is read, no code of it run."""

import math
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from detectors.stored import check_growth, check_tensors, class_names, input_size, one_line, reading
from detectors.transformers import saved_model
from detectors.transformers.detector import TransformersDetector
from detectors.transformers.library import Architecture, strides_of
from schemas.errors import InputError, VerificationError
from schemas.teacher import TeacherIdentity, TeacherSource

SCORES = "model.enc_score_head.bias"
"""A tensor with one number for each class."""
EIGHT_BITS = 1 / 255


def load(path: Path, source: TeacherSource) -> TransformersDetector:
    """Read the weights of a saved model, its `config.json`, and `preprocessor_config.json` where there is one.

    Raises:
        InputError: they are no detector that is supported, do not go together, or hold what no training leaves.
    """
    if path.suffix != ".safetensors" or not saved_model.is_saved_model(path):
        raise InputError(
            f"teacher {path}: is no saved model of the transformers package; name the folder that save_pretrained "
            f"wrote ({saved_model.WEIGHTS} and {saved_model.CONFIGURATION}), and check teacher.family"
        )
    with reading(path):
        configuration = saved_model.read_json(path.parent / saved_model.CONFIGURATION)
        beside = path.parent / saved_model.PREPROCESSING
        preprocessing = saved_model.read_json(beside) if beside.is_file() else {}
        architecture = Architecture.of(configuration | {"mean": None, "std": None} | pixels(preprocessing))
        names = class_names(source.class_names or configuration.get("id2label"))
        outline = architecture.outline(len(names))
        check_growth(stored_numbers(outline), path.stat().st_size)
        strides = strides_of(outline)
        state = _weights(path, len(names))
        identity = TeacherIdentity(
            family="transformers", architecture=architecture.plain(), sha256=saved_model.digest(path),
            class_names=names, input_size=input_size(_size(preprocessing, configuration), strides[-1]),
            stride=strides[-1],
        )  # fmt: skip
        return TransformersDetector(identity, architecture.filled(len(names), state), architecture)


def build(identity: TeacherIdentity) -> TransformersDetector:
    """The network of an identity with unset weights.

    Raises:
        VerificationError: it does not build.
    """
    architecture = Architecture.of(identity.architecture)
    return TransformersDetector(identity, architecture.empty(len(identity.class_names)), architecture)


def stored_numbers(network: Any) -> int:
    """How many numbers the weights of a network are, statistics of norms included."""
    return sum(tensor.numel() for tensor in network.state_dict().values())


def pixels(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """`mean` and `std` of pixels in [0, 1] as a `preprocessor_config.json` says; empty where they go in as they are.

    Raises:
        VerificationError: they are scaled in another way than to [0, 1].
    """
    factor = preprocessing.get("rescale_factor", EIGHT_BITS)
    scaled = isinstance(factor, int | float) and math.isclose(factor, EIGHT_BITS, rel_tol=1e-3)
    if preprocessing.get("do_rescale", True) is not True or not scaled:
        raise VerificationError(
            "preprocessor_config.json: pixels are not scaled from 0…255 to 0…1 (do_rescale, rescale_factor); only "
            "detectors of such pixels fit"
        )
    if not preprocessing.get("do_normalize", False):
        return {}
    mean, std = preprocessing.get("image_mean"), preprocessing.get("image_std")
    usable = isinstance(std, list) and all(isinstance(each, int | float) and 0 < each < 1e3 for each in std)
    if not usable or not isinstance(mean, list):
        raise VerificationError("preprocessor_config.json: do_normalize without an image_mean and an image_std")
    return {"mean": mean, "std": std}


def _size(preprocessing: dict[str, Any], configuration: dict[str, Any]) -> Any:
    """The stored size of training images, in whichever form."""
    for stored in (preprocessing.get("size"), configuration.get("eval_size"), configuration.get("anchor_image_size")):
        if isinstance(stored, dict):
            return [side for side in stored.values() if not isinstance(side, dict)]
        if stored is not None:
            return stored
    return None


def _weights(path: Path, names: int) -> dict[str, Tensor]:
    """The tensors of a weights file.

    Raises:
        VerificationError: it is none, holds no plain numbers, or is of another number of classes.
    """
    try:
        state = load_file(path)
    except Exception as error:  # whatever a damaged file makes the reader raise
        raise VerificationError(f"is no safetensors file ({one_line(error)}); copy the folder again") from error
    check_tensors(state, path.stat().st_size)
    told = state[SCORES].numel() if SCORES in state else names
    if told != names:
        raise VerificationError(
            f"tells {told} classes apart and has {names} names for them; complete id2label of config.json, or set "
            "teacher.class_names"
        )
    return state
