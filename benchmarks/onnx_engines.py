"""Exported models in ONNX Runtime and OpenVINO: latency side by side, file sizes, and what runs in which precision.

The models take turns run by run in one process, so that whatever else the machine does falls on all of them alike. The
first file is what the others are compared with.

    uv run python -m benchmarks.onnx_engines --size 640 --engine openvino eval/teacher-fp32.onnx \
        student/model.openvino.onnx
"""

import json
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer

from eval_job.latency import measure_latencies
from quantization.onnx.engine import ONNX_ENGINES, installed_engines
from schemas.eval_config import EngineName
from schemas.evaluation import Latency
from schemas.image_size import ImageSize
from stages.threads import usable_cores

PROFILED_RUNS = 10


def main(
    files: Annotated[list[Path], typer.Argument(help="models; the first is the baseline")],
    size: Annotated[int, typer.Option(help="image side, pixels")] = 640,
    repetitions: Annotated[int, typer.Option(help="timed runs of each model")] = 50,
    threads: Annotated[str, typer.Option(help="thread counts, comma-separated")] = f"1,{usable_cores()}",
    engine: Annotated[EngineName | None, typer.Option(help="onnxruntime or openvino; default: both")] = None,
    nodes: Annotated[int, typer.Option(help="node types to show of each model, 0 for none")] = 8,
) -> None:
    """Print the tables."""
    named = {str(path): path for path in files}
    baseline = str(files[0])
    counts = [int(count) for count in threads.split(",")]
    measured: dict[str, tuple[Latency, ...]] = defaultdict(tuple)
    for each in [engine] if engine else [name for name in ONNX_ENGINES if name in installed_engines()]:
        timed = measure_latencies(named, ImageSize.square(size), engine=each, threads=counts, repetitions=repetitions)
        for name, latencies in timed.items():
            measured[name] += latencies
    print("| model | MB | share | engine | threads | median ms | p95 ms | speed-up |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, latencies in measured.items():
        bytes_, of = named[name].stat().st_size, named[baseline].stat().st_size
        for mine, theirs in zip(latencies, measured[baseline], strict=True):
            print(f"| {name} | {bytes_ / 1e6:.2f} | {bytes_ / of:.1%} | {row(mine)} | {speed_up(mine, theirs):.2f} |")
    if nodes:
        for name, path in named.items():
            print(f"\n{name}, onnxruntime, 1 thread: share of the time by node type and by type of the first input")
            for kind, share in list(onnxruntime_nodes(path, size).items())[:nodes]:
                print(f"  {share:6.1%}  {kind}")
            if "openvino" in installed_engines():
                print(f"{name}, openvino, 1 thread: share of the time by node type and precision")
                for kind, share in list(openvino_nodes(path, size).items())[:nodes]:
                    print(f"  {share:6.1%}  {kind}")


def row(latency: Latency) -> str:
    """The middle columns."""
    return f"{latency.engine} | {latency.threads} | {latency.median_ms:.1f} | {latency.p95_ms:.1f}"


def speed_up(mine: Latency, baseline: Latency) -> float:
    """How many times faster than the baseline."""
    return baseline.median_ms / mine.median_ms


def onnxruntime_nodes(path: Path, size: int) -> dict[str, float]:
    """Share of the profiled time by node type, largest first."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.enable_profiling = True
    with TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for _ in range(PROFILED_RUNS):
            session.run(None, {session.get_inputs()[0].name: noise(size)})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, float] = defaultdict(float)
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            types = event["args"].get("input_type_shape") or [{"": ""}]
            spent[f"{event['args']['op_name']} {next(iter(types[0]))}"] += event["dur"]
    return shares(spent)


def openvino_nodes(path: Path, size: int) -> dict[str, float]:
    """Share of the profiled time by executed node type and precision, largest first."""
    import openvino

    core = openvino.Core()
    model = core.read_model(path)
    model.reshape([1, 3, size, size])
    hints = {"INFERENCE_NUM_THREADS": 1, "PERF_COUNT": True, "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    spent: dict[str, float] = defaultdict(float)
    for _ in range(PROFILED_RUNS):
        request.infer({0: noise(size)})
        for node in request.profiling_info:
            kind = node.exec_type.removeprefix("jit_").removeprefix("brgconv_")
            spent[f"{node.node_type} {kind}"] += node.real_time.total_seconds()
    return shares(spent)


def shares(spent: dict[str, float]) -> dict[str, float]:
    """Shares of the sum, largest first."""
    total = sum(spent.values())
    return {kind: value / total for kind, value in sorted(spent.items(), key=lambda item: -item[1])}


def noise(size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """One image."""
    return np.random.default_rng(0).random((1, 3, size, size), dtype=np.float32)


if __name__ == "__main__":
    typer.run(main)
