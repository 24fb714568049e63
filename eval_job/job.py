"""The story of stage 3: full precision and every student on the same images, then the report."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from detectors.average_precision import average_precision, coco_results
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher, resolve_device
from eval_job.evaluate import Batches, predict
from eval_job.validation_set import ValidationImage, ValidationSet, ValidationSource
from quantization.student import load_student
from schemas.calibration_set import AveragePrecision
from schemas.errors import ConfigError
from schemas.eval_config import EvalConfig
from schemas.evaluation import DETECTIONS, REPORT, EvalReport, EvaluatedModel, ValidationData
from schemas.provenance import Provenance
from schemas.stage import Stage
from schemas.storage import remove_file, write_text
from schemas.student import StudentManifest

FULL_PRECISION = "full precision"


def run(
    config: EvalConfig,
    students: Sequence[Path],
    output: Path,
    data: ValidationSource,
    data_digest: str,
    provenance: Provenance,
    stage: Stage,
) -> None:
    """Evaluate the teacher and the students in `students`; write detections, then `report.json`.

    Raises:
        ConfigError: the image size does not fit the teacher, or the device is not there.
        InputError: the teacher or the validation data cannot be read, or they do not fit each other.
        VerificationError: a student does not match its manifest.
    """
    device = resolve_device(config.device)
    teacher = load_teacher(config.teacher, device)
    image_size = config.image_size or teacher.identity.input_size
    _check_image_size(image_size, teacher.identity.stride)
    validation = data.read(teacher.identity.class_names)
    if validation.without_area:
        stage.reporter.message(f"{validation.name}: left out {validation.without_area} boxes without area")
    _remove_previous(output)

    models: list[EvaluatedModel] = []
    for model in _models(teacher, students, device):
        found = predict(
            model.detector, validation.images, device,
            image_size=image_size, batch=config.batch, confidence=config.confidence, iou=config.iou,
            max_detections=config.max_detections, track=partial(_track, name=model.name, stage=stage),
        )  # fmt: skip
        precision, per_class = _measure(validation, found.detections, teacher.identity.class_names)
        _write_detections(output / detections_file(model.name), validation, found.detections)
        full_precision = models[0].precision if models else precision
        models.append(
            EvaluatedModel(
                name=model.name,
                weights_sha256=model.weights_sha256,
                label_mode=model.manifest.calibration_set.label_mode if model.manifest else None,
                image_source=model.manifest.calibration_set.image_source if model.manifest else None,
                precision=precision,
                share_of_full_precision=_share(precision, full_precision),
                per_class=per_class,
                seconds_per_image=found.seconds_per_image,
            )
        )

    report = EvalReport(
        data=ValidationData(
            source=validation.name, format=validation.format, digest=data_digest,
            images=len(validation.images), boxes=validation.boxes, image_size=image_size,
        ),
        models=tuple(models),
        eval=config,
        provenance=provenance,
    )  # fmt: skip
    write_text(output / REPORT, report.to_json())
    _show(report, output, stage)


def detections_file(model: str) -> str:
    """Name of the COCO results file of a model: `detections-qat-w4a8-deploy.json`."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return DETECTIONS.replace(".", f"-{slug}.")


@dataclass(frozen=True)
class _Model:
    name: str
    detector: Detector
    weights_sha256: str
    manifest: StudentManifest | None = None


def _models(teacher: Detector, students: Sequence[Path], device: torch.device) -> Iterator[_Model]:
    """The teacher, then each student, loaded when its turn comes."""
    yield _Model(FULL_PRECISION, teacher, teacher.identity.sha256)
    taken = {detections_file(FULL_PRECISION)}
    for folder in students:
        detector, manifest = load_student(folder, device)
        name = f"{manifest.method.value} {manifest.bits.name}"
        number = 1
        while detections_file(name) in taken:
            number += 1
            name = f"{manifest.method.value} {manifest.bits.name} #{number}"
        taken.add(detections_file(name))
        yield _Model(name, detector, manifest.weights_sha256, manifest)


def _track(batches: Batches, name: str, stage: Stage) -> Iterator[Sequence[ValidationImage]]:
    for batch in stage.reporter.track(batches, name, unit="batch"):
        stage.stop_here_if_asked()
        yield batch


def _measure(
    validation: ValidationSet, detections: Sequence[Detections], class_names: Sequence[str]
) -> tuple[AveragePrecision, dict[str, float]]:
    truth = [Detections.of(torch.from_numpy(i.boxes), torch.from_numpy(i.classes)) for i in validation.images]
    return average_precision(truth, detections, class_names, [image.crowd.tolist() for image in validation.images])


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
    for path in (output / REPORT, *output.glob(DETECTIONS.replace(".", "-*."))):
        remove_file(path)


def _show(report: EvalReport, output: Path, stage: Stage) -> None:
    rows = [
        (
            model.name,
            f"{model.precision.map50_95:.3f}",
            f"{model.precision.map50:.3f}",
            f"{model.share_of_full_precision:.1%}",
        )
        for model in report.models
    ]
    data = report.data
    title = f"{data.images} images of {data.source} at {data.image_size} px"
    stage.reporter.table(title, ("model", "mAP50-95", "mAP50", "share of FP"), rows)
    stage.reporter.message(f"report: {output / REPORT}", path=str(output / REPORT))
