"""Runs beside runs: what each reached, what it costs, and in which settings they differ. Made from folders alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from eval_job.report.headline import headline_model
from eval_job.report.speed import speed_up
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError, InputError
from schemas.evaluation import REPORT, EvalReport, EvaluatedModel
from schemas.provenance import flat_settings
from schemas.student import MANIFEST as STUDENT_MANIFEST
from schemas.student import StudentManifest

PARTS = {"eval": "eval", "student": "student", "calibration": "calibration"}
"""Folders of a run's storage that are looked into."""
LEAST_RUNS, MOST_RUNS = 2, 24


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: as short as tells it from the others.
        report: its evaluation.
        settings: of its stages, `qat.bits.weight_bits` and so on; of those that its folder holds.
    """

    name: str
    report: EvalReport
    settings: dict[str, Any]

    @property
    def model(self) -> EvaluatedModel:
        """The model that the run's report is about."""
        return headline_model(self.report)


@dataclass(frozen=True)
class Point:
    """One exported file, or a student where none was exported, in the Pareto plots.

    Attributes:
        run: index of its run.
        name: of its row.
        share: of full precision.
        milliseconds: an image in its engine, fewest threads timed; None where it was not timed.
        megabytes: of the file; None where there is none.
    """

    run: int
    name: str
    share: float
    milliseconds: float | None
    megabytes: float | None


@dataclass(frozen=True)
class Difference:
    """mAP50-95 of a run less that of the first one; the ends are a 95 % interval, None where it is not known."""

    name: str
    change: float
    low: float | None
    high: float | None


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in folders: storage of a run, or an evaluation alone.

    Raises:
        ConfigError: there are too few or too many, or one is named twice.
        InputError: a folder holds no finished evaluation.
        VerificationError: a document in it is not valid.
    """
    if not LEAST_RUNS <= len(folders) <= MOST_RUNS:
        raise ConfigError(f"compare: got {len(folders)} folders, takes {LEAST_RUNS} to {MOST_RUNS}")
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("compare: the same folder is named twice; name each run once")
    names = _names(folders)
    return [_read(folder, name) for folder, name in zip(folders, names, strict=True)]


def points(runs: Sequence[Run]) -> list[Point]:
    """Exported files of students, or their headline model where a run has none."""
    found = []
    for number, run in enumerate(runs):
        files = [each for each in run.report.models if each.student is not None] or [run.model]
        for each in files:
            fewest = min(each.latencies, key=lambda latency: latency.threads, default=None)
            size = each.file_bytes / 1e6 if each.file_bytes else None
            ms = fewest.median_ms if fewest else None
            found.append(Point(number, each.name, each.share_of_full_precision, ms, size))
    return found


def frontier(costs: Sequence[float], shares: Sequence[float]) -> list[int]:
    """Indices of the points that no other beats in cost and share at once, cheapest first."""
    best: list[int] = []
    for index in sorted(range(len(costs)), key=lambda n: (costs[n], -shares[n])):
        if not best or shares[index] > shares[best[-1]]:
            best.append(index)
    return best


def differences(runs: Sequence[Run]) -> list[Difference]:
    """Each further run against the first, resample by resample where both were measured on the same images."""
    first = runs[0]
    found = []
    for run in runs[1:]:
        change = run.model.precision.map50_95 - first.model.precision.map50_95
        values = _paired(first, run)
        reach = None if values is None else 1.96 * float(np.std(values, ddof=1))
        low, high = (None, None) if reach is None else (change - reach, change + reach)
        found.append(Difference(run.name, change, low, high))
    return found


def obstacles(runs: Sequence[Run]) -> list[str]:
    """Why runs cannot be held against each other, in sentences; empty where they can."""
    said = []
    first = runs[0].report
    kinds: tuple[tuple[str, Any], ...] = (
        ("were measured on other images or labels", lambda report: report.data.digest),
        ("are of another full-precision detector", lambda report: report.models[0].weights_sha256),
        ("were measured at another image size", lambda report: str(report.data.image_size)),
        ("say agreement where the first says accuracy, or the reverse", lambda report: report.measure),
    )
    for what, of in kinds:
        if other := [run.name for run in runs[1:] if of(run.report) != of(first)]:
            said.append(f"{', '.join(other)} {what} than {runs[0].name}: read no difference between them.")
    return said


def differing_settings(runs: Sequence[Run]) -> list[tuple[str, list[str]]]:
    """Each setting in which runs differ, with what each has; a dash where a run's folder does not say."""
    names = sorted({name for run in runs for name in run.settings})
    rows = []
    for name in names:
        values = [run.settings.get(name, "–") for run in runs]
        if any(value != values[0] for value in values):
            rows.append((name, [str(value) for value in values]))
    return rows


def speed(run: Run) -> float | None:
    """Times as fast as FP32 in the same engine, fewest threads timed."""
    fewest = min(run.model.latencies, key=lambda latency: latency.threads, default=None)
    return speed_up(run.report, fewest) if fewest else None


def _paired(one: Run, other: Run) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    same = one.report.data.digest == other.report.data.digest and one.report.measure == other.report.measure
    mine, theirs = (run.model.uncertainty.values if run.model.uncertainty else () for run in (one, other))
    if not same or not mine or len(mine) != len(theirs):
        return None
    return np.array(theirs) - np.array(mine)


def _read(folder: Path, name: str) -> Run:
    evaluation = folder if (folder / REPORT).exists() else folder / PARTS["eval"]
    if not (evaluation / REPORT).exists():
        raise InputError(f"{folder}: no finished evaluation here ({REPORT} is missing); run eval, or check the path")
    report = EvalReport.read(evaluation / REPORT)
    student, made = folder / PARTS["student"] / STUDENT_MANIFEST, folder / PARTS["calibration"] / SET_MANIFEST
    sections: dict[str, Any] = {"eval": report.provenance.config}
    if student.exists():
        sections["qat"] = StudentManifest.read(student).qat.model_dump(mode="json")
    if made.exists():
        manifest = CalibrationSetManifest.read(made)
        sections["synth"] = manifest.synth.model_dump(mode="json") if manifest.synth else {}
        sections["calibration set"] = {"images": manifest.samples, "digest": manifest.digest[:12]}
    return Run(name, report, flat_settings(sections))


def _names(folders: Sequence[Path]) -> list[str]:
    """The last parts of each path, as few as tell them apart."""
    resolved = [folder.resolve() for folder in folders]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in resolved]
