"""An evaluation as a run of MLflow, on a disk and with the network cut."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from eval_job.report.tracking import log_evaluation, metrics, parameters, tags
from schemas.errors import InputError
from schemas.evaluation import EvalReport

CUT = Path(__file__).parents[2] / "cut_network"


def test_figures_have_names_that_mlflow_takes(exported: EvalReport) -> None:
    found = metrics(exported)
    assert found["QAT W4A8 deploy_ onnxruntime/share_of_full_precision"] == pytest.approx(0.9)
    assert found["QAT W4A8 deploy_ onnxruntime/ms_onnxruntime CPU_1_threads"] == 8.5
    assert found["full precision/map50_95"] == 0.5
    assert parameters(exported) == {}  # its provenance holds no settings
    assert tags(exported)["zsq.measure"] == "accuracy"


def test_no_evaluation_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished evaluation here"):
        log_evaluation(tmp_path, str(tmp_path / "mlruns"), "zsq")


def test_a_run_is_written_to_a_file_and_nobody_is_called(run: Any, tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    log = tmp_path / "network.log"
    environment = os.environ | {"PYTHONPATH": str(CUT), "ZSQ_TEST_NETWORK_LOG": str(log)}
    command = [
        sys.executable,
        "-m",
        "zsq",
        "report",
        "track",
        str(run.evaluation),
        "--to",
        f"sqlite:///{tmp_path}/runs.db",
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in (tmp_path / "mlruns").rglob("*") if path.is_file()} >= {"report.json"}
    stored = sqlite3.connect(tmp_path / "runs.db").execute("select key, value from metrics").fetchall()
    assert ("QAT W4A8 deploy/share_of_full_precision", 0.9) in stored
    assert not log.exists(), log.read_text()
