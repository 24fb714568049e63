"""The story of stage 3: full precision, every student and every exported model on the same images, then the report."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.average_precision import BoxEvaluation, coco_results, evaluate_boxes
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from eval_job.bootstrap import interval, resampled_precision
from eval_job.evaluate import Batches, Predictor, predict
from eval_job.latency import measure_latencies
from eval_job.onnx_model import HALF, SINGLE, OnnxDetector, OnnxFile, exported_students, exported_teacher, why_left_out
from eval_job.samples import confident_statistics, remove_samples, write_samples
from eval_job.voc_precision import voc_precision
from label_formats.images import ValidationImage, ValidationSet, ValidationSource
from quantization.onnx.engine import ONNX_ENGINES, check_engine, engine_title, installed_engines, open_engine
from quantization.student import load_student
from schemas.calibration_set import AveragePrecision
from schemas.errors import ConfigError
from schemas.eval_config import EvalConfig, OnnxEvaluation
from schemas.evaluation import (
    DETECTIONS,
    PAGE,
    REPORT,
    EvalReport,
    EvaluatedModel,
    Latency,
    Uncertainty,
    ValidationData,
    VocPrecision,
)
from schemas.provenance import Provenance
from schemas.student import MANIFEST, StudentManifest
from stages.stage import Stage
from stages.storage import remove_file, write_text
from stages.threads import usable_cores

FULL_PRECISION = "full precision"


def run(
    config: EvalConfig,
    students: Sequence[Path],
    output: Path,
    data: ValidationSource,
    data_digest: str,
    provenance: Provenance,
    write_page: Callable[[EvalReport, Path], None],
    stage: Stage,
) -> None:
    """Evaluate the teacher and the students in `students`; write detections, the page, then `report.json`.

    `write_page` is called with the report and the folder where its sample pictures lie.

    Raises:
        ConfigError: the image size does not fit the teacher, or the device or an engine is not there.
        InputError: the teacher or the validation data cannot be read, or they do not fit each other.
        VerificationError: a student or its exported model does not match its manifest.
    """
    device = resolve_device(config.device)
    teacher = load_teacher(config.teacher, device)
    image_size = config.image_size or teacher.identity.input_size
    _check_image_size(image_size, teacher.identity.stride)
    validation = data.read(teacher.identity.class_names)
    if validation.remarks:
        stage.reporter.message(f"{validation.name}: left out, or background: {validation.remarks}")
    if config.onnx.models != "none":
        check_engine("onnxruntime", config.onnx.providers)
    _remove_previous(output)
    named = _names(students)
    exported = _exported(config.onnx, teacher, named, image_size, output, stage)
    latencies = _time(config.onnx, exported, image_size, stage)

    models: list[EvaluatedModel] = []
    detections: dict[str, list[Detections]] = {}
    resampled: dict[str, NDArray[np.float64] | None] = {}
    for model in _models(teacher, named, exported, config.onnx, device):
        found = predict(
            model.detector, validation.images, device,
            image_size=image_size, batch=config.batch, confidence=config.confidence, iou=config.iou,
            max_detections=config.max_detections, track=partial(_track, name=model.name, stage=stage),
        )  # fmt: skip
        measured = _measure(validation, found.detections, teacher.identity.class_names)
        _write_detections(output / detections_file(model.name), validation, found.detections)
        detections[model.name] = found.detections
        resampled[model.name] = resampled_precision(measured.matches)
        full_precision = models[0].precision if models else measured.summary
        models.append(
            EvaluatedModel(
                name=model.name,
                weights_sha256=model.weights_sha256,
                label_mode=model.manifest.calibration_set.label_mode if model.manifest else None,
                image_source=model.manifest.calibration_set.image_source if model.manifest else None,
                precision=measured.summary,
                share_of_full_precision=_share(measured.summary, full_precision),
                per_class=measured.per_class,
                voc=_measure_voc(validation, found.detections, teacher.identity.class_names),
                seconds_per_image=found.seconds_per_image,
                precision_recall=measured.curve,
                uncertainty=_uncertainty(
                    measured.summary,
                    resampled[model.name],
                    full_precision,
                    resampled[FULL_PRECISION] if models else None,
                ),
                latencies=latencies.get(model.name, ()),
                **_about(model.file, config.onnx),
            )
        )

    report = EvalReport(
        data=ValidationData(
            source=validation.name, format=validation.format, digest=data_digest,
            images=len(validation.images), boxes=validation.boxes, image_size=image_size,
        ),
        models=tuple(models),
        detection_statistics=confident_statistics(
            validation, detections[FULL_PRECISION], teacher.identity.class_names
        ),
        samples=write_samples(output, validation, detections, teacher.identity.class_names, config.samples),
        eval=config,
        provenance=provenance,
    )  # fmt: skip
    write_page(report, output)
    write_text(output / REPORT, report.to_json())
    _show(report, output, stage)


def detections_file(model: str) -> str:
    """Name of the COCO results file of a model: `detections-qat-w4a8-deploy.json`."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return DETECTIONS.replace(".", f"-{slug}.")


