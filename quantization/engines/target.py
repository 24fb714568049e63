"""What an engine must say to be a target that students are exported for."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import onnx
from numpy.typing import NDArray

from detectors.protocol import Detector
from schemas.eval_config import EngineName
from schemas.student import ExportForm, QuantizerRecord, StudentManifest
from schemas.target import Census, Target

Images = NDArray[np.float32]


class EngineTarget(Protocol):
    """An engine that files are made for. A new one is a module of its name here, and one line in `schemas.target`."""

    title: str
    """As its makers write it."""
    placement: str
    """Where Q/DQ lie and on which grids, in a line."""
    measured: str
    """What was measured of it, in a line."""
    runs_in: EngineName
    """The engine that judges the file here; where the target's own cannot run, another that computes the same."""
    needs_images: bool
    """Whether calibration images decide grids that the student does not have."""
    overflows_without_vnni: bool
    """Whether its sums of 8-bit weights overflow on x86 processors without VNNI instructions."""

    def obstacle(self, quantizers: Sequence[QuantizerRecord]) -> str | None:
        """Why no file can be made of these quantizers here, and which setting to change; None where one can."""
        ...

    def census(self, path: Path) -> Census:
        """What the engine computes in integers and what in float, of a finished file.

        Raises:
            VerificationError: the file breaks a rule of the engine.
        """
        ...


class OnnxTarget(EngineTarget, Protocol):
    """A target that reads ONNX models."""

    def place(self, model: onnx.ModelProto, images: Images | None) -> onnx.ModelProto:
        """A model with Q/DQ on the inputs of its layers, with Q/DQ as the engine wants it; the argument stays.

        Args:
            model: as `quantization.onnx.graph.to_onnx` makes it of a student's network.
            images: `(B, 3, H, W)` of the calibration set; None where the engine needs none.
        """
        ...


@runtime_checkable
class OwnFormat(EngineTarget, Protocol):
    """A target with a format of its own, whose files take one image of one size; `schemas.target` has its ending."""

    requires: str
    """What must be here to make a file, in a line."""

    def write(
        self, student: Detector, manifest: StudentManifest, images: Images, path: Path, form: ExportForm
    ) -> dict[str, str]:
        """Write a file that `runs_in` reads, atomically; versions of the tools that made it, by name.

        Args:
            student: as its manifest describes it.
            manifest: of the student.
            images: `(B, 3, H, W)` of the calibration set, at the size that is asked for.
            path: the file.
            form: what is asked of it.

        Raises:
            ConfigError: the student cannot be expressed, or a tool is missing.
            VerificationError: a tool failed.
        """
        ...


def engine_target(target: Target) -> OnnxTarget | OwnFormat:
    """The engine of a target."""
    engine: OnnxTarget | OwnFormat = importlib.import_module(f"quantization.engines.{target.value}").ENGINE
    return engine
