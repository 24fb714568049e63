"""What every detector is held to, through the code of the jobs alone: one function per column of docs/families.md.

A check returns what its cell says and raises where it fails.
"""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Decoded, Detector
from detectors.registry import load_teacher
from detectors.source import checkpoint_digest
from qat_job.job import quantize
from quantization.calibrate import calibrate
from quantization.convert import make_student, quantized_layers
from quantization.onnx.export import export_student, trace_student
from quantization.onnx.graph import output_names, to_onnx, write_onnx
from quantization.onnx.parity import measure_parity, resized
from quantization.student import load_student, save_student
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.calibration_set import CalibrationSetManifest, ImageSource, LabelMode
from schemas.image_size import ImageSize
from schemas.labels import LabelOrigin, ShapeKind
from schemas.provenance import Provenance
from schemas.qat_config import RATE_AT_4_BITS, BitPolicy, QatConfig
from schemas.student import (
    MANIFEST,
    CalibrationSetReference,
    ExportForm,
    StudentManifest,
    TrainingMethod,
    TrainingSummary,
)
from schemas.synth_config import Initialisation, InversionConfig, LabelConfig, LossWeights, SynthConfig, ViewConfig
from schemas.target import Target
from schemas.teacher import TeacherSource
from schemas.training_terms import AugmentationConfig
from stages.output import Job, Output
from stages.shards import open_calibration_set
from stages.stage import Stage
from synth_job.initialisation import initial_images, sample_generator
from synth_job.inversion import Course, Inversion, Watch
from synth_job.job import synthesize
from tests.conformance.cases import NAMES, Case, coarse_images

CPU = torch.device("cpu")
STILL = ViewConfig(flip=0.0, shift=0.0, scales=(1.0,))
IMAGES = 2


class Subject:
    """One case; what several checks need is made once, when the first one asks.

    Args:
        case: which.
        folder: empty, for its checkpoint, set and students.
    """

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.folder = folder

    @cached_property
    def reference(self) -> Callable[[Tensor], Tensor] | None:
        """The network as its own library has it; its checkpoint is written."""
        return self.case.write(self.folder / "teacher.pt")

    @cached_property
    def source(self) -> TeacherSource:
        """The checkpoint in a configuration."""
        _ = self.reference
        return TeacherSource(path=str(self.folder / "teacher.pt"), family=self.case.family)

    @cached_property
    def teacher(self) -> Detector:
        """Loaded from its checkpoint."""
        return load_teacher(self.source, CPU)

    @property
    def images(self) -> Tensor:
        """Random images."""
        return coarse_images(IMAGES, self.case.size, seed=10)

    @property
    def labels(self) -> list[Detections]:
        """A box for each."""
        size = float(self.case.size)
        boxes = ([size / 8, size / 8, size * 0.8, size * 0.6], [size * 0.3, size * 0.2, size * 0.9, size * 0.9])
        return [Detections.of([box], [category]) for box, category in zip(boxes, (2, 0), strict=True)]

    @cached_property
    def calibration_set(self) -> CalibrationSetManifest:
        """What synth makes of the teacher, in the folder `set`."""
        settings = SynthConfig(
            teacher=self.source,
            image_size=self.case.size,
            images=IMAGES,
            labels=LabelConfig(
                size=self.case.size, iterations=6, warm_up=2, interval=2, confidence=1e-6, batch=IMAGES, views=STILL
            ),
            inversion=InversionConfig(iterations=3, batch=IMAGES),
            device="cpu",
        )
        provenance = Provenance.of("synth", settings.keyed(), {"teacher": checkpoint_digest(self.source)})
        output = Output(self.folder / "set" / SET_MANIFEST, CalibrationSetManifest, provenance)
        manifest = synthesize(settings, Job(Stage("synth"), output))
        assert manifest is not None
        return manifest

    def student(self, bits: int) -> Detector:
        """The teacher with calibrated quantizers of so many bits."""
        student = make_student(self.teacher, BitPolicy(weight_bits=bits, activation_bits=bits))
        with torch.no_grad():
            calibrate(student.network, lambda: [self.images], student.head_outputs)
        return student

    def saved(self, student: Detector, bits: int) -> tuple[Detector, StudentManifest]:
        """The student that is read back from where this one is written."""
        size = self.case.size
        made_with = CalibrationSetReference(
            digest="0", samples=IMAGES, image_size=size,
            label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED,
        )  # fmt: skip
        config = QatConfig(teacher=self.source, bits=BitPolicy(weight_bits=bits, activation_bits=bits), ptq_only=True)
        save_student(
            student, self.folder / "student",
            method=TrainingMethod.PTQ, config=config, calibration_set=made_with,
            training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
            provenance=Provenance.of("qat", config.keyed(), {"teacher": self.teacher.identity.sha256}),
        )  # fmt: skip
        return load_student(self.folder / "student", CPU)


