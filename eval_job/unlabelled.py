"""Images without labels, on which agreement with the full-precision detector is measured. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from label_formats.images import ValidationImage, files_digest, find_images
from schemas.calibration_set import MANIFEST, CalibrationSetManifest
from schemas.errors import InputError
from schemas.student import StudentManifest
from stages.pixels import Pixels
from stages.shards import open_calibration_set


class UnlabelledSource(Protocol):
    """Images of some origin, found but not read yet."""

    @property
    def name(self) -> str:
        """Where they are."""
        ...

    @property
    def format(self) -> Literal["photos", "synthetic"]:
        """What they are."""
        ...

    def digest(self) -> str:
        """sha256 (hex) over the images, in order."""
        ...

    def images(self) -> list[ValidationImage]:
        """The images, without boxes; at least one."""
        ...


@dataclass(frozen=True)
class Photographs:
    """Implements `UnlabelledSource` for a folder of image files, those in sub-folders included."""

    folder: Path
    format: Literal["photos", "synthetic"] = "photos"

    @property
    def name(self) -> str:
        """See `UnlabelledSource`."""
        return str(self.folder)

    @cached_property
    def files(self) -> list[Path]:
        """The image files, in order.

        Raises:
            InputError: there are none.
        """
        found = find_images(self.folder).files
        if not found:
            raise InputError(f"photos {self.folder}: no image in this folder; name a folder of photographs")
        return found

    def digest(self) -> str:
        """See `UnlabelledSource`."""
        return files_digest(self.files)

    def images(self) -> list[ValidationImage]:
        """See `UnlabelledSource`.

        Raises:
            InputError: a file is not an image.
        """
        images = [_unlabelled(number, path) for number, path in enumerate(self.files, start=1)]
        for image in images:
            image.size()
        return images


@dataclass(frozen=True)
class HeldBack:
    """Implements `UnlabelledSource` for the images that `synth` held back of a calibration set.

    The labels that they were made for are left aside: what counts is what the full-precision detector sees in them.
    """

    folder: Path
    format: Literal["photos", "synthetic"] = "synthetic"

    @property
    def name(self) -> str:
        """See `UnlabelledSource`."""
        return str(self.folder)

    def digest(self) -> str:
        """See `UnlabelledSource`: that of the set."""
        return CalibrationSetManifest.read(self.folder / MANIFEST).digest

    def images(self) -> list[ValidationImage]:
        """See `UnlabelledSource`.

        Raises:
            VerificationError: a shard does not match its digest.
        """
        samples = open_calibration_set(self.folder).samples
        return [_unlabelled(number, sample.image()) for number, sample in enumerate(samples, start=1)]


def check_held_back(folder: Path, students: Sequence[StudentManifest], teacher_sha256: str, allow_other: bool) -> None:
    """Check that a set of held-back images is there, of this teacher, and that no student was made with it.

    Raises:
        InputError: it is not so.
        VerificationError: its manifest is not valid.
    """
    if not (folder / MANIFEST).exists():
        raise InputError(
            f"{folder}: no finished set of held-back images here, and data names no labelled images: make it (synth, "
            "held_back: 16), or set data to labelled images or photos to a folder of photographs"
        )
    manifest = CalibrationSetManifest.read(folder / MANIFEST)
    manifest.check_made_from(teacher_sha256, folder, allow_other=allow_other)
    if manifest.digest in {student.calibration_set.digest for student in students}:
        raise InputError(f"{folder}: a student was made with these images, so they are not held back; name others")


def _unlabelled(number: int, source: Path | Pixels) -> ValidationImage:
    return ValidationImage(
        id=number,
        source=source,
        boxes=np.zeros((0, 4), dtype=np.float32),
        classes=np.zeros(0, dtype=np.int64),
        crowd=np.zeros(0, dtype=np.bool_),
    )
