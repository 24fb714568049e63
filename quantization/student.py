"""The student's files: safetensors and a manifest, reloaded bit-exactly without the teacher's checkpoint."""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from detectors.examination import examine, oddity
from detectors.protocol import Detector
from detectors.registry import build_detector
from quantization.convert import make_student, quantizer_records
from schemas.errors import ConfigError, InputError, VerificationError
from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.student import (
    MANIFEST,
    WEIGHTS,
    CalibrationSetReference,
    StudentManifest,
    TrainingMethod,
    TrainingSummary,
)
from stages.storage import atomic_path, file_digest, remove_file, write_text


def save_student(
    student: Detector,
    folder: Path,
    *,
    method: TrainingMethod,
    config: QatConfig,
    calibration_set: CalibrationSetReference,
    training: TrainingSummary,
    provenance: Provenance,
) -> StudentManifest:
    """Write weights, then the manifest that makes them a student."""
    remove_file(folder / MANIFEST)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in student.network.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(tensors))  # save_file has errors of its own for a full disk
    manifest = StudentManifest(
        teacher=student.identity,
        method=method,
        bits=config.bits,
        quantizers=quantizer_records(student.network),
        calibration_set=calibration_set,
        qat=config.shareable(),
        training=training,
        weights_sha256=file_digest(folder / WEIGHTS),
        export_obstacle=student.export_obstacle,
        provenance=provenance,
    )
    write_text(folder / MANIFEST, manifest.to_json())
    return manifest


def load_student(folder: Path, device: torch.device) -> tuple[Detector, StudentManifest]:
    """Read a student; its outputs equal those of the one that was saved, bit by bit.

    Raises:
        InputError: there is no finished student here.
        VerificationError: weights do not match their digest or the architecture, or `examine` finds the student wrong.
    """
    if not (folder / MANIFEST).exists():
        raise InputError(f"{folder}: no finished student here ({MANIFEST} is missing); run qat, or check the path")
    manifest = StudentManifest.read(folder / MANIFEST)
    manifest = manifest.model_copy(update={"bits": manifest.recorded_bits})
    weights = folder / WEIGHTS
    if not weights.is_file() or file_digest(weights) != manifest.weights_sha256:
        raise VerificationError(f"{weights}: content does not match its digest; copy it again or run qat again")
    try:
        student = make_student(build_detector(manifest.teacher, weights.stat().st_size), manifest.bits)
    except ConfigError as error:
        raise VerificationError(f"{folder / MANIFEST}: {error}") from error
    if quantizer_records(student.network) != manifest.quantizers:
        raise VerificationError(f"{folder / MANIFEST}: its quantizers are not those of its policy {manifest.bits.name}")
    try:
        tensors = load_file(weights)
        expected = student.network.state_dict()
        if other := [
            name for name, tensor in tensors.items() if name in expected and tensor.dtype != expected[name].dtype
        ]:
            raise RuntimeError(f"{other[0]} is {tensors[other[0]].dtype}, not {expected[other[0]].dtype}")
        if broken := [f"{name} holds {odd}" for name, tensor in tensors.items() if (odd := oddity(name, tensor))]:
            raise RuntimeError(broken[0])
        if moved := [name for name, tensor in tensors.items() if _is_fixed(name, tensor, expected)]:
            raise RuntimeError(f"{moved[0]} holds other integers than the architecture has there")
        student.network.load_state_dict(tensors)
    except (SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise VerificationError(f"{weights}: does not fit the architecture its manifest names ({reason})") from error
    student.network.to(device)
    try:
        examine(student, device)
    except VerificationError as error:
        raise VerificationError(f"{folder}: the student {error}") from error
    return student, manifest


def _is_fixed(name: str, tensor: Tensor, expected: Mapping[str, Tensor]) -> bool:
    """Whether integers, as the places that attention looks up, are not those that the architecture has; or counts."""
    if tensor.is_floating_point() or name not in expected or name.endswith("num_batches_tracked"):
        return False
    return not torch.equal(tensor, expected[name].cpu())