def loads(subject: Subject) -> str:
    """The adapter reads the checkpoint and computes what the network's own library computes, at two sizes."""
    teacher = subject.teacher
    assert teacher.identity.class_names == NAMES
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())
    if subject.reference is None:
        assert torch.isfinite(teacher.decoded(subject.images)).all()
        return "yes"
    for images in (subject.images, torch.rand(1, 3, 2 * subject.case.size, subject.case.size)):
        with torch.no_grad():
            torch.testing.assert_close(teacher.decoded(images), subject.reference(images), rtol=1e-5, atol=1e-5)
    return "same outputs"


def samples_labels(subject: Subject) -> str:
    """Adaptive sampling ends with boxes inside the image, some of them found by the detector itself."""
    manifest = subject.calibration_set
    labels = [sample.labels for sample in open_calibration_set(subject.folder / "set").samples]
    assert manifest.samples == IMAGES and all(label.boxes for label in labels)
    for box in (box for label in labels for box in label.boxes):
        x, y, w, h = box.bbox
        assert 0 <= x <= x + w <= subject.case.size and 0 <= y <= y + h <= subject.case.size
        assert 0 <= box.category_id < len(NAMES)
    shapes = [Detections.from_labels(label).shapes for label in labels]
    sees = subject.teacher.sees
    assert all((ShapeKind.BOX if each is None else each.kind) is sees for each in shapes)
    origins = manifest.statistics.origin_histogram
    assert origins.get(LabelOrigin.RELABELLED.value, 0) > 0
    return f"{manifest.statistics.boxes} boxes"


def inverts(subject: Subject) -> str:
    """Twenty steps of inversion from noise lower the detection loss and the whole loss, and pixels stay in range."""
    weights = LossWeights()
    terms: list[Tensor] = []
    start = initial_images(Initialisation.NOISE, 0, range(IMAGES), ImageSize.square(subject.case.size))
    course, watch = Course(20, 0.003, weights, STILL), Watch(terms=terms)
    made = Inversion(subject.teacher).run(start, subject.labels, course, sample_generator(0, 0), watch)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1
    factors = torch.tensor([weights.task * IMAGES, weights.batch_norm, weights.first_layer, weights.total_variation])
    detection, whole = torch.stack(terms).cpu()[:, 0], torch.stack(terms).cpu() @ factors
    assert float(whole[-1]) < float(whole[0])
    assert float(detection[-1]) < float(detection[0])
    return f"{float(detection[-1] / detection[0]) - 1:+.0%}"


def quantizes(subject: Subject) -> str:
    """Quantized at 8 bits the class logits are near the teacher's, at most half as far as at 3 bits.

    Errors are relative to the difference between two images, since logits of any network differ little from its biases.
    """
    with torch.no_grad():
        outputs = subject.teacher.head_outputs(subject.images)
        theirs = outputs.class_logits[0]
        scale = (theirs[0] - theirs[1]).norm() * 2**0.5
        mine = [subject.student(bits).head_outputs(subject.images, outputs).class_logits[0] for bits in (8, 3)]
        errors = [float((logits - theirs).norm() / scale) for logits in mine]
    assert errors[0] < errors[1] / 2
    return f"error {errors[0]:.1%}"


