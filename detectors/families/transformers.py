"""Detectors of Hugging Face's transformers package. Their checkpoints are folders, which say what they are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectors.families.adapter import FamilyAdapter
from schemas.teacher import TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch


class Transformers(FamilyAdapter):
    """See `detectors.transformers`."""

    def load(self, path: Path, source: TeacherSource) -> Detector:
        """See `FamilyAdapter`; `path` is the weights file of a saved model."""
        from detectors.transformers import checkpoint

        return checkpoint.load(path, source)

    def build(self, identity: TeacherIdentity) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.transformers import checkpoint

        return checkpoint.build(identity)

    def numbers(self, identity: TeacherIdentity) -> int | None:
        """See `FamilyAdapter`."""
        from detectors.transformers.checkpoint import stored_numbers
        from detectors.transformers.library import Architecture

        return stored_numbers(Architecture.of(identity.architecture).outline(len(identity.class_names)))


FAMILY = Transformers()
