"""Does mixed precision pay at equal mean weight bits, and does the pay come from knowing the layers?

Students of one teacher and one calibration set, all with the mean weight bits of the uniform one (layers at fixed bits
included): `uniform`; `plan`, from the measured sensitivities; `shuffled`, from the same sensitivities dealt out to the
wrong layers. Each is a `qat_job` and an `eval_job` run as a user would run them; finished ones are up to date.

    uv run zsq sensitivity --calibration-set sets/synthetic --output runs/sensitivity --set teacher.path=yolo11n.pt
    uv run python -m benchmarks.mixed_precision --teacher yolo11n.pt --calibration-set sets/synthetic \
        --sensitivity runs/sensitivity --data coco-val128 --size 320 --output runs/mixed --bits 4 --seeds 0,1
"""

import json
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.jobs import precision_by_method, run_job
from quantization.mixed_precision import mean_bits, plan_bits, total_error
from schemas.evaluation import REPORT, EvalReport
from schemas.sensitivity import SENSITIVITY, LayerSensitivity, SensitivityReport

KINDS = "uniform,plan,shuffled"


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    calibration_set: Annotated[Path, typer.Option(help="folder of the calibration set")],
    sensitivity: Annotated[Path, typer.Option(help="folder that `zsq sensitivity` wrote")],
    data: Annotated[str, typer.Option(help="validation data, as eval takes it")],
    output: Annotated[Path, typer.Option(help="folder of students and results")],
    size: Annotated[int, typer.Option(help="validation image side, pixels")] = 320,
    bits: Annotated[int, typer.Option(help="weight bits of the uniform student")] = 4,
    seeds: Annotated[str, typer.Option(help="of training, comma-separated; also deals out the shuffled plan")] = "0",
    kinds: Annotated[str, typer.Option(help="students to make")] = KINDS,
    set_: Annotated[list[str] | None, typer.Option("--set", help="QAT setting for all students")] = None,
) -> None:
    """Train and evaluate every kind at every seed, and print the table."""
    layers = SensitivityReport.read(sensitivity / SENSITIVITY).layers
    rows: list[dict[str, Any]] = []
    for seed in (int(text) for text in seeds.split(",")):
        for kind in kinds.split(","):
            plan = weight_bits(kind, layers, bits, seed)
            cell = output / f"W{bits}-{kind}-{seed}"
            settings = [f"bits.weight_bits={bits}", f"seed={seed}", *(set_ or [])]
            settings += [f"bits.layers={json.dumps(plan)}"] if kind != "uniform" else []
            run_job("qat_job", "--calibration-set", str(calibration_set), "--output", str(cell / "student"),
                "--set", f"teacher.path={teacher}",
                *(part for setting in settings for part in ("--set", setting)))  # fmt: skip
            run_job("eval_job", "--student", str(cell / "student"), "--output", str(cell / "eval"),
                "--set", f"teacher.path={teacher}", "--set", f"data={data}", "--set", f"image_size={size}")  # fmt: skip
            rows.append(
                {"bits": kind}
                | precision_by_method(EvalReport.read(cell / "eval" / REPORT))
                | {"seed": seed, "mean_bits": mean_bits(layers, plan), "predicted": total_error(layers, plan)}
            )
            with (output / "results.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


def weight_bits(kind: str, layers: Sequence[LayerSensitivity], bits: int, seed: int) -> dict[str, int]:
    """Bits of every free layer, of the same mean whatever the kind."""
    free = [layer for layer in layers if layer.fixed_bits is None]
    uniform = {layer.name: bits for layer in free}
    budget = mean_bits(layers, uniform)
    if kind == "uniform":
        return uniform
    if kind == "plan":
        return plan_bits(layers, budget)
    dealt = [layer.errors for layer in free]
    random.Random(seed).shuffle(dealt)
    wrong = {layer.name: errors for layer, errors in zip(free, dealt, strict=True)}
    return plan_bits(
        [layer.model_copy(update={"errors": wrong.get(layer.name, layer.errors)}) for layer in layers], budget
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, mean over seeds with the spread."""

    def cell(kind: str, method: str) -> str:
        values = [each[method] for each in rows if each["bits"] == kind and each[method] is not None]
        if not values:
            return ""
        spread = f" ({min(values):.3f} to {max(values):.3f})" if len(values) > 1 else ""
        return f"{statistics.fmean(values):.3f}{spread}"

    lines = ["| student | mean bits | predicted error | PTQ | QAT |", "| --- | --- | --- | --- | --- |"]
    for kind in dict.fromkeys(each["bits"] for each in rows):
        first = next(each for each in rows if each["bits"] == kind)
        predicted = statistics.fmean(each["predicted"] for each in rows if each["bits"] == kind)
        lines.append(
            f"| {kind} | {first['mean_bits']:.4f} | {predicted:.3f} | {cell(kind, 'ptq')} | {cell(kind, 'qat')} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
