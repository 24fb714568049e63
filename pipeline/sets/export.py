"""A set as other tools take it: ordinary images with or without labels, a list of them, or one array."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from label_formats.coco import INSTANCES, write_instances
from label_formats.yolo import write_yolo
from label_formats.yolo_layout import IMAGES
from pipeline.sets.choices import ExportFormat
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError
from schemas.labels import ImageLabels
from stages.shards import CalibrationSet, Sample, open_calibration_set
from stages.stage import Stage
from stages.storage import atomic_path, write_text

ARRAY = "calibration.npy"
LIST = "dataset.txt"


def export_set(folder: Path, output: Path, export_format: ExportFormat, stage: Stage) -> CalibrationSetManifest:
    """Write the set in `folder` into `output`; the file that lists the images comes last.

    Scores and origins of boxes are left behind: no format has a place for them.

    Raises:
        ConfigError: `output` is not empty: what lies there would pass for part of the set.
        InputError: there is no set in `folder`.
        VerificationError: the set is damaged.
    """
    calibration_set = open_calibration_set(folder)
    if output.is_dir() and any(output.iterdir()):
        raise ConfigError(f"{output} is not empty; choose another folder, or remove what lies there")
    if export_format in (ExportFormat.NCHW, ExportFormat.NHWC):
        _write_array(calibration_set, output / ARRAY, export_format, stage)
        return calibration_set.manifest
    names = [f"{number:08d}.png" for number in range(len(calibration_set.samples))]
    for name, sample in zip(names, _samples(calibration_set, stage), strict=True):
        with atomic_path(output / IMAGES / name) as temporary:
            Image.fromarray(sample.image(), "RGB").save(temporary, format="PNG")
    WRITERS[export_format](calibration_set, names, output)
    return calibration_set.manifest


def _samples(calibration_set: CalibrationSet, stage: Stage) -> Iterator[Sample]:
    for sample in stage.reporter.track(calibration_set.samples, "images", unit="image"):
        stage.stop_here_if_asked()
        yield sample


def _write_array(calibration_set: CalibrationSet, path: Path, export_format: ExportFormat, stage: Stage) -> None:
    """Write all images as one array, one by one, so that memory does not grow with their number."""
    count, size = calibration_set.manifest.samples, calibration_set.manifest.image_size
    channels_first = export_format is ExportFormat.NCHW
    height, width = size.height, size.width
    shape, kind = ((count, 3, height, width), "<f4") if channels_first else ((count, height, width, 3), "|u1")
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        array = np.lib.format.open_memmap(temporary, mode="w+", dtype=kind, shape=shape)
        for number, sample in enumerate(_samples(calibration_set, stage)):
            pixels = sample.image()
            array[number] = pixels.transpose(2, 0, 1) / np.float32(255) if channels_first else pixels
        array.flush()


def _write_nothing(calibration_set: CalibrationSet, names: list[str], output: Path) -> None:
    """A folder of images is all there is."""


def _write_list(calibration_set: CalibrationSet, names: list[str], output: Path) -> None:
    write_text(output / LIST, "".join(f"{IMAGES}/{name}\n" for name in names))


def _write_coco(calibration_set: CalibrationSet, names: list[str], output: Path) -> None:
    manifest = calibration_set.manifest
    description = f"calibration set {_described(manifest)}. {manifest.licence}"
    write_instances(output / INSTANCES, description, manifest.teacher.class_names, _labelled(calibration_set, names))


def _write_yolo(calibration_set: CalibrationSet, names: list[str], output: Path) -> None:
    manifest = calibration_set.manifest
    note = f"Calibration set {_described(manifest)}."
    write_yolo(output, note, manifest.teacher.class_names, _labelled(calibration_set, names))


def _described(manifest: CalibrationSetManifest) -> str:
    return f"{manifest.digest}: {manifest.image_source.value} images, {manifest.label_mode.value} labels"


def _labelled(calibration_set: CalibrationSet, names: list[str]) -> Iterator[tuple[str, ImageLabels]]:
    """File name and labels of each image."""
    return zip(names, (sample.labels for sample in calibration_set.samples), strict=True)


WRITERS: dict[ExportFormat, Callable[[CalibrationSet, list[str], Path], None]] = {
    ExportFormat.COCO: _write_coco,
    ExportFormat.YOLO: _write_yolo,
    ExportFormat.IMAGES: _write_nothing,
    ExportFormat.LIST: _write_list,
}