@dataclass(frozen=True)
class _Model:
    name: str
    detector: Predictor
    weights_sha256: str
    manifest: StudentManifest | None = None
    file: OnnxFile | None = None


def _about(file: OnnxFile | None, onnx: OnnxEvaluation) -> dict[str, Any]:
    """What a row says of an exported file."""
    if file is None:
        return {}
    about: dict[str, Any] = {"file_bytes": file.path.stat().st_size}
    about["engine"] = engine_title(file.engine or "onnxruntime", onnx.providers)
    if file.source is not None:
        manifest = file.source.file
        about |= {"student": file.source.name, "target": manifest.target, "census": manifest.census}
    return about


def _models(
    teacher: Detector, students: Mapping[str, Path], exported: Sequence[OnnxFile], onnx: OnnxEvaluation,
    device: torch.device,
) -> Iterator[_Model]:  # fmt: skip
    """The teacher, each student, then each exported model, loaded when its turn comes."""
    yield _Model(FULL_PRECISION, teacher, teacher.identity.sha256)
    for name, folder in students.items():
        detector, manifest = load_student(folder, device)
        yield _Model(name, detector, manifest.weights_sha256, manifest)
    for file in exported:
        engine = open_engine(file.path, file.engine or "onnxruntime", providers=onnx.providers)
        student = file.source.student if file.source else None
        yield _Model(file.name, OnnxDetector(engine, teacher), file.sha256, student, file)


def _names(students: Sequence[Path]) -> dict[str, Path]:
    """Student folders by the name of their row."""
    named: dict[str, Path] = {}
    taken = {detections_file(FULL_PRECISION)}
    for folder in students:
        manifest = StudentManifest.read(folder / MANIFEST)
        name = f"{manifest.method.value} {manifest.bits.name}"
        number = 1
        while detections_file(name) in taken:
            number += 1
            name = f"{manifest.method.value} {manifest.bits.name} #{number}"
        taken.add(detections_file(name))
        named[name] = folder
    return named


def _exported(
    onnx: OnnxEvaluation, teacher: Detector, students: Mapping[str, Path], image_size: int, output: Path, stage: Stage
) -> list[OnnxFile]:
    """The students' exported models, after the teacher's, which are made here."""
    if onnx.models == "none":
        return []
    found = []
    for file in exported_students(students):
        if reason := why_left_out(file, image_size, installed_engines()):
            stage.reporter.message(f"{file.path}: not evaluated; {reason}")
        else:
            found.append(file)
    reads_onnx = any(file.engine in ONNX_ENGINES for file in found)
    if reads_onnx and onnx.models == "all" and teacher.export_obstacle is None:
        stage.reporter.message("exporting the teacher in single and half precision")
        found = [*exported_teacher(teacher, FULL_PRECISION, image_size, output), *found]
    return found


def _time(
    onnx: OnnxEvaluation, exported: Sequence[OnnxFile], image_size: int, stage: Stage
) -> dict[str, tuple[Latency, ...]]:
    if not exported:
        return {}
    stage.reporter.message(f"timing {len(exported)} exported models, {onnx.repetitions} runs each")
    latencies: dict[str, tuple[Latency, ...]] = {}
    for engine in dict.fromkeys(file.engine for file in exported if file.engine):
        measured = measure_latencies(
            {file.name: file.path for file in exported if file.timed_in(engine)},
            image_size,
            engine=engine,
            threads=onnx.threads or tuple(sorted({1, usable_cores()})),
            repetitions=onnx.repetitions,
            providers=onnx.providers,
        )
        for name, found in measured.items():
            latencies[name] = latencies.get(name, ()) + found
    return latencies


