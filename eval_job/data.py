"""Finding the validation data that a configuration names. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detectors.embedded import scenes
from label_formats.coco import CocoData
from label_formats.images import ValidationImage, ValidationSet, ValidationSource, some
from label_formats.pascal_voc import ANNOTATIONS, PICTURES, is_voc
from label_formats.voc import VocData
from label_formats.yolo import IMAGES, YoloData
from schemas.base import canonical_digest
from schemas.errors import ConfigError, InputError
from stages.storage import file_digest

EMBEDDED = "embedded"
EMBEDDED_SCENES = 256
"""Number of rendered validation scenes."""
INSTANCES = "instances.json"
"""Name of the COCO file in a folder."""


def find_validation_data(data: str, images: str | None) -> ValidationSource:
    """The validation data named by `data`: `embedded`, a COCO JSON file, or a folder in COCO, VOC or YOLO format.

    Args:
        data: see `EvalConfig.data`.
        images: image folder of a COCO file; None for `images/` beside it.

    Raises:
        InputError: there is nothing of these formats.
        ConfigError: `images` is set for data that brings its own images.
    """
    path = Path(data).expanduser()
    file = path / INSTANCES if path.is_dir() else path
    if data != EMBEDDED and file.is_file() and not (path.is_file() and is_voc(path)):
        folder = Path(images).expanduser() if images else file.parent / IMAGES
        if not folder.is_dir():
            raise InputError(f"validation images {folder}: no such folder; set images to the image folder of {file}")
        return CocoData(file, folder)
    if images:
        raise ConfigError(f"images: got {images!r}, but data is {data!r}; images goes with a COCO JSON file only")
    if data == EMBEDDED:
        return EmbeddedScenes(EMBEDDED_SCENES)
    if not path.exists():
        raise InputError(f"validation data {path}: no such file or folder; check data")
    if is_voc(path) and not (path / IMAGES).is_dir():
        return VocData(path)
    if not (path / IMAGES).is_dir():
        raise InputError(
            f"validation data {path}: a folder needs {INSTANCES} (COCO), {IMAGES}/ and labels/ (YOLO) or "
            f"{ANNOTATIONS}/ and {PICTURES}/ (Pascal VOC); check data"
        )
    return YoloData(path)


@dataclass(frozen=True)
class EmbeddedScenes:
    """Implements `ValidationSource` for the scenes that this project renders, from a seed no training used."""

    count: int

    def digest(self) -> str:
        """See `ValidationSource`: of what the scenes are made from, the source code included."""
        code = file_digest(Path(scenes.__file__))
        return canonical_digest({"scenes": code, "seed": scenes.VALIDATION_SEED, "count": self.count})

    def read(self, class_names: Sequence[str]) -> ValidationSet:
        """See `ValidationSource`; classes are matched by name.

        Raises:
            InputError: the teacher does not know the classes of the scenes.
        """
        index_of = {name: index for index, name in enumerate(class_names)}
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
