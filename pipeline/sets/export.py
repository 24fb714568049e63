"""A set as ordinary images and label files: COCO JSON, or the YOLO layout."""

from collections.abc import Callable, Iterator
from pathlib import Path

from PIL import Image

from label_formats.coco import INSTANCES, write_instances
from label_formats.yolo import write_yolo
from label_formats.yolo_layout import IMAGES
from pipeline.sets.choices import ExportFormat
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError
from schemas.labels import ImageLabels
from stages.shards import CalibrationSet, open_calibration_set
from stages.stage import Stage
from stages.storage import atomic_path


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
}
