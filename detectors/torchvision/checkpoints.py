"""Weights of torchvision detectors: published ones by name, checkpoints, plain state dictionaries, MMDetection's."""

import argparse
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torchvision.models import get_model_weights

from detectors.stored import (
    check_growth,
    check_packed,
    check_tensors,
    class_names,
    input_size,
    one_line,
    plain_values,
    reading,
)
from detectors.torchvision.build import build
from detectors.torchvision.mmdetection import converted, is_mmdetection, published_name
from detectors.torchvision.models import PUBLISHED, Architecture, stored_numbers
from detectors.torchvision.one_stage import OneStageDetector
from detectors.torchvision.two_stage import TwoStageDetector
from detectors.unusable import own_class
from schemas.errors import InputError, VerificationError
from schemas.teacher import PixelFormat, TeacherIdentity, TeacherSource
from stages.storage import file_digest

STRIDE = 32
"""Of the coarsest level that a pyramid is made of, pixels. An SSD resizes its images itself and takes any."""
PADDING = 115
"""The mean over channels of ImageNet's mean colour, which the library pads with."""
COCO_OUTPUTS, COCO_CLASSES = 91, 80
"""Outputs of the published weights: COCO's classes, the gaps in their numbering, background."""


def load(path: Path, source: TeacherSource) -> OneStageDetector | TwoStageDetector:
    """Read a checkpoint; only tensors and plain values are built from it, `trust_pickle` or not.

    Raises:
        InputError: it does not load safely, is of another architecture, or its classes have no names.
    """
    with reading(path):
        checkpoint = _read(path)
        state = _weights(checkpoint)
        check_tensors(state, path.stat().st_size)
        architecture, names = _described(path, source, checkpoint, state, _class_names(source, checkpoint))
        try:
            check_growth(stored_numbers(architecture), path.stat().st_size)
        except VerificationError as error:
            raise VerificationError(f"its weights are not those of {architecture.model} ({error})") from error
        if is_mmdetection(state):
            state = converted(state)
        detector = build(
            TeacherIdentity(
                family="torchvision",
                architecture=architecture.model_dump(mode="json"),
                sha256=file_digest(path),
                class_names=names,
                input_size=_input_size(checkpoint, architecture),
                stride=1 if architecture.model.startswith("ssd") else STRIDE,
                pixels=PixelFormat(padding=PADDING),
            )
        )
        try:
            detector.network.load_state_dict(state)
        except RuntimeError as error:
            raise VerificationError(
                f"its weights are not those of {architecture.model} ({one_line(error, 300)})"
            ) from error
    return detector


def _described(
    path: Path, source: TeacherSource, checkpoint: dict[str, Any], state: dict[str, Tensor], names: tuple[str, ...]
) -> tuple[Architecture, tuple[str, ...]]:
    """The architecture, as the checkpoint says or as its weights show, and the names of the classes."""
    stored = checkpoint.get("architecture")
    if isinstance(stored, dict):
        architecture = Architecture.of(plain_values(stored, "its architecture"))
        if len(names) != len(architecture.labels):
            raise VerificationError(f"has {len(architecture.labels)} classes and {len(names)} names for them")
        return architecture, names
    model = published_name(state) if is_mmdetection(state) else _model_name(source, checkpoint, path)
    outputs = network_outputs(state)
    labels, names = numbered(outputs, names)
    batch_norm = "running" if any(key.endswith("num_batches_tracked") for key in state) else "frozen"
    return Architecture.of({"model": model, "outputs": outputs, "labels": labels, "batch_norm": batch_norm}), names


def _read(path: Path) -> dict[str, Any]:
    """The content of a checkpoint file.

    Raises:
        InputError: it does not load without running code of its own.
    """
    check_packed(path)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        # Training scripts of the library keep their arguments: a class that only holds values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and safetensors errors, whatever a foreign file makes PyTorch raise
        own = own_class(path)
        reason = f"it needs the class {own}, which is not of the package" if own else one_line(error)
        raise InputError(
            f"teacher {path}: not a torchvision checkpoint that loads safely ({reason}); check teacher.family, or save "
            "the model's state_dict() alone"
        ) from error
    if not isinstance(checkpoint, dict):
        raise InputError(f"teacher {path}: holds a {type(checkpoint).__name__}; save the model's state_dict()")
    return checkpoint


