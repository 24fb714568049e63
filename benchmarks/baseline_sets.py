"""Calibration sets that are *not* zero-shot, to compare with: uniform noise, and real images with their labels.

Their manifests say so (`image_source` noise or real), and so does every student and report made from them.

    uv run python -m benchmarks.baseline_sets noise --teacher yolo11n.pt --images 128 --size 320 --output sets/noise
    uv run python -m benchmarks.baseline_sets real  --teacher yolo11n.pt --data coco128 --size 320 --output sets/real
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import load_teacher
from eval_job.data import find_validation_data
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ImageSource, LabelMode, LabelStatistics
from schemas.image_size import ImageSize
from schemas.labels import ImageLabels, LabelOrigin
from schemas.provenance import Provenance
from schemas.synth_config import SynthConfig
from schemas.teacher import TeacherSource
from stages.pixels import Pixels
from stages.shards import read_shard, write_shard
from stages.storage import write_text
from synth_job.contact_sheet import write_contact_sheet
from synth_job.initialisation import sample_generator
from synth_job.label_sampling import random_boxes

app = typer.Typer(add_completion=False)

TeacherPath = Annotated[str, typer.Option(help="checkpoint of the teacher")]
Output = Annotated[Path, typer.Option(help="folder of the set")]
Size = Annotated[int, typer.Option(help="image side, pixels")]


@app.command()
def noise(teacher: TeacherPath, output: Output, images: int = 128, size: Size = 320, seed: int = 0) -> None:
    """Uniform noise, each image labelled with one random box."""
    detector = load_teacher(TeacherSource(path=teacher), torch.device("cpu"))
    classes = len(detector.identity.class_names)

    def samples() -> Iterable[tuple[Pixels, ImageLabels]]:
        for index in range(images):
            pixels = np.random.default_rng([seed, index]).integers(0, 256, (size, size, 3), dtype=np.uint8)
            box = random_boxes(sample_generator(seed, index), classes, 1).scaled(size)
            yield pixels, box.to_labels(ImageSize.square(size), [LabelOrigin.SAMPLED])

    write_set(detector, output, samples(), size, seed, ImageSource.NOISE, LabelMode.SAMPLED)


@app.command()
def real(teacher: TeacherPath, data: Annotated[Path, typer.Option()], output: Output, size: Size = 320) -> None:
    """Real images with their labels, letterboxed as the detector sees them."""
    detector = load_teacher(TeacherSource(path=teacher), torch.device("cpu"))
    found = find_validation_data(str(data), None).read(detector.identity.class_names)

    def samples() -> Iterable[tuple[Pixels, ImageLabels]]:
        for image in found.images:
            pixels, scale, (left, top) = detector.letterbox(image.pixels(), ImageSize.square(size))
            boxes = torch.from_numpy(image.boxes) * scale + torch.tensor([left, top, left, top])
            placed = Detections.of(boxes[~image.crowd], torch.from_numpy(image.classes)[~image.crowd])
            yield pixels, placed.to_labels(ImageSize.square(size), [LabelOrigin.GIVEN] * len(placed))

    write_set(detector, output, samples(), size, 0, ImageSource.REAL, LabelMode.GIVEN)


def write_set(
    teacher: Detector, folder: Path, samples: Iterable[tuple[Pixels, ImageLabels]], size: int, seed: int,
    source: ImageSource, mode: LabelMode,
) -> None:  # fmt: skip
    """One shard and a manifest that names the image source."""
    provenance = Provenance.of("synth", {"image_source": source.value, "size": size, "seed": seed}, {})
    record = write_shard(folder, 0, samples, first_sample=0, seed=seed, key=provenance.key)
    stored = read_shard(folder / record.file, record.samples)
    manifest = CalibrationSetManifest(
        teacher=teacher.identity,
        label_mode=mode,
        image_source=source,
        synth=SynthConfig(images=record.samples, image_size=size, seed=seed),
        image_size=size,
        seed=seed,
        shards=(record,),
        statistics=LabelStatistics.of([sample.labels for sample in stored], teacher.identity.class_names),
        teacher_agreement=None,
        provenance=provenance,
        licence="Baseline for comparison only; real images stay under their owners' terms.",
    )
    write_contact_sheet(folder / "contact_sheet.png", stored, teacher.identity.class_names)
    write_text(folder / MANIFEST, manifest.to_json())


if __name__ == "__main__":
    app()
