"""The engines that students are made for, by name; apart from what is stored of them, which `--help` need not load."""

from enum import StrEnum


class Target(StrEnum):
    """An engine that files are made for; each has a module of its name in `quantization/engines/`."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"
    TENSORRT = "tensorrt"
    LITERT = "litert"
    GENERIC = "generic"
