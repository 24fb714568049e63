"""How detectors of a family come about."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING

from schemas.errors import InputError
from schemas.teacher import TeacherIdentity, TeacherSource

if TYPE_CHECKING:
    from detectors.protocol import Detector  # which loads torch


class FamilyAdapter(ABC):
    """What zsq asks of a family; its methods import what they need."""

    pickled: tuple[str, ...] = ()
    """How the names of classes begin that a checkpoint of the family holds, as `module class`."""

    @abstractmethod
    def load(self, path: Path, source: TeacherSource) -> Detector:
        """Read a checkpoint file.

        Raises:
            InputError: it is none of this family, or does not load safely.
        """

    @abstractmethod
    def build(self, identity: TeacherIdentity) -> Detector:
        """The architecture with unset weights.

        Raises:
            VerificationError: it does not build.
        """

    def numbers(self, identity: TeacherIdentity) -> int | None:
        """How many numbers the weights of an architecture are, without making them; None where nobody can tell.

        Raises:
            VerificationError: it does not build.
        """
        return None

    def download(self, name: str) -> Path:
        """Fetch the checkpoint that is published under a name.

        Raises:
            InputError: there is none of this name, or no network.
        """
        raise InputError(f"teacher {name}: no such file; check teacher.path")
