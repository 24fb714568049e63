"""Exported models as detectors: the engine computes, the family letterboxes and suppresses."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from quantization.engines.target import engine_target
from quantization.onnx.engine import ONNX_ENGINES, Engine, engine_title, how_to_install
from quantization.onnx.export import export_full_precision, verify_onnx
from schemas.eval_config import EngineName
from schemas.image_size import ImageSize
from schemas.student import MANIFEST as STUDENT
from schemas.student import OnnxManifest, StudentManifest
from schemas.target import Target, exported_path
from stages.storage import file_digest

SINGLE, HALF = "teacher-fp32.onnx", "teacher-fp16.onnx"
"""Files of the exported teacher in the evaluation's folder."""


@dataclass(frozen=True)
class ExportedStudent:
    """Where an exported model came from: the name of the student's row, its manifest, and the file's own."""

    name: str
    student: StudentManifest
    file: OnnxManifest


@dataclass(frozen=True)
class OnnxFile:
    """An exported model to evaluate; an ONNX model or another engine's own format.

    Attributes:
        name: of its row in the table.
        path: the file.
        sha256: of the file, verified.
        engine: that scores it; None for the teacher, which is timed in every engine that reads ONNX models.
        source: where it came from; None for the teacher.
    """

    name: str
    path: Path
    sha256: str
    engine: EngineName | None = None
    source: ExportedStudent | None = None

    def timed_in(self, engine: EngineName) -> bool:
        """Whether the file is timed in an engine."""
        return self.engine == engine or (self.engine is None and engine in ONNX_ENGINES)

    @property
    def takes_one_image(self) -> bool:
        """Whether it takes one image of one size alone."""
        return self.source is not None and self.source.file.fixed_size

    def described(self, providers: Sequence[str]) -> dict[str, Any]:
        """What a row of the report says of the file.

        Args:
            providers: ONNX Runtime's execution providers, where that engine runs it.
        """
        about: dict[str, Any] = {"file_bytes": self.path.stat().st_size}
        about["engine"] = engine_title(self.engine or "onnxruntime", providers)
        if self.source is not None:
            manifest = self.source.file
            about |= {"student": self.source.name, "target": manifest.target, "census": manifest.census}
        return about


class OnnxDetector:
    """Implements `evaluate.Predictor` with an exported model.

    Args:
        engine: runs the model.
        family: a detector of the same family and head; its network is not used.
    """

    def __init__(self, engine: Engine, family: Detector) -> None:
        self.identity = family.identity
        self._engine = engine
        self._family = family

    def predict(self, images: Tensor, limits: Suppression) -> list[Detections]:
        """See `Detector`."""
        outputs = self._engine(images.cpu().numpy())
        if isinstance(outputs, tuple):
            return self._family.suppress(tuple(map(torch.from_numpy, outputs)), limits)
        return self._family.suppress(torch.from_numpy(outputs), limits)

    def letterbox(self, image: NDArray[np.uint8], size: ImageSize) -> tuple[NDArray[np.uint8], float, tuple[int, int]]:
        """See `Detector`."""
        return self._family.letterbox(image, size)


def exported_students(students: Mapping[str, Path]) -> Iterator[OnnxFile]:
    """The verified files of each student, one for each target that it was exported for.

    Args:
        students: folder of each student by the name of its row.

    Raises:
        VerificationError: a file does not match its manifest, or the manifest not its student.
    """
    for name, folder in students.items():
        for target in Target:
            path = exported_path(folder, target)
            if not path.exists():
                continue
            student = StudentManifest.read(folder / STUDENT)
            manifest = verify_onnx(path, student)
            source = ExportedStudent(name, student, manifest)
            yield OnnxFile(f"{name}, {target.value}", path, manifest.sha256, engine_target(target).runs_in, source)


def why_left_out(file: OnnxFile, image_size: ImageSize, installed: Collection[EngineName]) -> str | None:
    """Why a student's file cannot be evaluated at a size, with these engines; None where it can."""
    if file.engine is not None and file.engine not in installed:
        return f"{how_to_install(file.engine)} to run it"
    described = file.source.file if file.source else None
    if described is not None and described.fixed_size and described.image_size != image_size:
        return (
            f"it takes images of {described.image_size} px, not {image_size}; export it with --image-size {image_size}"
        )
    return None


def exported_teacher(teacher: Detector, name: str, image_size: ImageSize, folder: Path) -> list[OnnxFile]:
    """The teacher in single and half precision, exported into `folder`."""
    single, half = folder / SINGLE, folder / HALF
    export_full_precision(teacher, image_size, single, half)
    return [
        OnnxFile(f"{name} ONNX FP32", single, file_digest(single)),
        OnnxFile(f"{name} ONNX FP16", half, file_digest(half)),
    ]
