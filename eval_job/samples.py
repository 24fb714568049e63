"""Pictures of a few validation images, kept with their boxes so that a report needs no validation data."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from detectors.detections import Detections
from eval_job.measure import MeasuredOn
from label_formats.images import ValidationImage, ValidationSet
from schemas.calibration_set import LabelStatistics
from schemas.evaluation import CONFIDENT, SAMPLES_FOLDER, SampleBox, SamplePicture
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin
from stages.storage import atomic_path, file_digest

MAX_SIDE = 640
"""Longer side of a stored picture, pixels."""
JPEG_QUALITY = 85


def write_samples(
    folder: Path,
    measured_on: MeasuredOn,
    detections: Mapping[str, Sequence[Detections]],
    class_names: Sequence[str],
    count: int,
) -> tuple[SamplePicture, ...]:
    """Write up to `count` pictures into `folder`/samples: images with labels, evenly spread, not chosen by result.

    Args:
        folder: of the evaluation.
        measured_on: the images, and what is to be found on them.
        detections: of each model by name, image by image.
        class_names: name of each class index.
        count: number of pictures; 0 writes nothing.

    Raises:
        InputError: an image cannot be decoded, or the folder cannot be written.
    """
    validation = measured_on.validation
    labelled = [n for n, image in enumerate(validation.images) if len(image.boxes)]
    count = min(count, len(labelled))
    chosen = [labelled[(2 * k + 1) * len(labelled) // (2 * count)] for k in range(count)]
    return tuple(
        _write_sample(
            folder / SAMPLES_FOLDER / f"{number:04d}.jpg",
            validation.images[n],
            measured_on.truth[n],
            {name: found[n] for name, found in detections.items()},
            class_names,
        )
        for number, n in enumerate(chosen, start=1)
    )


def remove_samples(folder: Path) -> None:
    """Delete the pictures of an earlier evaluation."""
    shutil.rmtree(folder / SAMPLES_FOLDER, ignore_errors=True)


def confident_statistics(
    validation: ValidationSet, detections: Sequence[Detections], class_names: Sequence[str]
) -> LabelStatistics:
    """Statistics of a model's confident detections, as those of a calibration set's labels."""
    labels = [
        _as_labels(found.select(found.scores >= CONFIDENT), *image.size())
        for image, found in zip(validation.images, detections, strict=True)
    ]
    statistics = LabelStatistics.of(labels, tuple(class_names))
    return statistics.model_copy(update={"origin_histogram": {}})  # nobody asked where detections come from


def _as_labels(found: Detections, width: int, height: int) -> ImageLabels:
    boxes = tuple(
        BoxLabel(bbox=(x1, y1, x2 - x1, y2 - y1), category_id=category, origin=LabelOrigin.RELABELLED)
        for (x1, y1, x2, y2), category in zip(found.boxes.tolist(), found.classes.tolist(), strict=True)
        if x2 > x1 and y2 > y1
    )
    return ImageLabels(width=width, height=height, boxes=boxes)


def _write_sample(
    path: Path,
    image: ValidationImage,
    truth: Detections,
    detections: Mapping[str, Detections],
    class_names: Sequence[str],
) -> SamplePicture:
    picture = Image.fromarray(image.pixels())  # from pixels: no metadata travels with it
    width = picture.width
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    with atomic_path(path) as temporary:
        picture.save(temporary, format="JPEG", quality=JPEG_QUALITY)
    scale = picture.width / width
    labels = truth.select(torch.from_numpy(~image.crowd))
    return SamplePicture(
        file=path.name,
        sha256=file_digest(path),
        width=picture.width,
        height=picture.height,
        labels=_boxes(labels.scaled(scale), class_names),
        detections={
            name: _boxes(found.select(found.scores >= CONFIDENT).scaled(scale), class_names)
            for name, found in detections.items()
        },
    )


def _boxes(found: Detections, class_names: Sequence[str]) -> tuple[SampleBox, ...]:
    return tuple(
        SampleBox(
            bbox=(round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1)),
            class_name=class_names[category],
            score=round(score, 3),
            outlines=outlines,
            points=points,
        )
        for (x1, y1, x2, y2), category, score, outlines, points in zip(
            found.boxes.tolist(), found.classes.tolist(), found.scores.tolist(), *_drawn(found), strict=True
        )
        if round(x2 - x1, 1) > 0 and round(y2 - y1, 1) > 0  # a box without area shows nothing
    )


def _drawn(found: Detections) -> tuple[list[Any], list[Any]]:
    """The outlines and the points of each object, to a tenth of a pixel."""
    if found.shapes is None:
        return [()] * len(found), [()] * len(found)
    outlines = [
        tuple(tuple(round(value, 1) for value in outline) for outline in each) for each in found.shapes.polygons()
    ]
    points = [tuple((round(x, 1), round(y, 1), seen) for x, y, seen in each) for each in found.shapes.dots()]
    return outlines, points
