"""Where the time of an exported file goes, by kind of operator: the engines' own profilers."""

import json
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from quantization.onnx.names import INPUT
from schemas.engine_timing import OperatorTime
from schemas.eval_config import EngineName

RUNS = 5
"""Profiled runs of each file; times are means over them."""
CONVERSIONS = frozenset({"QuantizeLinear", "DequantizeLinear", "Cast", "FakeQuantize", "Convert", "Reorder"})
Where = Literal["integer", "float", "conversion"]


def operator_times(path: Path, engine: EngineName, image: NDArray[np.float32]) -> tuple[OperatorTime, ...]:
    """The time of one image by kind of operator, one thread, most first; empty where an engine does not tell.

    Args:
        path: a file that the engine reads.
        engine: which.
        image: `(1, 3, H, W)`.
    """
    if engine == "onnxruntime":
        return _summed(_onnxruntime(path, image), RUNS)
    if engine == "openvino":
        return _summed(_openvino(path, image), RUNS)
    return ()


def _summed(records: Iterable[tuple[str, Where, str, float]], runs: int) -> tuple[OperatorTime, ...]:
    """Records of (kind, where, node, milliseconds) of all runs, by kind and where."""
    times: dict[tuple[str, Where], float] = defaultdict(float)
    nodes: dict[tuple[str, Where], set[str]] = defaultdict(set)
    for kind, where, node, milliseconds in records:
        times[kind, where] += milliseconds / runs
        nodes[kind, where].add(node)
    ordered = sorted(times, key=lambda each: (-times[each], each))
    return tuple(
        OperatorTime(kind=kind, where=where, count=len(nodes[kind, where]), milliseconds=times[kind, where])
        for kind, where in ordered
    )


def _onnxruntime(path: Path, image: NDArray[np.float32]) -> list[tuple[str, Where, str, float]]:
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(RUNS + 1):
            session.run(None, {INPUT: image})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
    kernels = [each for each in events if each.get("cat") == "Node" and each["name"].endswith("_kernel_time")]
    warm = kernels[len(kernels) // (RUNS + 1) :]  # the first run allocates
    return [
        (each["args"]["op_name"], _where(each["args"]["op_name"]), each["name"], each["dur"] / 1e3) for each in warm
    ]


def _where(kind: str) -> Where:
    if kind in CONVERSIONS:
        return "conversion"
    return "integer" if kind.startswith("QLinear") or kind in ("QGemm", "MatMulInteger", "ConvInteger") else "float"


def _openvino(path: Path, image: NDArray[np.float32]) -> list[tuple[str, Where, str, float]]:
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape(list(image.shape))
    hints = {"INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    request.infer({0: image})
    records: list[tuple[str, Where, str, float]] = []
    for _ in range(RUNS):
        request.infer({0: image})
        for each in request.get_profiling_info():
            milliseconds = each.real_time.total_seconds() * 1e3
            if milliseconds > 0:
                computed: Where = "integer" if each.exec_type.lower().endswith(("i8", "u8")) else "float"
                where: Where = "conversion" if each.node_type in CONVERSIONS else computed
                records.append((each.node_type, where, each.node_name, milliseconds))
    return records
