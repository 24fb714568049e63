"""Our files beside what other tools make of the same detector: accuracy and speed, each in the engine it is for.

    yolo export model=yolo11n.pt format=onnx opset=17 dynamic=True simplify=False
    uv run --with nncf python -m benchmarks.peers --fp32 yolo11n.onnx --student student --set set \
        --real coco-train128 --data coco-val128 --teacher yolo11n.pt --output peers

Every tool is calibrated on real images, on the synthetic set and on as many images of noise. mAP differences are to
our file in the same engine, with 95 % intervals from a bootstrap over the same images; models take turns when they are
timed. Without nncf its rows are left out.
"""

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer
from numpy.typing import NDArray
from PIL import Image

from detectors.average_precision import evaluate_boxes
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher
from eval_job.bootstrap import interval, resampled_precision
from eval_job.data import find_validation_data
from eval_job.evaluate import InferenceSettings, predict
from eval_job.latency import measure_latencies
from eval_job.onnx_model import OnnxDetector
from quantization.onnx.engine import open_engine
from schemas.eval_config import EngineName
from schemas.image_size import ImageSize
from schemas.target import Target, exported_path
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set

Images = NDArray[np.float32]
QUANTIZED_BY_ULTRALYTICS = ("Conv", "Gemm", "MatMul")
"""The operators that Ultralytics' INT8 export quantizes."""


def synthetic_images(folder: Path) -> Images:
    samples = open_calibration_set(folder).samples
    return np.stack([np.asarray(sample.image()) for sample in samples]).transpose(0, 3, 1, 2).astype(np.float32) / 255


def real_images(folder: Path, teacher: Detector, size: int) -> Images:
    files = sorted((folder / "images").iterdir())
    canvases = [
        teacher.letterbox(np.asarray(Image.open(file).convert("RGB")), ImageSize.square(size))[0] for file in files
    ]
    return np.stack(canvases).transpose(0, 3, 1, 2).astype(np.float32) / 255


def noise(like: Images) -> Images:
    """Every pixel drawn evenly from [0, 1]: what calibration gives without any image at all."""
    return np.random.default_rng(0).random(like.shape, dtype=np.float32)


