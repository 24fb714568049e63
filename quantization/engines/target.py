"""What an engine must say to be a target that students are exported for."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import onnx
from numpy.typing import NDArray

from schemas.eval_config import EngineName
from schemas.student import QuantizerRecord
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

    def obstacle(self, quantizers: Sequence[QuantizerRecord]) -> str | None:
        """Why the engine cannot express these quantizers, and which setting to change; None where it can."""
        ...

    def place(self, model: onnx.ModelProto, images: Images | None) -> onnx.ModelProto:
        """A model with Q/DQ on the inputs of its layers, with Q/DQ as the engine wants it; the argument stays.

        Args:
            model: as `quantization.onnx.graph.to_onnx` makes it of a student's network.
            images: `(B, 3, H, W)` of the calibration set; None where the engine needs none.
        """
        ...

    def census(self, path: Path) -> Census:
        """What the engine computes in integers and what in float, of a finished file.

        Raises:
            VerificationError: the file breaks a rule of the engine.
        """
        ...


def engine_target(target: Target) -> EngineTarget:
    """The engine of a target."""
    engine: EngineTarget = importlib.import_module(f"quantization.engines.{target.value}").ENGINE
    return engine
