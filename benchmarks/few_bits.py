"""How far a student is from itself when its input hardly changes, and how far its files are from it.

    uv run python -m benchmarks.few_bits student --set set

Figures are those that a file is accepted or refused by: shares of class scores and pixels of boxes, over the outputs
that the student scores highest.
"""

import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import onnx
import torch
import typer
from torch import Tensor

from quantization.engines.target import OwnFormat, engine_target
from quantization.onnx.engine import open_engine
from quantization.onnx.export import trace_student
from quantization.onnx.parity import BEST_ANCHORS, PARITY_IMAGES, check_in_float
from quantization.student import load_student
from schemas.target import Target
from stages.shards import open_calibration_set

TARGETS = (Target.GENERIC, Target.ONNXRUNTIME, Target.OPENVINO)
HALF_A_STEP = 0.5 / 255


def main(
    student: Annotated[Path, typer.Argument(help="folder of a student whose outputs are `(B, 4 + classes, anchors)`")],
    calibration_set: Annotated[Path, typer.Option("--set", help="that it was made with")],
    images: Annotated[int, typer.Option(help="that decide the grids of the files")] = 32,
) -> None:
    """Print a line for the changed input and one for each file."""
    detector, manifest = load_student(student, torch.device("cpu"))
    samples = open_calibration_set(calibration_set).samples[:images]
    seen = torch.from_numpy(np.stack([sample.image() for sample in samples])).permute(0, 3, 1, 2) / 255
    compared, size = seen[:PARITY_IMAGES], seen.shape[-1]
    with torch.no_grad():
        theirs = detector.decoded(compared)
        noise = torch.rand(compared.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        show("the student itself, input changed by at most half a step of 8 bits", theirs,
             detector.decoded(compared + HALF_A_STEP * noise))  # fmt: skip
    traced = trace_student(detector, manifest)
    with tempfile.TemporaryDirectory() as folder:
        for target in TARGETS:
            engine, path = engine_target(target), Path(folder) / f"{target.value}.onnx"
            assert not isinstance(engine, OwnFormat)
            onnx.save(engine.place(traced.model, seen.contiguous().numpy()), path)
            check_in_float(detector, path, seen, size)
            show(f"{target.value}, as good as equal in float", theirs,
                 torch.from_numpy(open_engine(path)(compared.contiguous().numpy())))  # fmt: skip


def show(what: str, theirs: Tensor, mine: Tensor) -> None:
    """Differences of outputs, `(B, 4 + classes, anchors)`."""
    best = theirs[:, 4:].amax(dim=1).topk(BEST_ANCHORS).indices[:, None].expand(-1, theirs.shape[1], -1)
    theirs, mine = (outputs.gather(2, best).transpose(1, 2).flatten(0, 1) for outputs in (theirs, mine))
    errors, weights = (mine - theirs).abs(), theirs[:, 4:].sum(dim=1)
    scores = errors[:, 4:].sum() / weights.sum()
    boxes = (errors[:, :4].mean(dim=1) * weights).sum() / weights.sum()
    print(f"{what}: class scores {scores:.0%} off, boxes {boxes:.1f} px", flush=True)


if __name__ == "__main__":
    typer.run(main)
