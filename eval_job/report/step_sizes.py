"""The step sizes of a student, layer by layer, read from its weights file without torch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from schemas.errors import VerificationError
from schemas.student import WEIGHTS, StudentManifest
from stages.storage import file_digest


@dataclass(frozen=True)
class LayerSteps:
    """Step sizes of one quantized layer; weights have one per output channel or one in all."""

    name: str
    weight_bits: int
    input_bits: int
    weight_low: float
    weight_median: float
    weight_high: float
    input: float


def layer_steps(folder: Path, manifest: StudentManifest) -> list[LayerSteps]:
    """The step sizes of every quantized layer, in the order of the manifest; products of activations are left out.

    Raises:
        VerificationError: the weights file does not match its digest, or lacks a step size.
    """
    path = folder / WEIGHTS
    if not path.is_file() or file_digest(path) != manifest.weights_sha256:
        raise VerificationError(f"{path}: content does not match its digest; copy it again or run qat again")
    bits = {record.name: record.bits for record in manifest.quantizers}
    layers = [name.removesuffix(".weight") for name in bits if name.endswith(".weight")]
    try:
        with safe_open(path, framework="numpy") as tensors:
            return [
                _steps(
                    name,
                    bits[f"{name}.weight"],
                    bits[f"{name}.input"],
                    np.abs(tensors.get_tensor(f"{name}.weight_quantizer.step_size")),
                    np.abs(tensors.get_tensor(f"{name}.input_quantizer.step_size")),
                )
                for name in layers
            ]
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise VerificationError(f"{path}: does not hold the quantizers that its manifest names ({error})") from error


def _steps(name: str, weight_bits: int, input_bits: int, weight: np.ndarray, steps: np.ndarray) -> LayerSteps:
    if any(each.size == 0 or not np.isfinite(each).all() for each in (weight, steps)):
        raise VerificationError(f"{name}: has step sizes that are no finite numbers; run qat again")
    return LayerSteps(
        name=name,
        weight_bits=weight_bits,
        input_bits=input_bits,
        weight_low=float(weight.min()),
        weight_median=float(np.median(weight)),
        weight_high=float(weight.max()),
        input=float(steps.max()),
    )
