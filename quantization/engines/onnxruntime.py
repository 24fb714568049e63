"""ONNX Runtime on CPUs: an operator is fused into an integer one only between DequantizeLinear and QuantizeLinear.

So every activation between two quantized layers is quantized (`whole_graph`), as UINT8, since INT8 has no fast kernels
on x86. Weights are symmetric, per channel, and INT8: its fast kernels for convolutions take no UINT8. Fewer than 8 bits
of activations are held by a Clip on the integers: one in float would stand in the way of fusion.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime

from quantization.engines.census import ACTIVATION_IN_FLOAT, LAYERS, OUTPUT_IN_FLOAT, census_of
from quantization.engines.first_layer import first_layer_over_blocks
from quantization.engines.linear_layers import weights_with_zero_points
from quantization.engines.narrow_layers import narrow_layers_filled_up
from quantization.engines.softmax import spell_out_softmax
from quantization.engines.target import Images
from quantization.engines.upsampling import upsampling_by_copies
from quantization.engines.whole_graph import place_everywhere
from schemas.eval_config import EngineName
from schemas.student import QuantizerRecord
from schemas.target import Census, FloatLayer

MOVED = frozenset({"MaxPool", "NhwcMaxPool", "Resize", "Reshape", "Transpose", "Slice", "Split", "Concat"})
"""Operators that keep their names where they move integers."""
BOOKKEEPING = frozenset(
    {"Shape", "Gather", "Cast", "Unsqueeze", "Squeeze", "Range", "Expand", "Constant", "Identity", "Clip"}
    | {"ReorderInput", "ReorderOutput", "QuantizeLinear", "DequantizeLinear"}
)
"""Operators that compute shapes, anchors or other forms of a value, and nothing of the network."""

REWRITES = (
    weights_with_zero_points,
    first_layer_over_blocks,
    narrow_layers_filled_up,
    upsampling_by_copies,
    spell_out_softmax,
)
"""What is computed in another way, with the same result, once the quantizers are placed."""


class OnnxRuntime:
    """Implements `quantization.engines.target.OnnxTarget`."""

    title = "ONNX Runtime, CPU"
    placement = "UINT8 on every activation between two layers, weights per channel; decoding in float"
    measured = "W8A8 YOLO11n, 640 px: 1.8 times as fast as FP32 (docs/engines.md#onnx-runtime)"
    runs_in: EngineName = "onnxruntime"
    needs_images = True
    overflows_without_vnni = True

    def obstacle(self, quantizers: Sequence[QuantizerRecord]) -> str | None:
        return None

    def place(self, model: onnx.ModelProto, images: Images | None) -> onnx.ModelProto:
        assert images is not None
        placed = place_everywhere(model, images)
        for rewrite in REWRITES:
            placed = rewrite(placed)
        return placed

    def census(self, path: Path) -> Census:
        graph = optimised(path).graph
        integer_values = {output for node in graph.node if _gives_integers(node) for output in node.output}
        dequantized = {node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
        integer, floating, layers = [], [], []
        for node in graph.node:
            moves_integers = node.op_type in MOVED | {"Clip"} and node.input[0] in integer_values
            if moves_integers:
                integer_values.update(node.output)
            if node.op_type in BOOKKEEPING:
                continue
            if _gives_integers(node) or moves_integers:
                integer.append(node.op_type)
            else:
                floating.append(node.op_type)
                if node.op_type in LAYERS:
                    decoded = "MatMul" not in node.op_type and node.input[0] in dequantized
                    reason = OUTPUT_IN_FLOAT if decoded else ACTIVATION_IN_FLOAT
                    layers.append(FloatLayer(name=node.name, reason=reason))
        return census_of(f"onnxruntime {onnxruntime.__version__}, its optimised graph", integer, floating, layers)


def optimised(path: Path) -> onnx.ModelProto:
    """The graph that ONNX Runtime makes of a file for this machine's CPU."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def _gives_integers(node: onnx.NodeProto) -> bool:
    return node.op_type.startswith("QLinear") or node.op_type in ("QGemm", "QuantizeLinear")


ENGINE = OnnxRuntime()
