"""Documents whose fields hold other values than a run writes: the page is made, or one line says why not."""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from eval_job.report.page import rebuild_page
from pipeline.inspection import describe_set
from schemas.errors import ZsqError
from schemas.student import StudentManifest
from stages.shards import open_calibration_set
from stages.storage import file_digest, write_text
from tests.eval_job.report.conftest import Run

CASES = int(os.environ.get("ZSQ_FUZZ_CASES", "150"))
ODD: list[Any] = [
    None, True, 0, -1, 1, 2**62, 2**70, 5e-324, 1e-45, 1.7e308, 1e38, -1e38, float("nan"), float("inf"), "", "x",
    "calib-٠٠٠٠٠٠.tar", "\x1b[31m", "\u202e", "<script>", "[/x]", "../x", "x" * 20_000, [], [1, 2], [1] * 50, [[]],
    [5e-324] * 3, [1.7e308] * 3, [1e38] * 3, [-1.0, 0.0], {}, {"x": "x"}, {"\x1b": 1}, {"x" * 5000: 1},
]  # fmt: skip


def slots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every `(container, key)` below a value."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from slots(value[key])


def outcome(run: Run) -> str | None:
    """The line with which the page or the description is refused; None where both are made."""
    try:
        describe_set(open_calibration_set(run.calibration_set).manifest)
        rebuild_page(run.evaluation, [run.student], run.calibration_set, run.evaluation / "page.html")
    except ZsqError as error:
        assert "\n" not in str(error)
        return str(error)
    return None


@pytest.mark.parametrize("document", ["calibration/manifest.json", "student/student.json", "eval/report.json"])
def test_any_field_may_hold_anything(run: Run, document: str) -> None:
    path = run.evaluation.parent / document
    original = path.read_text()
    rng = random.Random(document)
    for _ in range(CASES):
        content = json.loads(original)
        container, key = rng.choice(list(slots(content)))
        container[key] = rng.choice(ODD)
        path.write_text(json.dumps(content))
        try:
            outcome(run)
        except Exception as error:
            pytest.fail(f"{key} = {str(container[key])[:60]}: {type(error).__name__}: {error}")


@pytest.mark.parametrize("losses", [[5e-324] * 3, [1.7e308] * 3, [1e38] * 30, [0.0], []])
def test_losses_of_any_size(run: Run, losses: list[float]) -> None:
    path = run.student / "student.json"
    content = json.loads(path.read_text())
    content["training"]["losses"] = losses
    path.write_text(json.dumps(content))
    text = outcome(run)
    assert text is None if max(losses, default=0) < 1e39 else "no number that is ever measured" in str(text)


@pytest.mark.parametrize("lengths", [2, 50])
def test_histograms_of_another_length_are_refused(run: Run, lengths: int) -> None:
    path = run.calibration_set / "manifest.json"
    for histogram in ("area_histogram", "position_histogram"):
        content = json.loads(path.read_text())
        content["statistics"][histogram] = content["statistics"][histogram][:1] * lengths
        path.write_text(json.dumps(content))
        assert histogram in str(outcome(run))


@pytest.mark.parametrize("value", [np.inf, np.nan, None], ids=["infinite", "nan", "empty"])
def test_step_sizes_that_are_none_are_refused(run: Run, value: float | None) -> None:
    weights = run.student / "model.safetensors"
    tensors = load_file(weights)
    name = next(name for name in tensors if name.endswith("weight_quantizer.step_size"))
    tensors[name] = np.zeros(0, np.float32) if value is None else np.full_like(tensors[name], value)
    save_file(tensors, weights)
    old = StudentManifest.read(run.student / "student.json").weights_sha256
    for path in (run.student / "student.json", run.evaluation / "report.json"):
        write_text(path, path.read_text().replace(old, file_digest(weights)))
    assert "step sizes that are no finite numbers" in str(outcome(run))


def test_shards_are_counted_in_ascii_digits(run: Run, tmp_path: Path) -> None:
    path = run.calibration_set / "manifest.json"
    path.write_text(path.read_text().replace("calib-000000.tar", "calib-٠٠٠٠٠٠.tar"))
    assert "shards.0.file" in str(outcome(run))
