"""The closing table of an evaluation on the terminal."""

from pathlib import Path

from schemas.evaluation import PAGE, EvalReport, EvaluatedModel, Measure
from schemas.labels import ShapeKind
from stages.stage import Stage

WOULD_BE_ACCURACY = (
    "these figures are agreement with the full-precision detector, not accuracy: labelled images would make them "
    "accuracy (zsq run --data, or eval.data)"
)

SHAPE_COLUMNS = {
    ShapeKind.MASK: ["mask mAP50-95", "mask mAP50"],
    ShapeKind.KEYPOINTS: ["keypoint mAP50-95", "keypoint mAP50"],
    ShapeKind.TURNED_BOX: ["oriented mAP50-95", "oriented mAP50"],
}


def show(report: EvalReport, output: Path, stage: Stage) -> None:
    """One row for each model, what the figures are, and where the report lies."""
    agreement = report.measure is Measure.AGREEMENT
    voc = all(model.voc for model in report.models)
    columns = ["model", "mAP50-95", "mAP50", "share of FP"]
    if agreement:
        columns = ["model", "agreement, mAP50-95", "agreement, mAP50"]
    columns += (
        SHAPE_COLUMNS[kinds.pop()] if (kinds := {model.shapes.kind for model in report.models if model.shapes}) else []
    )
    columns += ["VOC 11-point", "VOC all-point"] if voc else []
    columns += [f"agreement on {each.format}" for each in report.agreement_data]
    data = report.data
    title = f"{data.images} images of {data.source} at {data.image_size} px"
    stage.reporter.table(title, columns, [_row(model, agreement) for model in report.models])
    if agreement:
        stage.reporter.message(WOULD_BE_ACCURACY)
    stage.reporter.message(f"report: {output / PAGE}", path=str(output / PAGE))


def _row(model: EvaluatedModel, agreement: bool) -> list[str]:
    return [
        model.name,
        f"{model.precision.map50_95:.3f}",
        f"{model.precision.map50:.3f}",
        *([] if agreement else [f"{model.share_of_full_precision:.1%}"]),
        *(
            [f"{each:.3f}" for each in (model.shapes.precision.map50_95, model.shapes.precision.map50)]
            if model.shapes
            else []
        ),
        *([f"{model.voc.eleven_point:.3f}", f"{model.voc.all_point:.3f}"] if model.voc else []),
        *(f"{each.map50_95:.3f}" for each in model.agreement),
    ]
