"""Q/DQ on the inputs of layers, as training simulated them: for engines without a module of their own."""

import copy
from collections.abc import Sequence
from pathlib import Path

import onnx

from quantization.engines.census import between_integers
from quantization.engines.target import Images
from schemas.eval_config import EngineName
from schemas.student import QuantizerRecord
from schemas.target import Census


class Generic:
    """Implements `quantization.engines.target.OnnxTarget`."""

    title = "any engine that reads Q/DQ"
    placement = "on the input of each layer and its weight, exactly as training simulated them"
    measured = "nothing of its own: it is what the other placements start from"
    runs_in: EngineName = "onnxruntime"
    needs_images = False
    overflows_without_vnni = True

    def obstacle(self, quantizers: Sequence[QuantizerRecord]) -> str | None:
        return None

    def place(self, model: onnx.ModelProto, images: Images | None) -> onnx.ModelProto:
        return copy.deepcopy(model)

    def census(self, path: Path) -> Census:
        return between_integers(onnx.load(path), "Q/DQ in the file")


ENGINE = Generic()
