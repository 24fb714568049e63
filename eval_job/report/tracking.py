"""A finished evaluation as a run of MLflow: figures, settings and the page. Imports no torch, and MLflow when asked.

MLflow is the one tracker here that needs no account and writes to a plain file or folder; Weights & Biases and ClearML
read its runs by importers of their own.
"""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from schemas.base import LARGEST
from schemas.errors import ConfigError, InputError
from schemas.evaluation import PAGE, REPORT, SUMMARY, EvalReport, EvaluatedModel
from schemas.provenance import flat_settings
from stages import extras

LONGEST_PARAMETER = 6000
"""Characters of a parameter that MLflow takes."""
SILENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
"""MLflow reports its use to its makers unless these are set."""


def log_evaluation(evaluation: Path, uri: str, experiment: str) -> str:
    """Log a finished evaluation where `uri` says; the id of the run.

    Args:
        evaluation: folder of a finished evaluation.
        uri: what MLflow takes as a tracking URI: `sqlite:///mlflow.db`, a folder, or a server.
        experiment: name of the experiment, made where it is not there.

    Raises:
        InputError: there is no finished evaluation, or the place cannot be written.
        ConfigError: MLflow is not installed.
    """
    if not (evaluation / REPORT).exists():
        raise InputError(f"{evaluation}: no finished evaluation here ({REPORT} is missing); run eval, check the path")
    report = EvalReport.read(evaluation / REPORT)
    os.environ.update(SILENT)  # before the import, which starts it
    try:
        import mlflow
    except ImportError as error:
        raise ConfigError(f"mlflow is not installed; {extras.how_to_install('mlflow')}") from error
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(experiment)
        with mlflow.start_run(run_name=f"{report.models[-1].name}, {report.provenance.key[:8]}") as run:
            mlflow.log_params(parameters(report))
            mlflow.log_metrics(metrics(report))
            mlflow.set_tags(tags(report))
            for name in (REPORT, PAGE, SUMMARY):
                if (evaluation / name).is_file():
                    mlflow.log_artifact(str(evaluation / name))
            return str(run.info.run_id)
    except mlflow.MlflowException as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{uri}: MLflow cannot write there ({reason}); check --to") from error


def metrics(report: EvalReport) -> dict[str, float]:
    """Figures of every model by `<model>/<figure>`, in names that MLflow takes."""
    found: dict[str, float] = {}
    for model in report.models:
        found |= {f"{_name(model.name)}/{key}": value for key, value in _figures(model).items() if abs(value) < LARGEST}
    if report.verdict is not None:
        found["requirements_met"] = float(report.verdict.met)
    return found


def parameters(report: EvalReport) -> dict[str, str]:
    """The settings of the evaluation by their dotted keys."""
    flat = flat_settings({"eval": report.provenance.config})
    return {_name(key): str(value)[:LONGEST_PARAMETER] for key, value in flat.items()}


def tags(report: EvalReport) -> dict[str, str]:
    """What the evaluation was made from, and what its figures are."""
    inputs = {f"input.{_name(role)}": digest for role, digest in report.provenance.inputs.items()}
    return inputs | {
        "zsq.version": report.provenance.code_version,
        "zsq.key": report.provenance.key,
        "zsq.measure": report.measure.value,
        "zsq.data": report.data.digest,
    }


def _figures(model: EvaluatedModel) -> Mapping[str, float]:
    precision = model.precision
    figures: dict[str, Any] = {
        "map50_95": precision.map50_95,
        "map50": precision.map50,
        "share_of_full_precision": model.share_of_full_precision,
        "megabytes": None if model.file_bytes is None else model.file_bytes / 1e6,
        "recall_at_0.25": model.deployed.point.recall if model.deployed else None,
    }
    for latency in model.latencies:
        figures[f"ms_{_name(latency.engine)}_{latency.threads}_threads"] = latency.median_ms
    for each in model.thresholds:
        if each.matched is not None:
            figures[f"threshold_for_{each.by}_at_{each.full_precision.threshold:g}"] = each.matched.threshold
    return {key: float(value) for key, value in figures.items() if value is not None}


def _name(text: str) -> str:
    """MLflow takes letters, digits and a few signs."""
    return re.sub(r"[^A-Za-z0-9_\-./ ]", "_", text)
