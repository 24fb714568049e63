"""Looking into students: layer by layer on synthetic and real images, weights against activations, what would help."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor

from detectors.detections import Detections
from detectors.overlap import box_iou
from detectors.protocol import Detector
from eval_job.evaluate import Looking, network_input
from eval_job.fidelity import layer_fidelity, reference_of
from eval_job.measure import MeasuredOn, measure
from eval_job.remedies import measure_parts
from eval_job.report.artifacts import read_sensitivity
from label_formats.images import ValidationImage
from quantization.student import load_student
from schemas.layer_study import LayerFidelity, LayerGap, Parts, SetCheck, SetImage
from schemas.student import MANIFEST, StudentManifest
from stages.pixels import Pixels
from stages.shards import open_calibration_set

SAME_OBJECT = 0.5
"""IoU from which a detection sees a label."""
MOST_OF_SET = 240
"""At most this many images of a set are looked at for labels that fail."""


@dataclass(frozen=True)
class Study:
    """What students are looked into with.

    Attributes:
        teacher: full precision, on the device of `looking`.
        on: the images that everything is measured on.
        set_folder: the calibration set, or None.
        looking: how detectors look at images.
    """

    teacher: Detector
    on: MeasuredOn
    set_folder: Path | None
    looking: Looking

    def gaps(self, students: Mapping[str, Path]) -> tuple[LayerGap, ...]:
        """The synthetic-to-real gap of each student by the name of its row."""
        count = self.looking.config.layer_images
        if not count:
            return ()
        opened = None if self.set_folder is None else open_calibration_set(self.set_folder)
        synthetic = [] if opened is None else [sample.image() for sample in _spread(opened.samples, count)]
        real = [] if self.on.described.format == "synthetic" else _spread(self.on.validation.images, count)
        found = []
        for name, folder in students.items():
            if not StudentManifest.read(folder / MANIFEST).quantizers:
                continue
            found.append(self._gap(name, folder, synthetic, [image.pixels() for image in real]))
        return tuple(gap for gap in found if gap.layers)

    def _gap(self, name: str, folder: Path, synthetic: Sequence[Pixels], real: Sequence[Pixels]) -> LayerGap:
        student, manifest = load_student(folder, self.looking.device)
        reference = reference_of(self.teacher, manifest.bits)
        self.looking.stage.reporter.message(f"{name}: comparing layers on {len(synthetic) + len(real)} images")
        on_set = layer_fidelity(reference, student, self._inputs(synthetic))
        on_real = layer_fidelity(reference, student, self._inputs(real))
        names = dict.fromkeys([*on_real, *on_set])
        return LayerGap(
            model=name,
            calibration_images=len(synthetic),
            real_images=len(real),
            layers=tuple(LayerFidelity(name=n, calibration=on_set.get(n), real=on_real.get(n)) for n in names),
        )

    def parts(self, students: Mapping[str, Path]) -> Parts | None:
        """What the last student loses by weights and by activations, and what would help; None without one."""
        count = self.looking.config.advice_images
        if not count or not students:
            return None
        name, folder = list(students.items())[-1]
        if not StudentManifest.read(folder / MANIFEST).quantizers:
            return None
        student, manifest = load_student(folder, self.looking.device)
        images = _spread(self.on.validation.images, count)
        if not any((~image.crowd).any() for image in images):
            return None
        subset = replace(self.on.validation, images=images)

        def score(detector: Detector, label: str) -> float:
            found = self.looking.predict(detector, images, label).detections
            return measure(subset, found, self.teacher.identity.class_names).summary.map50_95

        reference = reference_of(self.teacher, manifest.bits)
        found = measure_parts(student, reference, manifest, read_sensitivity(folder, manifest), score)
        return found.model_copy(update={"model": name, "images": len(images)})

    def set_check(self) -> SetCheck | None:
        """Which labels of the set the detector does not see in its images; None where no set was given."""
        if self.set_folder is None or self.looking.config.layer_images == 0:
            return None
        opened = open_calibration_set(self.set_folder)
        samples = _spread(list(enumerate(opened.samples)), MOST_OF_SET)
        images = [
            ValidationImage(
                id=n,
                source=sample.image(),
                boxes=_NOTHING.boxes.numpy(),
                classes=_NOTHING.classes.numpy(),
                crowd=_NOTHING.classes.numpy() > 0,
            )
            for n, sample in samples
        ]
        confidence = self.looking.config.label_confidence
        seen = self.looking.predict(self.teacher, images, "labels of the set").detections
        return SetCheck(
            set_digest=opened.manifest.digest,
            confidence=confidence,
            images=tuple(
                _checked(n, Detections.from_labels(sample.labels), found.select(found.scores >= confidence))
                for (n, sample), found in zip(samples, seen, strict=True)
            ),
        )

    def _inputs(self, images: Sequence[Pixels]) -> Iterator[Tensor]:
        """One network input an image: outputs of all layers of many would not fit into memory."""
        for image in images:
            self.looking.stage.stop_here_if_asked()
            canvas, _, _ = self.teacher.letterbox(image, self.looking.image_size)
            yield network_input([canvas], self.looking.device)


_NOTHING = Detections.of([], [])


def _checked(index: int, labels: Detections, found: Detections) -> SetImage:
    same = (box_iou(labels.boxes, found.boxes) >= SAME_OBJECT) & (labels.classes[:, None] == found.classes[None, :])
    seen = same.any(dim=1).tolist() if len(found) else [False] * len(labels)
    failed = tuple(n for n, each in enumerate(seen) if not each)
    share = 1 - len(failed) / len(labels) if len(labels) else None
    return SetImage(index=index, labels=len(labels), found=share, failed=failed)


def _spread(items: Sequence, count: int) -> list:
    """Up to `count` of them, evenly spread."""
    count = min(count, len(items))
    return [items[(2 * k + 1) * len(items) // (2 * count)] for k in range(count)]
