"""The story of stage 3: full precision, every student and every exported model on the same images, then the report."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.average_precision import BoxEvaluation
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import check_size, load_teacher, resolve_device
from eval_job.against_full_precision import against_full_precision
from eval_job.bootstrap import mean_over_classes, resampled_classes
from eval_job.class_changes import class_labels
from eval_job.coco_results import detections_file, write_detections
from eval_job.evaluate import Looking, Predictor
from eval_job.latency import Timing, time_files
from eval_job.measure import MeasuredOn, labelled, measure, measure_voc, self_labelled, share, uncertainty
from eval_job.onnx_model import HALF, SINGLE, OnnxDetector, OnnxFile, exported_students, exported_teacher, why_left_out
from eval_job.operating_point import deployment_recall
from eval_job.resolution import Evaluation
from eval_job.samples import confident_statistics, remove_samples, write_samples
from eval_job.study import Study
from eval_job.summary import show
from eval_job.verdict import check_met, judge
from label_formats.images import ValidationImage
from quantization.onnx.engine import ONNX_ENGINES, check_engine, installed_engines, open_engine
from quantization.student import load_student
from schemas.calibration_set import AveragePrecision
from schemas.eval_config import OnnxEvaluation
from schemas.evaluation import (
    DETECTIONS,
    PAGE,
    SUMMARY,
    EvalReport,
    EvaluatedModel,
    Measure,
    ShapePrecision,
    ValidationData,
    VocPrecision,
)
from schemas.image_size import ImageSize
from schemas.student import PTQ_FOLDER, StudentManifest
from stages.output import Job
from stages.stage import Stage
from stages.storage import remove_file

FULL_PRECISION = "full precision"


def evaluate(
    evaluation: Evaluation, write_page: Callable[[EvalReport, Path], None], job: Job[EvalReport]
) -> EvalReport:
    """Evaluate the teacher and its students; write detections, the page, then `report.json`.

    Args:
        evaluation: what is asked for.
        write_page: called with the report and the folder where its sample pictures lie.
        job: this run.

    Raises:
        ConfigError: the image size does not fit the teacher, or the device or an engine is not there.
        InputError: the teacher or the validation data cannot be read, or they do not fit each other.
        VerificationError: a student or its exported model does not match its manifest.
        RequirementMissed: everything is done and written, but the student falls short of `require`.
    """
    config, stage, output = evaluation.settings, job.stage, job.output.folder
    device = resolve_device(config.device)
    teacher = load_teacher(config.teacher, device)
    image_size = config.image_size or ImageSize.square(teacher.identity.input_size)
    check_size(teacher, image_size, "image_size")
    if config.onnx.models != "none":
        check_engine("onnxruntime", config.onnx.providers)
    looking = Looking(config, image_size, device, stage)
    measured_on, *further = _measured_on(teacher, evaluation, looking, stage)
    job.output.withdraw()
    _remove_previous(output)
    named = _names(evaluation.students)
    exported = _exported(config.onnx, teacher, named, image_size, output, stage)
    if exported:
        files = ", ".join(file.path.name for file in exported)
        stage.reporter.message(f"timing {files} in their engines, {config.onnx.repetitions} runs each")
    timings = time_files(exported, image_size, config.onnx)

    names, validation = teacher.identity.class_names, measured_on.validation
    measured: list[tuple[_Model, _Measured]] = []
    looks = [len(each.validation.images) for each in (measured_on, *further)]
    stage.reporter.plan([float(images) for images in looks * (1 + len(named) + len(exported))])
    for model in _models(teacher, named, exported, config.onnx, device):
        found = _measure(model, measured_on, further, looking, names)
        write_detections(output / detections_file(model.name), validation, found.detections)
        measured.append((model, found))
    study = Study(teacher, measured_on, evaluation.shown, looking)
    report = judge(_report(evaluation, measured, timings, study, [each.described for each in further]), config.require)
    shown = {model.name: each.detections for model, each in measured}
    samples = write_samples(output, measured_on, shown, names, config.samples)
    report = report.model_copy(update={"samples": samples})
    write_page(report, output)
    job.output.publish(report)
    show(report, output, stage)
    check_met(report)
    return report


def _measured_on(teacher: Detector, evaluation: Evaluation, looking: Looking, stage: Stage) -> list[MeasuredOn]:
    """The labelled images, then those on which agreement is measured."""
    names, found, digests = teacher.identity.class_names, [], list(evaluation.digests.values())
    sources = evaluation.sources
    if sources.labelled is not None:
        validation = sources.labelled.read(names)
        if validation.remarks:
            stage.reporter.message(f"{validation.name}: left out, or background: {validation.remarks}")
        found.append(labelled(validation, digests.pop(0), looking.image_size, teacher))

    def look(images: Sequence[ValidationImage]) -> list[Detections]:
        return looking.predict(teacher, images, "labels by full precision").detections

    confidence = looking.config.label_confidence
    for source, digest in zip(sources.unlabelled, digests, strict=True):
        found.append(self_labelled(source, digest, looking.image_size, look, confidence, names))
    return found


@dataclass(frozen=True)
class _Model:
    name: str
    detector: Predictor
    weights_sha256: str
    manifest: StudentManifest | None = None
    file: OnnxFile | None = None
    calibrated: str | None = None


def _models(
    teacher: Detector,
    students: Mapping[str, Path],
    exported: Sequence[OnnxFile],
    onnx: OnnxEvaluation,
    device: torch.device,
) -> Iterator[_Model]:
    """The teacher, each student, then each exported model, loaded when its turn comes."""
    yield _Model(FULL_PRECISION, teacher, teacher.identity.sha256)
    names = {folder: name for name, folder in students.items()}
    for name, folder in students.items():
        detector, manifest = load_student(folder, device)
        yield _Model(name, detector, manifest.weights_sha256, manifest, calibrated=names.get(folder / PTQ_FOLDER))
    for file in exported:
        engine = open_engine(file.path, file.engine or "onnxruntime", providers=onnx.providers)
        student = file.source.student if file.source else None
        yield _Model(file.name, OnnxDetector(engine, teacher), file.sha256, student, file)


@dataclass(frozen=True)
class _Measured:
    detections: list[Detections]
    evaluation: BoxEvaluation
    shapes: ShapePrecision | None
    resampled: NDArray[np.float64] | None
    voc: VocPrecision | None
    agreement: tuple[AveragePrecision, ...]
    seconds_per_image: float

    @property
    def resampled_mean(self) -> NDArray[np.float64] | None:
        """mAP50-95 of each resample of the images."""
        return None if self.resampled is None else mean_over_classes(self.resampled)


def _measure(
    model: _Model, on: MeasuredOn, further: Sequence[MeasuredOn], looking: Looking, class_names: Sequence[str]
) -> _Measured:
    found = looking.predict(model.detector, on.validation.images, model.name)
    evaluation = measure(on.validation, found.detections, class_names)
    agreement = []
    for each in further:
        more = looking.predict(model.detector, each.validation.images, f"{model.name}, {each.described.format}")
        agreement.append(measure(each.validation, more.detections, class_names).summary)
    return _Measured(
        detections=found.detections,
        evaluation=evaluation,
        shapes=on.measure_shapes(found.detections, class_names),
        resampled=resampled_classes(evaluation.matches),
        voc=measure_voc(on.validation, found.detections, class_names),
        agreement=tuple(agreement),
        seconds_per_image=found.seconds_per_image,
    )


def _row(
    model: _Model, measured: _Measured, full: _Measured, timing: Timing, providers: Sequence[str]
) -> EvaluatedModel:
    precision, of_full = measured.evaluation.summary, full.evaluation.summary
    return EvaluatedModel(
        name=model.name,
        weights_sha256=model.weights_sha256,
        bits=model.manifest.bits.name if model.manifest else None,
        calibrated=model.calibrated,
        label_mode=model.manifest.calibration_set.label_mode if model.manifest else None,
        image_source=model.manifest.calibration_set.image_source if model.manifest else None,
        set_teacher_sha256=model.manifest.calibration_set.teacher_sha256 if model.manifest else None,
        precision=precision,
        agreement=measured.agreement,
        share_of_full_precision=share(precision, of_full),
        per_class=measured.evaluation.per_class,
        voc=measured.voc,
        shapes=measured.shapes,
        seconds_per_image=measured.seconds_per_image,
        precision_recall=measured.evaluation.curve,
        uncertainty=uncertainty(
            precision, measured.resampled_mean, of_full, None if measured is full else full.resampled_mean
        ),
        deployed=deployment_recall(measured.evaluation),
        **timing.described(),
        **(model.file.described(providers) if model.file else {}),
    )


def _report(
    evaluation: Evaluation,
    measured: Sequence[tuple[_Model, _Measured]],
    timings: Mapping[str, Timing],
    study: Study,
    further: Sequence[ValidationData],
) -> EvalReport:
    """The report of what was measured, but for its pictures and its verdict."""
    config, full = evaluation.settings, measured[0][1]
    names, students = study.teacher.identity.class_names, _names(evaluation.students)
    on = Measure.ACCURACY if evaluation.sources.labelled else Measure.AGREEMENT
    return EvalReport(
        measure=on,
        data=study.on.described,
        agreement_data=tuple(further),
        class_labels=class_labels(full.evaluation),
        models=tuple(
            _row(model, found, full, timings.get(model.name, Timing()), config.onnx.providers).model_copy(
                update={} if model.manifest is None else against_full_precision(found, full, on, names)
            )
            for model, found in measured
        ),
        detection_statistics=confident_statistics(study.on.validation, full.detections, names),
        layer_gaps=study.gaps(students),
        parts=study.parts(students),
        set_check=study.set_check(),
        eval=config.shareable(),
        provenance=evaluation.provenance,
    )


def _names(students: Mapping[Path, StudentManifest]) -> dict[str, Path]:
    """Student folders by the name of their row."""
    named: dict[str, Path] = {}
    taken = {detections_file(FULL_PRECISION)}
    for folder, manifest in students.items():
        name = f"{manifest.method.value} {manifest.bits.name}"
        number = 1
        while detections_file(name) in taken:
            number += 1
            name = f"{manifest.method.value} {manifest.bits.name} #{number}"
        taken.add(detections_file(name))
        named[name] = folder
    return named


def _exported(
    onnx: OnnxEvaluation,
    teacher: Detector,
    students: Mapping[str, Path],
    image_size: ImageSize,
    output: Path,
    stage: Stage,
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


def _remove_previous(output: Path) -> None:
    """Remove the files of an earlier evaluation."""
    for name in (PAGE, SUMMARY):
        remove_file(output / name)
    remove_samples(output)
    for path in (*output.glob(DETECTIONS.replace(".", "-*.")), output / SINGLE, output / HALF):
        remove_file(path)