class Reader:
    """Calibration images as ONNX Runtime takes them, one by one."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.rewind()

    def rewind(self) -> None:
        self._rest = iter(self._images)

    def get_next(self) -> dict[str, Images] | None:
        image = next(self._rest, None)
        return None if image is None else {"images": image[None]}


def before_layers(fp32: Path) -> set[str]:
    """Names of nodes that a convolution depends on, DFL's aside: all but the decoding."""
    nodes = onnx.load(fp32).graph.node
    producers = {output: node for node in nodes for output in node.output}
    pending = [name for node in nodes if node.op_type == "Conv" and "dfl" not in node.name for name in node.input]
    found: set[str] = set()
    while pending:
        node = producers.get(pending.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            pending += node.input
    return found


def as_ultralytics_calls_it(fp32: Path, output: Path, images: Images) -> None:
    """`export(format="onnx", quantize=8)` of ultralytics 8.4: layers alone, the library's defaults otherwise."""
    from onnxruntime.quantization import quantize_static

    exclude = [node.name for node in onnx.load(fp32).graph.node if node.op_type not in QUANTIZED_BY_ULTRALYTICS]
    quantize_static(fp32, output, Reader(images), nodes_to_exclude=exclude)


def over_the_whole_graph(fp32: Path, output: Path, images: Images) -> None:
    """ONNX Runtime's own placement at its best: UINT8 activations, weights per channel, decoding in float."""
    from onnxruntime.quantization import QuantType, quantize_static

    kept = before_layers(fp32)
    exclude = [node.name for node in onnx.load(fp32).graph.node if node.op_type != "Conv" and node.name not in kept]
    quantize_static(
        fp32, output, Reader(images), nodes_to_exclude=exclude, per_channel=True,
        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip


def by_nncf(fp32: Path, output: Path, images: Images) -> None:
    """`export(format="openvino", quantize=8)` of ultralytics 8.4: NNCF, preset mixed, decoding in float."""
    import nncf
    import openvino

    model, kept = openvino.Core().read_model(fp32), before_layers(fp32)
    layers = {"Convolution", "GroupConvolution", "Constant", "Parameter", "Result"}
    decoding = [
        operator.get_friendly_name()
        for operator in model.get_ordered_ops()
        if operator.get_type_name() not in layers and operator.get_friendly_name() not in kept
    ]
    quantized = nncf.quantize(
        model, nncf.Dataset([image[None] for image in images]), preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(images), ignored_scope=nncf.IgnoredScope(names=decoding, validate=False),
    )  # fmt: skip
    openvino.save_model(quantized, output, compress_to_fp16=False)


TOOLS: dict[str, tuple[EngineName, str, Callable[[Path, Path, Images], None]]] = {
    "quantize_static as Ultralytics calls it": ("onnxruntime", "ultralytics", as_ultralytics_calls_it),
    "quantize_static, whole graph": ("onnxruntime", "whole", over_the_whole_graph),
    "NNCF as Ultralytics calls it": ("openvino", "nncf", by_nncf),
}


def made(fp32: Path, output: Path, tools: str, sources: dict[str, Images]) -> Iterator[tuple[str, EngineName, Path]]:
    """A file of each tool for each source of images; those that are there are kept."""
    for tool, (engine, stem, make) in TOOLS.items():
        if stem not in tools.split(",") or (stem == "nncf" and importlib.util.find_spec("nncf") is None):
            continue
        for source, images in sources.items():
            path = output / f"{stem}-{source}{'.xml' if engine == 'openvino' else '.onnx'}"
            if not path.exists():
                make(fp32, path, images)
            yield f"{tool}, {len(images)} {source} images", engine, path


def main(
    fp32: Annotated[Path, typer.Option(help="the full-precision detector, as its library exports it")],
    student: Annotated[Path, typer.Option(help="folder with our files")],
    calibration_set: Annotated[Path, typer.Option("--set", help="our synthetic set")],
    real: Annotated[Path, typer.Option(help="folder with images/ of real ones")],
    data: Annotated[str, typer.Option(help="validation data")],
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    output: Annotated[Path, typer.Option(help="where the tools' files go")],
    tools: Annotated[str, typer.Option(help="comma-separated")] = ",".join(stem for _, stem, _ in TOOLS.values()),
    images: Annotated[str, typer.Option(help="that tools calibrate on, comma-separated")] = "real,synthetic,noise",
    size: Annotated[int, typer.Option(help="pixels")] = 640,
    repetitions: Annotated[int, typer.Option(help="timed runs of each")] = 25,
) -> None:
    output.mkdir(parents=True, exist_ok=True)
    family = load_teacher(TeacherSource(path=teacher), torch.device("cpu"))
    synthetic = synthetic_images(calibration_set)
    sources = {"real": real_images(real, family, size), "synthetic": synthetic, "noise": noise(synthetic)}
    files = list(made(fp32, output, tools, {name: sources[name] for name in images.split(",")}))
    for target, engine in ((Target.ONNXRUNTIME, "onnxruntime"), (Target.OPENVINO, "openvino")):
        rows: list[tuple[str, Path]] = [("full precision", fp32), ("ours", exported_path(student, target))]
        rows += [(name, path) for name, runs_in, path in files if runs_in == engine]
        print(
            f"\n{engine}\n| | mAP50-95 | against ours | ms, 1 thread | ms, 2 threads |\n| --- | --- | --- | --- | --- |"
        )
        print_rows(dict(rows), engine, family, data, size, repetitions)  # type: ignore[arg-type]


def print_rows(
    rows: dict[str, Path], engine: EngineName, family: Detector, data: str, size: int, repetitions: int
) -> None:
    measured = {name: precision(path, engine, family, data, size) for name, path in rows.items()}
    timed = measure_latencies(rows, ImageSize.square(size), engine=engine, threads=(1, 2), repetitions=repetitions)
    ours, resampled_ours = measured["ours"]
    for name, (value, resampled) in measured.items():
        difference = 100 * (value - ours)
        reach = interval(0.0, 100 * (resampled - resampled_ours)).high
        full = timed["full precision"]
        times = [f"{each.median_ms:.1f} ({one.median_ms / each.median_ms:.2f})"
                 for each, one in zip(timed[name], full, strict=True)]  # fmt: skip
        print(f"| {name} | {value:.4f} | {difference:+.1f} ± {reach:.1f} | {' | '.join(times)} |", flush=True)


def precision(path: Path, engine: EngineName, family: Detector, data: str, size: int) -> tuple[float, Any]:
    names = family.identity.class_names
    found = find_validation_data(data, None).read(names)
    exported = OnnxDetector(open_engine(path, engine), family)
    predictions = predict(
        exported, found.images, torch.device("cpu"), InferenceSettings(ImageSize.square(size), batch=8)
    )
    truth = [Detections.of(torch.from_numpy(i.boxes), torch.from_numpy(i.classes)) for i in found.images]
    measured = evaluate_boxes(truth, predictions.detections, names, [i.crowd.tolist() for i in found.images])
    return measured.summary.map50_95, resampled_precision(measured.matches)


if __name__ == "__main__":
    typer.run(main)
