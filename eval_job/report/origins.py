"""Where the result comes from: the chain teacher → calibration set → student → evaluation, and all settings."""

from dataclasses import dataclass

import yaml

from eval_job.report.artifacts import Artifacts, StudentArtifacts
from eval_job.report.headline import IMAGE_SOURCES, LABEL_MODES
from eval_job.report.wording import duration, moment, number, quantity
from schemas.base import Contract
from schemas.calibration_set import CalibrationSetManifest
from schemas.evaluation import EvalReport, Measure
from schemas.student import CalibrationSetReference, TrainingMethod
from schemas.teacher import TeacherIdentity


@dataclass(frozen=True)
class Link:
    """One artifact of the chain: what it is, its digest, and what to know of it."""

    kind: str
    digest_of: str
    digest: str
    facts: list[tuple[str, str]]


def chain(artifacts: Artifacts) -> list[Link]:
    """The artifacts in the order they were made; sets that several students share stand once."""
    report = artifacts.report
    links: list[Link] = []
    if artifacts.students:
        links.append(_teacher(artifacts.students[0].manifest.teacher))
    else:
        links.append(Link("Teacher", "sha256 of the checkpoint", report.models[0].weights_sha256, []))
    manifest = artifacts.calibration_set.manifest if artifacts.calibration_set else None
    references = {each.manifest.calibration_set.digest: each.manifest.calibration_set for each in artifacts.students}
    if manifest:
        references.pop(manifest.digest, None)
        links.append(_calibration_set(manifest, report.models[0].weights_sha256))
    links += [_reference(reference, report.models[0].weights_sha256) for reference in references.values()]
    links += [_student(student) for student in artifacts.students]
    return [*links, _evaluation(report)]


def settings(artifacts: Artifacts) -> list[tuple[str, str]]:
    """Every setting of every stage, as YAML that the stage reads back."""
    blocks: list[tuple[str, str]] = []
    if artifacts.calibration_set:
        manifest = artifacts.calibration_set.manifest
        made = [("synth", manifest.synth), *((f"synth of set {s.digest[:12]}", s.synth) for s in manifest.sources)]
        blocks += [(name, _yaml(config)) for name, config in made if config is not None]
    blocks += [(f"qat, {student.name}", _yaml(student.manifest.qat)) for student in artifacts.students]
    return [*blocks, ("eval", _yaml(artifacts.report.eval))]


def missing(artifacts: Artifacts) -> list[str]:
    """What the page could show but was not given."""
    said: list[str] = []
    trained = any(model.label_mode is not None for model in artifacts.report.models)
    if trained and not artifacts.students:
        said.append("No student folder was given: training, step sizes and the calibration set's digest are not shown.")
    if trained and artifacts.calibration_set is None:
        said.append("No calibration set was given: its images and label statistics are not shown.")
    return said


def _teacher(teacher: TeacherIdentity) -> Link:
    facts = [
        ("family", teacher.family),
        ("classes", quantity(len(teacher.class_names))),
        ("trained at", f"{teacher.input_size} px"),
    ]
    return Link("Teacher", "sha256 of the checkpoint", teacher.sha256, facts)


def _calibration_set(manifest: CalibrationSetManifest, teacher_sha256: str) -> Link:
    agreement = manifest.teacher_agreement
    facts = [
        *_other_teacher(manifest.teacher.sha256, teacher_sha256),
        ("images", f"{quantity(manifest.samples)} of {manifest.image_size.in_words}"),
        ("labels", LABEL_MODES[manifest.label_mode]),
        ("image source", IMAGE_SOURCES[manifest.image_source]),
        ("teacher's agreement", f"mAP50-95 {number(agreement.map50_95)}" if agreement else "not measured"),
        *([("doubt", manifest.doubt)] if manifest.doubt else []),
        ("seed", str(manifest.seed)),
        ("made", f"{moment(manifest.provenance.created)}, zsq {manifest.provenance.code_version}"),
        ("licence", manifest.licence),
    ]
    return Link("Calibration set", "digest", manifest.digest, facts)


def _other_teacher(made_from: str | None, teacher_sha256: str) -> list[tuple[str, str]]:
    """Where a set came out of other weights than those that are evaluated: which."""
    if made_from in (None, teacher_sha256):
        return []
    return [("made from another teacher", f"sha256 {made_from}")]


def _reference(reference: CalibrationSetReference, teacher_sha256: str) -> Link:
    facts = [
        *_other_teacher(reference.teacher_sha256, teacher_sha256),
        ("images", f"{quantity(reference.samples)} of {reference.image_size.in_words}"),
        ("labels", LABEL_MODES[reference.label_mode]),
        ("image source", IMAGE_SOURCES[reference.image_source]),
    ]
    return Link("Calibration set", "digest, as its student names it", reference.digest, facts)


def _student(student: StudentArtifacts) -> Link:
    manifest = student.manifest
    trained = manifest.method is TrainingMethod.QAT
    steps = f"{quantity(manifest.training.steps)} steps, {duration(manifest.training.seconds)}"
    facts = [
        ("bits", manifest.bits.name),
        ("training", steps if trained else "none: calibrated only"),
        ("seed", str(manifest.qat.seed)),
        ("made", f"{moment(manifest.provenance.created)}, zsq {manifest.provenance.code_version}"),
    ]
    return Link(f"Student {student.name}", "sha256 of the weights", manifest.weights_sha256, facts)


def _evaluation(report: EvalReport) -> Link:
    data, config = report.data, report.eval
    size = data.image_size.in_words
    suppression = "the family's own NMS" if config.iou is None else f"NMS at IoU {config.iou:g}"
    boxes = "boxes" if report.measure is Measure.ACCURACY else "detections of full precision in the place of labels"
    further = report.agreement_data
    facts = [
        ("data", f"{data.source} ({data.format})"),
        ("images", f"{quantity(data.images)}, {quantity(data.boxes)} {boxes}, letterboxed to {size}"),
        ("detections", f"score ≥ {config.confidence:g}, {suppression}, {config.max_detections} an image"),
        ("metric", "COCO mAP by pycocotools"),
        *(("agreement also on", f"{each.images} images of {each.source} ({each.format})") for each in further),
        ("made", f"{moment(report.provenance.created)}, zsq {report.provenance.code_version}"),
    ]
    return Link("Evaluation", "digest of the validation data", data.digest, facts)


def _yaml(config: Contract) -> str:
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=100)