def _track(batches: Batches, name: str, stage: Stage) -> Iterator[Sequence[ValidationImage]]:
    for batch in stage.reporter.track(batches, name, unit="batch"):
        stage.stop_here_if_asked()
        yield batch


def _measure(validation: ValidationSet, detections: Sequence[Detections], class_names: Sequence[str]) -> BoxEvaluation:
    return evaluate_boxes(_truth(validation), detections, class_names, [i.crowd.tolist() for i in validation.images])


def _measure_voc(
    validation: ValidationSet, detections: Sequence[Detections], class_names: Sequence[str]
) -> VocPrecision | None:
    """The same by VOC's own definitions, where the data is theirs."""
    if validation.format != "voc":
        return None
    difficult = [image.crowd.tolist() for image in validation.images]
    return voc_precision(_truth(validation), detections, class_names, difficult)


def _truth(validation: ValidationSet) -> list[Detections]:
    return [Detections.of(torch.from_numpy(i.boxes), torch.from_numpy(i.classes)) for i in validation.images]


def _uncertainty(
    precision: AveragePrecision,
    resampled: NDArray[np.float64] | None,
    full_precision: AveragePrecision,
    resampled_full: NDArray[np.float64] | None,
) -> Uncertainty | None:
    """Intervals of the precision and, against full precision on the same resamples, of its share."""
    if resampled is None:
        return None
    share = None
    if resampled_full is not None and not (resampled_full <= 0).any():
        share = interval(_share(precision, full_precision), resampled / resampled_full)
    return Uncertainty(
        map50_95=interval(precision.map50_95, resampled, highest=1.0), share=share, resamples=len(resampled)
    )


def _write_detections(path: Path, validation: ValidationSet, detections: Sequence[Detections]) -> None:
    """COCO results, in the ids of the validation data; classes without an id there cannot be written."""
    known = torch.tensor(sorted(validation.category_ids))
    results: list[dict[str, Any]] = coco_results(
        [found.select(torch.isin(found.classes, known)) for found in detections],
        [image.id for image in validation.images],
        [validation.category_ids.get(index, -1) for index in range(int(known.max()) + 1)],
    )
    write_text(path, json.dumps(results) + "\n")


def _share(precision: AveragePrecision, full_precision: AveragePrecision) -> float:
    """mAP50-95 as a share of the teacher's; 0 where the teacher finds nothing."""
    return precision.map50_95 / full_precision.map50_95 if full_precision.map50_95 > 0 else 0.0


def _check_image_size(image_size: int, stride: int) -> None:
    if image_size % stride:
        raise ConfigError(
            f"image_size: got {image_size}, the teacher takes multiples of {stride}; "
            f"set {image_size // stride * stride or stride} or {(image_size // stride + 1) * stride}"
        )


def _remove_previous(output: Path) -> None:
    """Remove an earlier evaluation, its report first: where there is a report, everything it names is whole."""
    remove_file(output / REPORT)
    remove_file(output / PAGE)
    remove_samples(output)
    for path in (*output.glob(DETECTIONS.replace(".", "-*.")), output / SINGLE, output / HALF):
        remove_file(path)


def _show(report: EvalReport, output: Path, stage: Stage) -> None:
    rows = [
        (
            model.name,
            f"{model.precision.map50_95:.3f}",
            f"{model.precision.map50:.3f}",
            f"{model.share_of_full_precision:.1%}",
            *((f"{model.voc.eleven_point:.3f}", f"{model.voc.all_point:.3f}") if model.voc else ()),
        )
        for model in report.models
    ]
    columns: tuple[str, ...] = ("model", "mAP50-95", "mAP50", "share of FP")
    if all(model.voc for model in report.models):
        columns += ("VOC 11-point", "VOC all-point")
    data = report.data
    title = f"{data.images} images of {data.source} at {data.image_size} px"
    stage.reporter.table(title, columns, rows)
    stage.reporter.message(f"report: {output / PAGE}", path=str(output / PAGE))
