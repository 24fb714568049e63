"""Jobs as a user would run them, and what their reports say, for benchmarks."""

import subprocess
import sys

import typer

from schemas.evaluation import EvalReport


def run_job(module: str, *arguments: str) -> None:
    """Run one job; stop the benchmark when it fails."""
    finished = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
    if finished.returncode:
        raise typer.Exit(finished.returncode)


def precision_by_method(report: EvalReport) -> dict[str, float | None]:
    """mAP50-95 of the teacher (`full_precision`) and of the simulated student by each method (`ptq`, `qat`)."""
    full_precision, *students = report.models
    simulated = [model for model in students if model.file_bytes is None]
    by_method = {model.name.partition(" ")[0]: model.precision.map50_95 for model in simulated}
    return {
        "full_precision": full_precision.precision.map50_95,
        "ptq": by_method.get("PTQ"),
        "qat": by_method.get("QAT"),
    }
