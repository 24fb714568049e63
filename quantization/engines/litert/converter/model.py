"""A LiteRT model as lists of tensors and operators, read from a flatbuffer and written to one."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

IDENTIFIER = b"TFL3"
NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if not name.startswith("_")}
NUMPY_TYPES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT8: np.int8,
}
INTEGER, NIBBLE, WORD = schema.TensorType.INT8, schema.TensorType.INT4, schema.TensorType.INT32


@dataclass(frozen=True)
class Scale:
    """How an INT8 tensor's values read: (integer − zero point) · step."""

    step: float
    zero_point: int


class Model:
    """One subgraph; tensors are named by their index.

    Args:
        content: of a `.tflite` file.

    Attributes:
        operators: in the order they run; each has `inputs` and `outputs`, indices of tensors.
        inputs: tensors that the caller gives.
        outputs: tensors that the caller gets.
    """

    # The schema's classes are generated and untyped.
    def __init__(self, content: bytes) -> None:
        self._model: Any = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
        self._graph: Any = self._model.subgraphs[0]
        self.operators: list[Any] = list(self._graph.operators)
        self.inputs = [int(index) for index in self._graph.inputs]
        self.outputs = [int(index) for index in self._graph.outputs]
        self._names: dict[int, str] = {}

    def name(self, operator: Any) -> str:
        """Of the operation, as in `CONV_2D`."""
        code = self._model.operatorCodes[operator.opcodeIndex]
        name: str = NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)]
        return name

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Of a tensor; empty for a scalar."""
        shape = self._graph.tensors[tensor].shape
        return () if shape is None else tuple(int(side) for side in shape)

    def constant(self, tensor: int) -> NDArray[Any] | None:
        """The values of a tensor that is part of the file; None for one that is computed."""
        stored = self._graph.tensors[tensor]
        data = self._model.buffers[stored.buffer].data
        if data is None:
            return None
        values: NDArray[Any] = np.asarray(data, np.uint8).view(NUMPY_TYPES[stored.type]).reshape(self.shape(tensor))
        return values

    def add_integer(self, like: int, scale: Scale) -> int:
        """A new INT8 tensor that is computed, of the shape of another."""
        return self._add(like, INTEGER, 0, [scale.step], [scale.zero_point], 0)

    def add_constant(
        self, like: int, values: NDArray[Any], kind: int, steps: NDArray[np.float32], axis: int, name: str
    ) -> int:
        """A new constant in place of another: whole numbers with one step for each entry of an axis.

        Args:
            like: has the shape.
            values: int32 for `WORD`, else int8; `NIBBLE` packs two into a byte, the first one low.
            kind: `WORD`, `INTEGER` or `NIBBLE`.
            steps: `(entries of the axis,)`.
            axis: of `values`.
            name: of the tensor.
        """
        if kind == NIBBLE:
            flat = np.append(values.reshape(-1), np.zeros(values.size % 2, np.int8)).view(np.uint8) & 15
            values = flat[::2] | flat[1::2] << 4
        buffer = schema.BufferT()
        buffer.data = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        self._model.buffers.append(buffer)
        tensor = self._add(like, kind, len(self._model.buffers) - 1, steps, np.zeros(len(steps)), axis)
        self._names[tensor] = name
        return tensor

    def add_float(self, like: int) -> int:
        """A new float tensor that is computed, of the shape of another."""
        return self._add(like, schema.TensorType.FLOAT32, 0, None, None, 0)

    def converted(self, source: int, target: int) -> Any:
        """The operator between a float tensor and an INT8 one, either way, or between two INT8 ones."""
        kinds = [self._graph.tensors[tensor].type for tensor in (source, target)]
        name = "DEQUANTIZE" if kinds[1] == schema.TensorType.FLOAT32 else "QUANTIZE"
        operator: Any = schema.OperatorT()
        operator.opcodeIndex = self._code(name)
        operator.inputs, operator.outputs = [source], [target]
        return operator

    def write(self) -> bytes:
        """The file, without the tensors that no operator uses, and without names that are paths in PyTorch's source.

        Those are a tenth of a small 4-bit model.
        """
        graph = self._graph
        graph.operators = self.operators
        used = sorted(
            {int(t) for op in self.operators for t in (*op.inputs, *op.outputs) if t >= 0}
            | set(self.inputs)
            | set(self.outputs)
        )
        place = {old: new for new, old in enumerate(used)} | {-1: -1}
        graph.tensors = [copy.copy(graph.tensors[index]) for index in used]
        for new, old in enumerate(used):
            if old not in self.inputs and old not in self.outputs:
                graph.tensors[new].name = self._names.get(old, str(new)).encode()
        for operator in self.operators:
            operator.inputs = [place[int(index)] for index in operator.inputs]
            operator.outputs = [place[int(index)] for index in operator.outputs]
        graph.inputs, graph.outputs = [place[t] for t in self.inputs], [place[t] for t in self.outputs]
        for signature in self._model.signatureDefs or []:
            for entry in (*signature.inputs, *signature.outputs):
                entry.tensorIndex = place[entry.tensorIndex]
        self._keep_buffers()
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), IDENTIFIER)
        return bytes(builder.Output())

    def _keep_buffers(self) -> None:
        """Drop buffers without a tensor; the first one stays empty, as the format wants it."""
        kept: list[Any] = [schema.BufferT()]
        place: dict[int, int] = {}
        for tensor in self._graph.tensors:
            buffer = self._model.buffers[tensor.buffer]
            if buffer.data is None:
                tensor.buffer = 0
                continue
            if tensor.buffer not in place:
                place[tensor.buffer] = len(kept)
                kept.append(buffer)
            tensor.buffer = place[tensor.buffer]
        self._model.buffers, self._model.metadata, self._model.metadataBuffer = kept, [], []

    def _add(self, like: int, kind: int, buffer: int, steps: Any, zero_points: Any, axis: int) -> int:
        tensor = copy.copy(self._graph.tensors[like])
        tensor.type, tensor.buffer, tensor.quantization = kind, buffer, None
        if steps is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.asarray(steps, np.float32)
            tensor.quantization.zeroPoint = np.asarray(zero_points, np.int64)
            tensor.quantization.quantizedDimension = axis
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, name: str) -> int:
        """The index of an operation's code, added where it is missing."""
        for index, code in enumerate(self._model.operatorCodes):
            if NAMES[max(code.builtinCode, code.deprecatedBuiltinCode)] == name:
                return index
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, name)
        code.version = 2
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1


def with_operands(operator: Any, inputs: Sequence[int], outputs: Sequence[int]) -> Any:
    """The same operation on other tensors."""
    twin = copy.copy(operator)
    twin.inputs, twin.outputs = list(inputs), list(outputs)
    return twin
