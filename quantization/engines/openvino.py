"""OpenVINO on CPUs: it folds SiLU and requantization into the layer before, so only inputs of layers are quantized.

Where several read a value, they share a quantizer (`shared_grids`).
"""

from pathlib import Path

import onnx

from quantization.engines.census import ACTIVATION_IN_FLOAT, between_integers, census_of
from quantization.engines.generic import Generic
from quantization.engines.shared_grids import grids_shared
from quantization.engines.target import Images
from quantization.onnx.engine import installed_engines
from schemas.eval_config import EngineName
from schemas.target import Census, FloatLayer

LAYERS = frozenset({"Convolution", "GroupConvolution", "FullyConnected", "MatMul", "Deconvolution"})
INTEGER_PRECISIONS = frozenset({"i8", "u8"})


class OpenVino(Generic):
    """Implements `quantization.engines.target.OnnxTarget`."""

    title = "OpenVINO, CPU"
    placement = "on the input of each layer and its weight, shared where several read a value; the engine fuses SiLU"
    measured = "W8A8 YOLO11n, 640 px: 1.9 times as fast as FP32 (docs/engines.md#openvino)"
    runs_in: EngineName = "openvino"

    def place(self, model: onnx.ModelProto, images: Images | None) -> onnx.ModelProto:
        return grids_shared(super().place(model, images))

    def census(self, path: Path) -> Census:
        if "openvino" not in installed_engines():
            return between_integers(onnx.load(path), "Q/DQ in the file (openvino is not installed)")
        import openvino

        compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        integer, floating, layers = [], [], []
        for operator in compiled.get_runtime_model().get_ops():
            about = operator.get_rt_info()
            kind, precision = str(about["layerType"].astype(str)), str(about["runtimePrecision"].astype(str))
            if kind not in LAYERS:
                continue
            if precision in INTEGER_PRECISIONS:
                integer.append(kind)
            else:
                floating.append(kind)
                layers.append(FloatLayer(name=operator.get_friendly_name(), reason=ACTIVATION_IN_FLOAT))
        by = f"openvino {openvino.__version__.partition('-')[0]}, its executed graph"
        return census_of(by, integer, floating, layers)


ENGINE = OpenVino()
