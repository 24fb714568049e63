"""The engines that a student is made for, by name; apart from what is stored of them, so that `--help` needs no models."""

from enum import StrEnum


class Target(StrEnum):
    """An engine that files are made for; each has a module of its name in `quantization/engines/`."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    LITERT = "litert"
    GENERIC = "generic"
