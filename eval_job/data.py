"""Finding the validation data that a configuration names. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.embedded import scenes
from label_formats.classes import index_by_name
from label_formats.files import some
from label_formats.find import find_labelled_images
from label_formats.images import ValidationImage, ValidationSet, ValidationSource
from schemas.base import canonical_digest
from schemas.errors import ConfigError, InputError
from stages.storage import file_digest

EMBEDDED = "embedded"
EMBEDDED_SCENES = 256
"""Number of rendered validation scenes."""


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
        return find_labelled_images(Path(data).expanduser(), images, split)
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
