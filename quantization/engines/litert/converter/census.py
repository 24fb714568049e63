"""`python -m converter.census FILE`: prints what LiteRT's interpreter computes in integers and in float, as JSON."""

import json
import sys
from collections import Counter
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

LAYERS = {"CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL"}
"""Operations that do nearly all of a network's work."""
CONVERSIONS = {"QUANTIZE", "DEQUANTIZE"}
BOOKKEEPING = {"SHAPE", "RESHAPE", "DELEGATE"}
"""Operations that compute shapes or other views of a value, and nothing of the network."""


def main(path: str) -> None:
    """Print the census of a file."""
    # Without delegates every operation is named; those run the same operations on the same types.
    resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    interpreter = Interpreter(path, experimental_op_resolver_type=resolver)
    interpreter.allocate_tensors()
    print(json.dumps(counted(interpreter)))


def counted(interpreter: Interpreter) -> dict[str, Any]:
    """Operations in integers and in float by name, and layers in float: name, and whether their input was integer."""
    tensors = {details["index"]: details for details in interpreter.get_tensor_details()}
    operations = interpreter._get_ops_details()  # LiteRT has no public way to list them
    dequantized = {
        int(each["outputs"][0]): int(each["inputs"][0]) for each in operations if each["op_name"] == "DEQUANTIZE"
    }
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    layers = []
    for each in operations:
        name = each["op_name"]
        if name in CONVERSIONS | BOOKKEEPING:
            continue
        inputs = [int(tensor) for tensor in each["inputs"] if tensor >= 0]
        if any(tensors[int(tensor)]["dtype"] == np.float32 for tensor in each["outputs"]):
            floating[name] += 1
            if name in LAYERS:
                weight = tensors[dequantized.get(inputs[1], inputs[1])]["name"]
                named = weight.removesuffix(".weight") if weight.endswith(".weight") else f"{name} {each['index']}"
                layers.append({"name": named, "input_was_integer": inputs[0] in dequantized})
        else:
            integer[name] += 1
    return {"integer": integer, "floating": floating, "layers": layers}


if __name__ == "__main__":
    try:
        main(sys.argv[1])
    except ValueError as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
