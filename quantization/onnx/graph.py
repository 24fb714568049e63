"""From a network to an ONNX model: traced by PyTorch, slimmed by onnxslim, with the metadata of its family."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import ml_dtypes
import onnx
import onnxslim
import torch
from onnx import TensorProto, numpy_helper
from torch import nn

from detectors.protocol import Detector
from quantization.onnx.names import INPUT, OUTPUTS
from quantization.onnx.quantizers import OPSET
from quantization.onnx.regions import TRANSLATIONS
from schemas.labels import ShapeKind
from stages.storage import atomic_path

INT4_RANGE = (-8, 7)
SMALLEST_SIDE, LARGEST_SIDE = 4, 1024
"""Limits of height and width, in strides. End-to-end heads pick 300 of at least as many anchors: 336 at 4 strides."""


def output_names(detector: Detector) -> Sequence[str]:
    """What the outputs of a detector's file are called: rows of boxes, then prototypes of masks."""
    return OUTPUTS[: 2 if detector.sees is ShapeKind.MASK else 1]


def to_onnx(
    network: nn.Module, stride: int, metadata: dict[str, str], outputs: Sequence[str] = OUTPUTS[:1]
) -> onnx.ModelProto:
    """Export a network in eval mode that takes images and gives a tensor or two; batch, height and width stay free.

    Args:
        network: on the CPU.
        stride: sides of the input are multiples of this, pixels.
        metadata: written into the file.
        outputs: names of what it gives.
    """
    images = torch.zeros(2, 3, SMALLEST_SIDE * stride, (SMALLEST_SIDE + 1) * stride)  # no two sizes alike
    rows, columns = (torch.export.Dim(name, min=SMALLEST_SIDE, max=LARGEST_SIDE) for name in ("rows", "columns"))
    with _quiet():
        program = torch.onnx.export(
            network,
            (images,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("batch"), 2: stride * rows, 3: stride * columns},),
            verbose=False,
            custom_translation_table=TRANSLATIONS,
        )
        assert program is not None  # a program is returned with dynamo=True
        model: onnx.ModelProto = onnxslim.slim(program.model_proto)
    for node in model.graph.node:  # where each came from in the Python source: a third of the file
        del node.metadata_props[:]
        node.doc_string = ""
    onnx.helper.set_model_props(model, metadata)
    return model


def store_int4(model: onnx.ModelProto) -> None:
    """Retype in place the INT8 weights that fit into INT4; the arithmetic stays the same."""
    weights = {node.input[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    low, high = INT4_RANGE
    for tensor in model.graph.initializer:
        if tensor.name in weights and tensor.data_type == TensorProto.INT8:
            values = numpy_helper.to_array(tensor)
            if values.min() >= low and values.max() <= high:
                tensor.CopyFrom(numpy_helper.from_array(values.astype(ml_dtypes.int4), tensor.name))


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float model in half precision, with float input and output, by ONNX Runtime's converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        half: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
    return half


def write_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write a model atomically; equal models give equal bytes."""
    del model.graph.value_info[:]  # shapes of intermediate tensors, 7 % of a small model: engines infer them
    with atomic_path(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks on its own progress, which say nothing to a user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
