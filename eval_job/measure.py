"""What one model is worth on one set of images: its detections against labels, or against those of full precision."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from detectors.average_precision import BoxEvaluation, evaluate_boxes
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.self_labels import self_labels
from detectors.shape_precision import shape_precision
from detectors.shapes.labels import shapes_of_data
from detectors.shapes.points import Keypoints, check_keypoints
from detectors.shapes.shapes import Shapes
from eval_job.bootstrap import interval
from eval_job.unlabelled import UnlabelledSource
from eval_job.voc_precision import voc_precision
from label_formats.images import ValidationImage, ValidationSet
from label_formats.objects import NOTHING
from schemas.calibration_set import AveragePrecision
from schemas.errors import InputError
from schemas.evaluation import ShapePrecision, Uncertainty, ValidationData, VocPrecision
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind

Look = Callable[[Sequence[ValidationImage]], list[Detections]]
"""What a detector finds on images, image by image."""


@dataclass(frozen=True)
class MeasuredOn:
    """Images with what is to be found on them.

    Attributes:
        validation: the images; their boxes are labels, or what full precision finds.
        described: the same for the report.
        truth: what is to be found on each image.
    """

    validation: ValidationSet
    described: ValidationData
    truth: list[Detections]

    def measure_shapes(self, detections: Sequence[Detections], class_names: Sequence[str]) -> ShapePrecision | None:
        """What their shapes are worth; None where there are none to compare."""
        crowd = [image.crowd.tolist() for image in self.validation.images]
        found = shape_precision(self.truth, detections, class_names, crowd)
        return None if found is None else ShapePrecision(kind=found[0], precision=found[1])


def labelled(
    validation: ValidationSet, digest: str, image_size: ImageSize, detector: Detector | None = None
) -> MeasuredOn:
    """Images with the labels that they came with; shapes of the kind a detector predicts, where all images have them.

    Raises:
        InputError: as `labelled_shapes`.
    """
    truth = boxes_of(validation)
    if detector is not None:
        shapes = labelled_shapes(validation, detector)
        if all(each is not None or not len(label) for each, label in zip(shapes, truth, strict=True)):
            truth = [replace(label, shapes=each) for label, each in zip(truth, shapes, strict=True)]
    return MeasuredOn(validation, _described(validation, digest, image_size, None), truth)


def labelled_shapes(validation: ValidationSet, detector: Detector) -> list[Shapes | None]:
    """What the labels of each image say of the kind that a detector predicts; None where they say boxes alone.

    Raises:
        InputError: a mask of the labels is none, or they have more or fewer keypoints than the detector sees.
    """
    if detector.predicts is ShapeKind.BOX:
        return [None] * len(validation.images)
    return [_shapes(image, detector) for image in validation.images]


def _shapes(image: ValidationImage, detector: Detector) -> Shapes | None:
    if image.further is NOTHING:
        return None
    width, height = image.labelled_size or image.size()
    where = f"labels of image {image.id}"
    shapes = shapes_of_data(image.further, detector.predicts, ImageSize(height, width), where)
    if isinstance(shapes, Keypoints):
        check_keypoints(shapes, detector.keypoints, where)
    return shapes


def self_labelled(
    source: UnlabelledSource,
    digest: str,
    image_size: ImageSize,
    look: Look,
    confidence: float,
    class_names: Sequence[str],
) -> MeasuredOn:
    """Images with the full-precision detector's own confident detections as labels.

    Args:
        source: the images.
        digest: over them.
        image_size: what images are letterboxed to.
        look: what the full-precision detector finds.
        confidence: lowest score of a detection that stands for an object.
        class_names: of the detector.

    Raises:
        InputError: an image cannot be read, or the detector finds nothing at all.
    """
    images = source.images()
    labels, lowest = self_labels(look(images), confidence)
    if not any(len(each) for each in labels):
        raise InputError(
            f"{source.name}: the full-precision detector finds nothing on these {len(images)} images, so there is "
            "nothing to agree with; set data to labelled images, or photos to photographs of what it detects"
        )
    validation = ValidationSet(
        name=source.name,
        format=source.format,
        images=[
            replace(
                image,
                boxes=found.boxes.numpy(),
                classes=found.classes.numpy(),
                crowd=np.zeros(len(found), dtype=np.bool_),
            )
            for image, found in zip(images, labels, strict=True)
        ],
        category_ids={index: index for index in range(len(class_names))},
    )
    return MeasuredOn(validation, _described(validation, digest, image_size, lowest), labels)


def measure(validation: ValidationSet, detections: Sequence[Detections], class_names: Sequence[str]) -> BoxEvaluation:
    """What pycocotools says of the boxes of detections, image by image."""
    crowd = [image.crowd.tolist() for image in validation.images]
    return evaluate_boxes(boxes_of(validation), detections, class_names, crowd)


def measure_voc(
    validation: ValidationSet, detections: Sequence[Detections], class_names: Sequence[str]
) -> VocPrecision | None:
    """The same by VOC's own definitions, where the data is theirs."""
    if validation.format != "voc":
        return None
    difficult = [image.crowd.tolist() for image in validation.images]
    return voc_precision(boxes_of(validation), detections, class_names, difficult)


def uncertainty(
    precision: AveragePrecision,
    resampled: NDArray[np.float64] | None,
    full_precision: AveragePrecision,
    resampled_full: NDArray[np.float64] | None,
) -> Uncertainty | None:
    """Intervals of the precision and, against full precision on the same resamples, of its share."""
    if resampled is None:
        return None
    of_share = None
    if resampled_full is not None and not (resampled_full <= 0).any():
        of_share = interval(share(precision, full_precision), resampled / resampled_full)
    return Uncertainty(
        map50_95=interval(precision.map50_95, resampled, highest=1.0),
        share=of_share,
        resamples=len(resampled),
        values=tuple(float(f"{value:.6f}") for value in resampled) if np.isfinite(resampled).all() else (),
    )


def share(precision: AveragePrecision, full_precision: AveragePrecision) -> float:
    """mAP50-95 as a share of the teacher's; 0 where the teacher finds nothing."""
    return precision.map50_95 / full_precision.map50_95 if full_precision.map50_95 > 0 else 0.0


def _described(
    validation: ValidationSet, digest: str, image_size: ImageSize, confidence: float | None
) -> ValidationData:
    return ValidationData(
        source=validation.name,
        format=validation.format,
        label_confidence=confidence,
        digest=digest,
        images=len(validation.images),
        boxes=validation.boxes,
        image_size=image_size,
    )


def boxes_of(validation: ValidationSet) -> list[Detections]:
    """The labelled boxes of each image."""
    return [Detections.of(torch.from_numpy(i.boxes), torch.from_numpy(i.classes)) for i in validation.images]
