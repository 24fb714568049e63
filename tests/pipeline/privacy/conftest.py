"""Pictures that stand for private photographs, and sets of any images."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelStatistics
from schemas.image_size import ImageSize
from schemas.labels import ImageLabels
from stages.pixels import Pixels
from stages.shards import write_shard
from stages.storage import write_text

SIDE = 96


def photograph(seed: int) -> Image.Image:
    """Smooth colours with a few hard edges, of a size of its own."""
    generator = np.random.default_rng([11, seed])
    size = int(generator.integers(120, 260)), int(generator.integers(120, 260))
    image = Image.fromarray(generator.integers(0, 256, (7, 7, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    for _ in range(5):
        left, upper = (int(generator.integers(0, length - 30)) for length in size)
        colour = tuple(int(part) for part in generator.integers(0, 256, 3))
        image.paste(
            colour, (left, upper, left + int(generator.integers(20, 90)), upper + int(generator.integers(20, 90)))
        )
    return image


def unrelated(seed: int) -> Pixels:
    """An image that was made without any photograph: blotches and noise."""
    generator = np.random.default_rng([12, seed])
    coarse = Image.fromarray(generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)).resize((SIDE, SIDE))
    return (np.asarray(coarse) + generator.normal(0, 25, (SIDE, SIDE, 3))).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 30 private photographs, some of them below it."""
    folder = tmp_path_factory.mktemp("private") / "images"
    (folder / "below").mkdir(parents=True)
    for seed in range(30):
        photograph(seed).save(folder / ("below" if seed % 3 == 0 else "") / f"{seed:03d}.png")
    return folder


@pytest.fixture
def set_of(
    make_calibration_set: Callable[[Path], CalibrationSetManifest],
) -> Callable[[Path, Sequence[Pixels]], CalibrationSetManifest]:
    """Writes a set of the given square images, without labels."""

    def write(folder: Path, images: Sequence[Pixels]) -> CalibrationSetManifest:
        like = make_calibration_set(folder)
        for record in like.shards:
            (folder / record.file).unlink()
        side = len(images[0])
        labels = [ImageLabels(width=side, height=side, boxes=()) for _ in images]
        shard = write_shard(
            folder, 0, zip(images, labels, strict=True), first_sample=0, seed=7, key=like.provenance.key
        )
        manifest = like.model_copy(
            update={
                "image_size": ImageSize.square(side),
                "shards": (shard,),
                "statistics": LabelStatistics.of(labels, like.teacher.class_names),
            }
        )
        write_text(folder / MANIFEST, manifest.to_json())
        return manifest

    return write
