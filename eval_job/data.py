"""Finding the validation data that a configuration names. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.embedded import scenes
from eval_job.unlabelled import HeldBack, Photographs, UnlabelledSource, check_held_back
from label_formats.classes import index_by_name
from label_formats.files import some
from label_formats.find import find_labelled_images
from label_formats.images import ValidationImage, ValidationSet, ValidationSource
from schemas.base import canonical_digest
from schemas.calibration_set import MANIFEST
from schemas.errors import ConfigError, InputError
from schemas.eval_config import EvalConfig
from schemas.files import expanded
from schemas.student import StudentManifest
from schemas.teacher import EMBEDDED
from stages.storage import file_digest

EMBEDDED_SCENES = 256
"""Number of rendered validation scenes."""


@dataclass(frozen=True)
class Sources:
    """What an evaluation measures on: labelled images, and images to measure agreement on; at least one of them."""

    labelled: ValidationSource | None
    unlabelled: tuple[UnlabelledSource, ...]

    def digests(self) -> dict[str, str]:
        """The digest of each by its role, labelled images first.

        Raises:
            InputError: an image cannot be read.
        """
        found = {} if self.labelled is None else {"data": self.labelled.digest()}
        roles = {"photos": "photos", "synthetic": "held back"}
        return found | {roles[source.format]: source.digest() for source in self.unlabelled}


def find_sources(
    config: EvalConfig, held_back: Path | None, students: Sequence[StudentManifest], teacher_sha256: str
) -> Sources:
    """What the configuration names: labelled images, photographs, and without labels the images held back in a set.

    Args:
        config: of the stage.
        held_back: folder of the held-back images; read where there are no labels.
        students: that are evaluated.
        teacher_sha256: digest of their teacher.

    Raises:
        InputError: what is named is not there or does not fit, or there is nothing to measure on.
        ConfigError: `images` is set for data that brings its own images.
    """
    data = config.labelled_data
    unlabelled: list[UnlabelledSource] = []
    if config.photos is not None:
        unlabelled.append(find_photographs(config.photos))
    if data is not None:
        return Sources(find_validation_data(data, config.images, config.split), tuple(unlabelled))
    if config.images is not None:
        raise ConfigError(
            f"images: got {config.images!r}, but data is not set; images goes with a COCO JSON file in data"
        )
    if held_back is not None and (not unlabelled or (held_back / MANIFEST).exists()):
        check_held_back(held_back, students, teacher_sha256, config.allow_other_teacher)
        unlabelled.append(HeldBack(held_back))
    if not unlabelled:
        raise InputError(
            "data: not set, so there is nothing to measure on; set data to labelled images, photos to a folder of "
            "photographs, or give a set of held-back images with --held-back"
        )
    return Sources(None, tuple(unlabelled))


def find_photographs(photos: str) -> Photographs:
    """The folder of photographs named by `photos`.

    Raises:
        InputError: there is no such folder.
    """
    folder = expanded(photos)
    if not folder.is_dir():
        raise InputError(f"photos {folder}: no such folder; check photos")
    return Photographs(folder)


def find_validation_data(data: str, images: str | None, split: str | None = None) -> ValidationSource:
    """The validation data named by `data`: `embedded`, or what `label_formats.find` finds.

    Args:
        data: see `EvalConfig.data`.
        images: image folder of a COCO file; None for `images/` beside it.
        split: see `EvalConfig.split`.

    Raises:
        InputError: there is nothing of these formats.
        ConfigError: `images` or `split` is set for data that it does not go with.
    """
    if data != EMBEDDED:
        return find_labelled_images(expanded(data), images, split)
    if images:
        raise ConfigError(f"images: got {images!r}, but data is {data!r}; images goes with a COCO JSON file only")
    if split is not None:
        raise ConfigError(f"split: got {split!r}, but data is {data!r}, which has no splits; leave split out")
    return EmbeddedScenes(EMBEDDED_SCENES)


@dataclass(frozen=True)
class EmbeddedScenes:
    """Implements `ValidationSource` for the scenes that this project renders, from a seed no training used."""

    count: int

    def digest(self) -> str:
        """See `ValidationSource`: of what the scenes are made from, the source code included."""
        code = file_digest(Path(scenes.__file__))
        return canonical_digest({"scenes": code, "seed": scenes.VALIDATION_SEED, "count": self.count})

    def check(self) -> None:
        """See `ValidationSource`; there is nothing to find out."""

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; classes are matched by name.

        Raises:
            InputError: the teacher does not know the classes of the scenes.
        """
        index_of = index_by_name(class_names)
        if missing := [name for name in scenes.CLASS_NAMES if name not in index_of]:
            raise InputError(
                f"validation data {EMBEDDED}: the scenes show classes that the teacher does not know "
                f"({some(missing)}); set data to labelled images of the teacher's classes"
            )
        indices = np.array([index_of[name] for name in scenes.CLASS_NAMES])
        return ValidationSet(
            name=EMBEDDED,
            format="rendered",
            images=[_rendered(number, indices) for number in range(self.count)],
            category_ids={index: index for index in indices.tolist()},
        )


def _rendered(number: int, indices: np.ndarray) -> ValidationImage:
    scene = scenes.render_scene(scenes.VALIDATION_SEED, number)
    return ValidationImage(
        id=number,
        source=scene.image,
        boxes=scene.boxes,
        classes=indices[scene.classes].astype(np.int64),
        crowd=np.zeros(len(scene.boxes), dtype=np.bool_),
    )
