"""The page itself: artifacts in, one self-contained HTML file out. Equal artifacts give equal bytes."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from eval_job.report import engines, headline, origins, sizes
from eval_job.report.accuracy import class_precisions, precision_recall_charts, training
from eval_job.report.advice import advice
from eval_job.report.artifacts import Artifacts, read_artifacts
from eval_job.report.facts import facts
from eval_job.report.gap import SHOWN as GAPS_SHOWN
from eval_job.report.gap import gaps
from eval_job.report.label_comparison import compare_labels
from eval_job.report.layers import MOST_SENSITIVE, layers
from eval_job.report.pictures import calibration_tiles, checked_labels, comparisons
from eval_job.report.pull_request import summary
from eval_job.report.templates import environment, resource
from eval_job.report.thresholds import thresholds
from eval_job.report.verdict_words import sentence_of
from schemas.errors import InputError
from schemas.evaluation import CONFIDENT, REPORT, SUMMARY, EvalReport, Measure
from schemas.labels import ShapeKind
from schemas.operating_point import DEPLOYED
from stages.storage import write_text

SHAPE_WORDS = {ShapeKind.MASK: "mask", ShapeKind.KEYPOINTS: "keypoint", ShapeKind.TURNED_BOX: "oriented"}
"""What the figures of a head that sees more than boxes are called."""
WORST_CLASSES = 12
"""Classes shown before a reader asks for all."""


def write_page(
    report: EvalReport, folder: Path, students: Sequence[Path], calibration_set: Path | None, output: Path
) -> None:
    """Write the page of an evaluation and its summary; files that already say the same are left alone.

    Args:
        report: the evaluation.
        folder: where its sample pictures lie.
        students: folders of students that it evaluated; what is not given is said to be missing.
        calibration_set: the set that a student was made with, or None.
        output: the HTML file; in the folder of the evaluation, the summary in Markdown is written too.

    Raises:
        InputError: an artifact is missing or belongs to another evaluation, or the file cannot be written.
        VerificationError: an artifact does not match its digest or contract.
    """
    page = render(read_artifacts(report, folder, students, calibration_set))
    _write(output, page)
    if output.absolute().parent == folder.absolute():
        _write(folder / SUMMARY, summary(report))


def _write(path: Path, text: str) -> None:
    if not (path.is_file() and path.read_bytes() == text.encode()):
        write_text(path, text)


def rebuild_page(evaluation: Path, students: Sequence[Path], calibration_set: Path | None, output: Path) -> None:
    """Write the page of a finished evaluation again; see `write_page`.

    Raises:
        InputError: there is no finished evaluation in the folder, too.
    """
    if not (evaluation / REPORT).exists():
        raise InputError(
            f"{evaluation}: no finished evaluation here ({REPORT} is missing); run eval, or check the path"
        )
    write_page(EvalReport.read(evaluation / REPORT), evaluation, students, calibration_set, output)


def render(artifacts: Artifacts) -> str:
    """The page as HTML."""
    report, calibration_set = artifacts.report, artifacts.calibration_set
    script = resource("page.js")
    title, sentences = headline.verdict(report)
    model = headline.headline_model(report)
    shown = [report.models[0].name, *([model.name] if model is not report.models[0] else [])]
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            style=Markup(resource("page.css")),  # ours, not anybody's input
            title=title,
            sentences=sentences,
            report=report,
            requirements=[sentence_of(each) for each in report.verdict.judged] if report.verdict else [],
            model=model,
            model_style=headline.style_of(report.models.index(model)),
            full=report.models[0],
            facts=facts(report),
            latency_rows=engines.latency_rows(report),
            engine_files=engines.engine_files(report),
            throughput=engines.throughput(report),
            rows=headline.rows(report.models),
            shape_words=next((SHAPE_WORDS[each.shapes.kind] for each in report.models if each.shapes), ""),
            caveats=headline.caveats(report, sorted({student.manifest.qat.seed for student in artifacts.students})),
            chain=origins.chain(artifacts),
            missing=origins.missing(artifacts),
            settings=origins.settings(artifacts),
            calibration_set=calibration_set.manifest if calibration_set else None,
            tiles=calibration_tiles(calibration_set, report.set_check) if calibration_set else [],
            checked=checked_labels(report.set_check, calibration_set.manifest.digest) if calibration_set else None,
            script=Markup(script),
            script_digest=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
            labels=(
                compare_labels(calibration_set.manifest.statistics, report.detection_statistics)
                if calibration_set
                else None
            ),
            trainings=[training(student) for student in artifacts.students],
            precision_recall=precision_recall_charts(report),
            legend_items=[(each.name, headline.style_of(n)) for n, each in enumerate(report.models)],
            classes=class_precisions(report),
            chance=sizes.chance(report, model.name),
            sizes=sizes.size_rows(report),
            deployed=DEPLOYED[0],
            thresholds=thresholds(report),
            confident=CONFIDENT,
            worst_classes=WORST_CLASSES,
            comparisons=comparisons(report.samples, artifacts.folder, shown, report.measure is Measure.ACCURACY),
            agreement=report.measure is Measure.AGREEMENT,
            further=[headline.DATA_KINDS[each.format] for each in report.agreement_data],
            searches=[(student.name, student.search) for student in artifacts.students if student.search is not None],
            advice=advice(report),
            gaps=gaps(report),
            gaps_shown=GAPS_SHOWN,
            layers=[layers(student) for student in artifacts.students],
            most_sensitive=MOST_SENSITIVE,
        )
    )
