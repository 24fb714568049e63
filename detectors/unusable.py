"""Why a file is no teacher, told from its name and from the classes that its pickle names. Runs nothing of it."""

import zipfile
from pathlib import Path

from detectors.family import named_classes

EXPORTED = {
    ".onnx": "ONNX", ".engine": "TensorRT", ".trt": "TensorRT", ".tflite": "LiteRT", ".torchscript": "TorchScript",
    ".xml": "OpenVINO", ".bin": "OpenVINO", ".pb": "TensorFlow", ".mnn": "MNN", ".param": "NCNN", ".keras": "Keras",
}  # fmt: skip
"""Endings of exported models, and what they are of."""
OTHER_TASKS = {
    "SemanticSegmentationModel": "semantic segmentation", "ClassificationModel": "classification",
    "DepthModel": "depth", "WorldModel": "YOLO-World, whose classes are texts",
    "YOLOEModel": "YOLOE, whose classes are texts",
    "YOLOESegModel": "YOLOE segmentation",
}  # fmt: skip
"""Networks of the ultralytics package that are no detector of fixed classes."""
KNOWN_PACKAGES = ("torch", "ultralytics", "models", "numpy", "collections", "pathlib", "builtins",
                  "__builtin__", "argparse", "_codecs", "copyreg", "types", "datetime", "omegaconf")  # fmt: skip
"""Packages whose classes stand in checkpoints that load, or that their loaders refuse by name."""


def obstacle(path: Path) -> str | None:
    """Why no family takes the file, in one line; None where one may."""
    if path.name.startswith("pytorch_model") and path.suffix == ".bin":
        return "is a pickle, which can run code and is not read; name a folder that holds model.safetensors"
    if kind := EXPORTED.get(path.suffix.lower()) or _sniffed(path):
        return f"is an exported {kind} model, whose weights cannot be trained; name the checkpoint it was exported from"
    for name in sorted(named_classes(path)):
        module, _, kind = name.partition(" ")
        if module == "ultralytics.nn.tasks" and kind in OTHER_TASKS:
            return f"holds no detection model, but one of another task ({OTHER_TASKS[kind]}); take a detection model"
    return None


def own_class(path: Path) -> str | None:
    """A class that a checkpoint names and that is of no package known here: a module of the user's own."""
    named = sorted(name.replace(" ", ".")[:100] for name in named_classes(path))
    return next((name for name in named if name.partition(".")[0] not in KNOWN_PACKAGES), None)


def _sniffed(path: Path) -> str | None:
    """The kind of an exported model under a checkpoint's name."""
    try:
        with path.open("rb") as stream:
            start = stream.read(8)
        if start[:1] == b"\x08" and start[2:3] == b"\x12":  # ModelProto: the version, then the producer's name
            return "ONNX"
        if start[4:8] == b"TFL3":
            return "LiteRT"
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    return "TorchScript"
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return None
    return None
