"""torchvision's detectors. Their checkpoints hold tensors alone, so no class tells them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from detectors.families.adapter import FamilyAdapter
from schemas.teacher import TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch


class Torchvision(FamilyAdapter):
    """See `detectors.torchvision`."""

    def load(self, path: Path, source: TeacherSource) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.torchvision import checkpoints

        return checkpoints.load(path, source)

    def build(self, identity: TeacherIdentity) -> Detector:
        """See `FamilyAdapter`."""
        from detectors.torchvision import build

        return build.build(identity)

    def numbers(self, identity: TeacherIdentity) -> int | None:
        """See `FamilyAdapter`."""
        from detectors.torchvision.models import Architecture, stored_numbers

        return stored_numbers(Architecture.of(identity.architecture))

    def download(self, name: str) -> Path:
        """See `FamilyAdapter`: from PyTorch's server."""
        from detectors.torchvision import checkpoints

        return checkpoints.download(name)


FAMILY = Torchvision()