def _weights(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(checkpoint.get(key), dict):
            checkpoint = checkpoint[key]
            break
    return {
        name.removeprefix("module."): value
        for name, value in checkpoint.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _class_names(source: TeacherSource, checkpoint: dict[str, Any]) -> tuple[str, ...]:
    """Names as configured, or that the checkpoint holds; MMDetection's stand in its meta data. None: empty."""
    if source.class_names:
        return class_names(source.class_names)
    meta = checkpoint.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    stored = meta.get("dataset_meta") if isinstance(meta.get("dataset_meta"), dict) else meta
    assert isinstance(stored, dict)
    for names in (checkpoint.get("class_names"), stored.get("CLASSES"), stored.get("classes")):
        if isinstance(names, list | tuple) and names:
            return class_names(names)
    return ()


def _model_name(source: TeacherSource, checkpoint: dict[str, Any], path: Path) -> str:
    """What a state dictionary is of: as configured, as its training script recorded, or as its file is called."""
    arguments = getattr(checkpoint.get("args"), "model", None)
    for name in (source.architecture, source.path, arguments):
        if name in PUBLISHED:
            return str(name)
    if source.architecture:
        raise VerificationError(f"architecture {source.architecture!r} is none of {', '.join(PUBLISHED)}")
    named = [name for name in PUBLISHED if path.stem.startswith(name)]
    if not named:
        raise VerificationError(f"does not say what it is; set teacher.architecture to one of {', '.join(PUBLISHED)}")
    return max(named, key=len)


def network_outputs(state: dict[str, Tensor]) -> int:
    """How many classes the network of a state dictionary tells apart.

    Raises:
        VerificationError: it is no detector's.
    """
    for name in ("roi_heads.box_predictor.cls_score.bias", "roi_head.bbox_head.fc_cls.bias"):
        if name in state:
            return state[name].numel()
    for level in ("cls_logits.bias", "module_list.0.bias", "module_list.0.1.bias"):
        scores = state.get(f"head.classification_head.{level}")
        boxes = state.get(f"head.regression_head.{level.replace('cls_logits', 'bbox_reg')}")
        if scores is not None and boxes is not None:
            anchors = max(boxes.numel() // 4, 1)
            return scores.numel() // anchors  # both have them for each anchor of a place
    raise VerificationError("holds no weights of a torchvision detector")


def numbered(outputs: int, names: tuple[str, ...]) -> tuple[list[int], tuple[str, ...]]:
    """The network's number of each class, and its name. Published weights have COCO's numbers, with gaps.

    Raises:
        VerificationError: there is not a name for each.
    """
    if not names and outputs in (COCO_OUTPUTS, COCO_CLASSES + 1):
        categories = get_model_weights("fasterrcnn_resnet50_fpn").DEFAULT.meta["categories"]
        real = [(index, name) for index, name in enumerate(categories) if name not in ("__background__", "N/A")]
        names = tuple(name for _, name in real)
        if outputs == COCO_OUTPUTS:
            return [index for index, _ in real], names
    if len(names) not in (outputs, outputs - 1):
        raise VerificationError(
            f"tells {outputs} classes apart (with background) and has {len(names)} names; set teacher.class_names, in "
            "the order of the network, without background"
        )
    first = outputs - len(names)
    return list(range(first, outputs)), names


def _input_size(checkpoint: dict[str, Any], architecture: Architecture) -> int:
    usual = PUBLISHED[architecture.model].input_size if architecture.model in PUBLISHED else 320
    return input_size(checkpoint.get("input_size"), 1, usual)


def download(name: str) -> Path:
    """Download published weights by name (`fasterrcnn_resnet50_fpn_v2`) into the working folder.

    Raises:
        InputError: there are none of that name, or they cannot be fetched.
    """
    if name not in PUBLISHED or PUBLISHED[name].build is None:
        raise InputError(
            f"teacher {name}: no such file, and no detector that torchvision publishes; check teacher.path"
        )
    url = get_model_weights(name).DEFAULT.url
    path = Path(url.rsplit("/", 1)[1])
    if not path.is_file():
        digest = path.stem.rsplit("-", 1)[1]  # the start of the file's sha256 is part of its name
        try:
            torch.hub.download_url_to_file(url, str(path), hash_prefix=digest, progress=False)
        except Exception as error:  # urllib, ssl and the library's own errors
            raise InputError(f"teacher {name}: not a file here, and the download failed ({error})") from error
    return path