def trains(subject: Subject) -> str:
    """QAT at W4A8 by the job itself moves every quantized layer and lowers its loss on the set it sees."""
    _ = subject.calibration_set
    # From a start that leaves room for eight steps, and biases no faster than weights: random weights do not bear it.
    rate = subject.case.learning_rate or RATE_AT_4_BITS
    settings = QatConfig(
        teacher=subject.source, bits=BitPolicy(weight_bits=4), steps=8, batch=IMAGES, targets=(), device="cpu",
        learning_rate=rate, bias_learning_rate=rate, correction_images=0,
        augmentation=AugmentationConfig(flip=0.0, shift=0.0, scale=0.0, brightness=0.0),
    )  # fmt: skip
    folder = subject.folder / "trained"
    provenance = Provenance.of("qat", settings.keyed(), {"set": subject.calibration_set.digest})
    output = Output(folder / MANIFEST, StudentManifest, provenance)
    manifest = quantize(settings, subject.folder / "set", Job(Stage("qat"), output))
    assert manifest is not None
    losses = manifest.training.losses
    assert losses is not None and losses[-1] < losses[0]
    after, before = (load_student(path, CPU)[0].network for path in (folder, folder / "ptq"))
    pairs = zip(quantized_layers(before).items(), quantized_layers(after).values(), strict=True)
    assert [name for (name, old), new in pairs if torch.equal(old.weight, new.weight)] == []
    return f"loss {losses[-1] / losses[0] - 1:+.0%}"


def reloads(subject: Subject) -> str:
    """A student read from its files gives the same outputs, bit by bit, without the teacher's checkpoint."""
    student = subject.student(4)
    again, _ = subject.saved(student, 4)

    def decode(detector: Detector) -> Decoded:
        return detector.decoded(subject.images)

    with torch.no_grad():
        pairs = [each if isinstance(each, tuple) else (each,) for each in map(decode, (again, student))]
        assert all(torch.equal(mine, theirs) for mine, theirs in zip(*pairs, strict=True))
    return "bit-exact"


def exports(subject: Subject) -> str:
    """The exported model computes what the simulated student computes; a family that cannot be exported says why."""
    if subject.teacher.export_obstacle is not None:
        return f"no: {subject.teacher.export_obstacle}"
    student, manifest = subject.saved(subject.student(8), 8)
    size = max(subject.case.size, 4 * subject.teacher.identity.stride)
    traced, images = trace_student(student, manifest), resized(subject.images, ImageSize.square(size))
    exported, placed = (
        export_student(
            traced, subject.folder / f"{target.value}.onnx", images, ExportForm(target=target, image_size=size)
        )
        for target in (Target.GENERIC, Target.ONNXRUNTIME)
    )
    if not student.end_to_end:
        assert exported.parity.score_mean < 1e-2
        return f"scores within {exported.parity.score_mean:.0e}; placed {placed.parity.score_mean:.0e}"
    # Rounding exchanges queries that random weights score alike, so figures are those of the network in float.
    path = subject.folder / "teacher.onnx"
    teacher = subject.teacher
    write_onnx(to_onnx(teacher.deployed(), teacher.identity.stride, {}, output_names(teacher)), path)
    parity = measure_parity(subject.teacher, path, None, ImageSize.square(size))
    if parity.score_max == 0:  # nothing is found on noise
        parity = measure_parity(subject.teacher, path, images, ImageSize.square(size))
    assert parity.score_mean < 1e-4 and parity.matched == 1
    return f"in float, scores within {parity.score_mean:.0e}; student {exported.parity.score_mean:.0e}"


CHECKS: dict[str, Callable[[Subject], str]] = {
    "load": loads,
    "label sampling": samples_labels,
    "inversion lowers the loss": inverts,
    "PTQ W8A8": quantizes,
    "QAT W4A8": trains,
    "save and reload": reloads,
    "ONNX": exports,
}


def outcome(subject: Subject, check: str) -> str:
    """What the cell of a check says: its result, or the reason why not, which must be the one its case gives.

    Raises:
        AssertionError: the check fails, or passes although its case says that it cannot.
    """
    reason = dict(subject.case.reasons).get(check)
    if reason is None:
        return CHECKS[check](subject)
    try:
        CHECKS[check](subject)
    except Exception as error:
        text = " ".join(str(error).split())
        assert text.startswith(reason), f"{check} fails for another reason than {reason!r}: {text[:300]}"
        return f"no: {reason}"
    raise AssertionError(f"{check} passes; remove the reason {reason!r} from its case")
