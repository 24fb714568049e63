"""A set as ordinary images and label files: COCO JSON, or the YOLO layout."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from pipeline.sets.choices import ExportFormat
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError
from schemas.labels import ImageLabels
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage
from stages.storage import atomic_path, write_text

Box = tuple[float, float, float, float]
"""x, y, w, h in pixels."""
INSTANCES, DATA, IMAGES, LABELS = "instances.json", "data.yaml", "images", "labels"


def export_set(folder: Path, output: Path, export_format: ExportFormat, stage: Stage) -> CalibrationSetManifest:
    """Write the set in `folder` as images and labels into `output`; the file that lists them comes last.

    Scores and origins of boxes are left behind: neither format has a place for them.

    Raises:
        ConfigError: `output` is not empty: what lies there would pass for part of the set.
        InputError: there is no set in `folder`.
        VerificationError: the set is damaged.
    """
    calibration_set = open_calibration_set(folder)
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another folder, or remove what lies there")
    names = [f"{number:08d}.png" for number in range(len(calibration_set.samples))]
    for name, sample in zip(names, stage.reporter.track(calibration_set.samples, "images", unit="image"), strict=True):
        stage.stop_here_if_asked()
        with atomic_path(output / IMAGES / name) as temporary:
            Image.fromarray(sample.image(), "RGB").save(temporary, format="PNG")
    WRITERS[export_format](calibration_set, names, output)
    return calibration_set.manifest


def _write_coco(calibration_set: CalibrationSet, names: list[str], output: Path) -> None:
    manifest = calibration_set.manifest
    annotations: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for number, (name, sample) in enumerate(zip(names, calibration_set.samples, strict=True), start=1):
        images.append({"id": number, "file_name": name, "width": sample.labels.width, "height": sample.labels.height})
        for category, (x, y, w, h) in _boxes(sample.labels):
            annotations.append(
                {"id": len(annotations) + 1, "image_id": number, "category_id": category + 1, "bbox": [x, y, w, h],
                 "area": w * h, "iscrowd": 0}
            )  # fmt: skip
    document = {
        "info": {
            "description": f"calibration set {manifest.digest}: {manifest.image_source.value} images, "
            f"{manifest.label_mode.value} labels. {manifest.licence}"
        },
        "categories": [{"id": n, "name": name} for n, name in enumerate(manifest.teacher.class_names, start=1)],
        "images": images,
        "annotations": annotations,
    }
    write_text(output / INSTANCES, json.dumps(document) + "\n")


def _write_yolo(calibration_set: CalibrationSet, names: list[str], output: Path) -> None:
    manifest = calibration_set.manifest
    for name, sample in zip(names, calibration_set.samples, strict=True):
        lines = [_yolo_line(sample.labels, category, box) for category, box in _boxes(sample.labels)]
        write_text((output / LABELS / name).with_suffix(".txt"), "".join(lines))
    # Without `path`, which Ultralytics resolves by its own settings, all is found beside the file.
    data = {"train": IMAGES, "val": IMAGES, "names": dict(enumerate(manifest.teacher.class_names))}
    kinds = f"{manifest.image_source.value} images, {manifest.label_mode.value} labels"
    note = f"# Calibration set {manifest.digest}: {kinds}.\n"
    write_text(output / DATA, note + yaml.safe_dump(data, sort_keys=False, allow_unicode=True))


def _yolo_line(labels: ImageLabels, category: int, box: Box) -> str:
    x, y, w, h = box
    shares = ((x + w / 2) / labels.width, (y + h / 2) / labels.height, w / labels.width, h / labels.height)
    return " ".join([str(category), *(f"{share:.9f}" for share in shares)]) + "\n"


def _boxes(labels: ImageLabels) -> list[tuple[int, Box]]:
    """Category and [x, y, w, h] of each box, cut at the edges: ours may stand out by half a pixel."""
    boxes = []
    for box in labels.boxes:
        x, y, w, h = box.bbox
        left, top = max(x, 0.0), max(y, 0.0)
        right, bottom = min(x + w, float(labels.width)), min(y + h, float(labels.height))
        if right > left and bottom > top:
            boxes.append((box.category_id, (left, top, right - left, bottom - top)))
    return boxes


WRITERS: dict[ExportFormat, Callable[[CalibrationSet, list[str], Path], None]] = {
    ExportFormat.COCO: _write_coco,
    ExportFormat.YOLO: _write_yolo,
}
