"""Students of one teacher at several bit-widths, from several calibration sets, on one validation set.

Each cell is a `qat_job` and an `eval_job` run as a user would run them, so that finished cells are up to date and an
interrupted grid goes on. Rows are appended to `results.jsonl`; the table is printed at the end.

    uv run python -m benchmarks.accuracy_grid --teacher yolo11n.pt --data coco-val128 --size 320 --output runs/grid \
        --set-folder synthetic=runs/real/calibration --set-folder noise=sets/noise --set-folder real=sets/real
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.evaluation import REPORT, EvalReport

BITS = "8/8:80,6/6:80,4/8:250,4/4:250"


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint of the teacher")],
    data: Annotated[str, typer.Option(help="validation data, as eval takes it")],
    output: Annotated[Path, typer.Option(help="folder of students and results")],
    set_folder: Annotated[list[str], typer.Option(help="NAME=FOLDER of a calibration set, repeatable")],
    size: Annotated[int, typer.Option(help="validation image side, pixels")] = 320,
    bits: Annotated[str, typer.Option(help="weight/activation:steps, comma-separated")] = BITS,
    config: Annotated[Path | None, typer.Option(help="YAML with a QatConfig, for all cells")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="QAT setting for all cells")] = None,
) -> None:
    """Run the grid and print its table."""
    rows: list[dict[str, Any]] = []
    for pair in bits.split(","):
        widths, _, steps = pair.partition(":")
        weight_bits, activation_bits = widths.split("/")
        for entry in set_folder:
            name, _, folder = entry.partition("=")
            cell = output / f"W{weight_bits}A{activation_bits}-{name}"
            run("qat_job", "--calibration-set", folder, "--output", str(cell / "student"),
                *(("--config", str(config)) if config else ()),
                "--set", f"teacher.path={teacher}",
                "--set", f"bits.weight_bits={weight_bits}", "--set", f"bits.activation_bits={activation_bits}",
                *(("--set", f"steps={steps}") if steps else ()),
                *(part for value in set_ or [] for part in ("--set", value)))  # fmt: skip
            run("eval_job", "--student", str(cell / "student"), "--output", str(cell / "eval"),
                "--set", f"teacher.path={teacher}", "--set", f"data={data}", "--set", f"image_size={size}")  # fmt: skip
            rows.append(row(name, f"W{weight_bits}A{activation_bits}", EvalReport.read(cell / "eval" / REPORT)))
            with (output / "results.jsonl").open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


def run(module: str, *arguments: str) -> None:
    """Run one job; stop the grid when it fails."""
    finished = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if finished.returncode:
        raise typer.Exit(finished.returncode)


def row(name: str, bits: str, report: EvalReport) -> dict[str, Any]:
    """What a report says, in one line."""
    full_precision, *students = report.models
    simulated = [model for model in students if model.file_bytes is None]
    by_method = {model.name.partition(" ")[0]: model.precision.map50_95 for model in simulated}
    return {
        "set": name,
        "bits": bits,
        "full_precision": full_precision.precision.map50_95,
        "ptq": by_method.get("PTQ"),
        "qat": by_method.get("QAT"),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, with the share of full precision kept."""

    def share(row: dict[str, Any], method: str) -> str:
        value = row[method]
        return "" if value is None else f"{value:.3f} ({value / row['full_precision']:.1%})"

    lines = ["| bits | calibration set | FP | PTQ | QAT |", "| --- | --- | --- | --- | --- |"]
    lines += [
        f"| {row['bits']} | {row['set']} | {row['full_precision']:.3f} | {share(row, 'ptq')} | {share(row, 'qat')} |"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
