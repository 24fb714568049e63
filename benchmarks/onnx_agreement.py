"""How far an exported student is from the simulated one, beside how far the simulation is from itself.

Rounding makes a quantized network sensitive to the last bit of a sum: the same simulation with another convolution
library (oneDNN switched off) shows what any two engines must differ by. With --data, mAP of each is measured too.

    uv run python -m benchmarks.onnx_agreement --student student --calibration-set calibration --teacher yolo11n.pt
"""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from detectors.registry import load_teacher
from eval_job.data import find_validation_data
from eval_job.evaluate import InferenceSettings, Predictor, predict
from eval_job.onnx_model import OnnxDetector
from qat_job.images import ImageBatches
from quantization.onnx.engine import installed_engines, open_engine
from quantization.student import load_student
from schemas.image_size import ImageSize
from schemas.target import Target, exported_path
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set

CONFIDENT = 0.25


def main(
    student: Annotated[Path, typer.Option(help="folder with a student exported for the target generic")],
    calibration_set: Annotated[Path, typer.Option(help="images to compare raw outputs on")],
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    images: Annotated[int, typer.Option(help="how many of them")] = 4,
    data: Annotated[str | None, typer.Option(help="validation data, for mAP")] = None,
    size: Annotated[int, typer.Option(help="image side for mAP, pixels")] = 640,
) -> None:
    """Print the tables."""
    device = torch.device("cpu")
    simulated, _ = load_student(student, device)
    batch = next(ImageBatches(open_calibration_set(calibration_set), device).in_order(images, images)).contiguous()
    engines = {name: open_engine(exported_path(student, Target.GENERIC), name) for name in installed_engines()}
    runs: dict[str, Callable[[], Tensor]] = {
        "simulated, without oneDNN": lambda: without_onednn(lambda: simulated.decoded(batch)),
        **{name: lambda run=run: torch.from_numpy(run(batch.numpy())) for name, run in engines.items()},
        "teacher": lambda: load_teacher(TeacherSource(path=teacher), device).decoded(batch),
    }
    with torch.no_grad():
        theirs = simulated.decoded(batch)
        confident = theirs[:, 4:].amax(dim=1) > CONFIDENT
        print("| against the simulated student | mean score error | mean box error, px | confident: score | box, px |")
        print("| --- | --- | --- | --- | --- |")
        for name, run in runs.items():
            errors = (run() - theirs).abs()
            chosen = errors.permute(0, 2, 1)[confident]
            print(f"| {name} | {errors[:, 4:].mean():.1e} | {errors[:, :4].mean():.2f} "
                  f"| {chosen[:, 4:].amax(dim=1).mean():.3f} | {chosen[:, :4].mean():.2f} |")  # fmt: skip
    if data:
        print("\n| | mAP50-95 | mAP50 |\n| --- | --- | --- |")
        print(row("simulated", simulated, simulated, data, size))
        print(row("simulated, without oneDNN", WithoutOneDnn(simulated), simulated, data, size))
        for name, engine in engines.items():
            print(row(name, OnnxDetector(engine, simulated), simulated, data, size))


class WithoutOneDnn(OnnxDetector):
    """The simulation on PyTorch's own convolutions."""

    def __init__(self, simulated: Detector) -> None:
        run = lambda images: without_onednn(lambda: simulated.decoded(torch.from_numpy(images)).detach()).numpy()  # noqa: E731
        super().__init__(run, simulated)


def without_onednn(run: Callable[[], Tensor]) -> Tensor:
    """The result of `run` with oneDNN switched off."""
    with torch.backends.mkldnn.flags(enabled=False):
        return run()


def row(name: str, detector: Predictor, family: Detector, data: str, size: int) -> str:
    """A table row with the mAP of a detector."""
    names = family.identity.class_names
    found = find_validation_data(data, None).read(names)
    look = InferenceSettings(ImageSize.square(size), 16, Suppression(0.001, iou=0.7))
    predictions = predict(detector, found.images, torch.device("cpu"), look)
    truth = [Detections.of(torch.from_numpy(i.boxes), torch.from_numpy(i.classes)) for i in found.images]
    summary, _ = average_precision(truth, predictions.detections, names, [i.crowd.tolist() for i in found.images])
    return f"| {name} | {summary.map50_95:.4f} | {summary.map50:.4f} |"


if __name__ == "__main__":
    typer.run(main)
