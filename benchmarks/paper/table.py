"""The table: what the paper published beside what the reports of finished rows say, and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.jobs import precision_by_method
from benchmarks.paper.rows import Row
from pipeline.plan import EVAL_FOLDER, STUDENT_FOLDER
from schemas.evaluation import REPORT, EvalReport
from schemas.student import MANIFEST, StudentManifest
from stages.storage import write_text

COMPARABLE = (2048, 640, 5000)
"""Synthetic images, side in pixels and validation images of the paper's rows."""
COLUMNS = (
    "detector", "bits", "paper: full precision", "paper: student", "paper: kept",
    "here: full precision", "calibrated", "trained", "kept", "made with",
)  # fmt: skip
INTRODUCTION = """\
# The paper's table, and this project's

Written by `python -m benchmarks.paper`. mAP50-95 in points; *kept* is the student's share of full precision. *Paper*:
arXiv 2507.16782, COCO val2017; its students keep the first layer and the whole head in float. *Here*: from the
`report.json` of each row; *trained* is empty where training ended further from full precision than calibration alone,
so that the calibrated student was kept.
"""
NOT_COMPARABLE = """
† Made with less than 2,048 synthetic images of 640 px and the 5,000 validation images. Such a row shows that the way
there works; its figures are no statement about accuracy.
"""


@dataclass(frozen=True)
class Figures:
    """What a finished row gave.

    Attributes:
        full_precision: mAP50-95 of the detector.
        calibrated: of the student before training.
        trained: of the trained student; None where the calibrated one was kept.
        made_with: how it was made, for people.
        comparable: whether that is as much as the paper's rows were made with.
    """

    full_precision: float
    calibrated: float | None
    trained: float | None
    made_with: str
    comparable: bool

    @classmethod
    def read(cls, folder: Path) -> "Figures | None":
        """The figures of the row in a folder; None where it is not finished.

        Raises:
            InputError: a document there cannot be read.
        """
        if not (folder / EVAL_FOLDER / REPORT).exists():
            return None
        report = EvalReport.read(folder / EVAL_FOLDER / REPORT)
        student = StudentManifest.read(folder / STUDENT_FOLDER / MANIFEST)
        found = precision_by_method(report)
        made_from, seen = student.calibration_set, report.data
        assert found["full_precision"] is not None
        sides = (made_from.image_size, seen.image_size)
        return cls(
            full_precision=found["full_precision"],
            calibrated=found["ptq"],
            trained=found["qat"],
            made_with=(
                f"{student.bits.name}; {made_from.samples:,} images of {sides[0].in_words}, "
                f"{student.training.steps:,} steps; {seen.images:,} validation images at {sides[1].in_words}"
            ),
            comparable=made_from.samples >= COMPARABLE[0]
            and all((side.height, side.width) == (COMPARABLE[1],) * 2 for side in sides)
            and seen.images >= COMPARABLE[2],
        )


def write_table(path: Path, rows: Mapping[Row, Path]) -> None:
    """Write the table of all rows, finished or not.

    Args:
        path: the Markdown file.
        rows: and the folder of each.
    """
    figures = {row: Figures.read(folder) for row, folder in rows.items()}
    lines = [INTRODUCTION, _line(COLUMNS), _line(["---"] * len(COLUMNS))]
    lines += [_line([*_paper(row), *_here(found)]) for row, found in figures.items()]
    text = "\n".join(lines) + "\n"
    if any(found is not None and not found.comparable for found in figures.values()):
        text += NOT_COMPARABLE
    write_text(path, text)


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def _paper(row: Row) -> list[str]:
    start = [row.detector.title, row.bits.upper()]
    published = row.detector.published
    if published is None:
        return [*start, "not in the paper", "", ""]
    student = published.students.get(row.bits)
    if student is None:
        return [*start, f"{published.full_precision:.1f}", "no figure at hand", ""]
    return [*start, f"{published.full_precision:.1f}", f"{student:.1f}", f"{student / published.full_precision:.1%}"]


def _here(found: Figures | None) -> list[str]:
    if found is None:
        return ["not made yet", "", "", "", ""]
    students = [_points(found.calibrated), _points(found.trained)]
    last = found.calibrated if found.trained is None else found.trained
    kept = "" if last is None or not found.full_precision else f"{last / found.full_precision:.1%}"
    mark = "" if found.comparable else " †"
    return [_points(found.full_precision), *students, f"{kept}{mark}", found.made_with]


def _points(precision: float | None) -> str:
    return "" if precision is None else f"{100 * precision:.1f}"
