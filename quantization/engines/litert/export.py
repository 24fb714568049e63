"""A student as a LiteRT (TFLite) file that carries its own integers, step sizes and zero points.

LiteRT's converter wants another PyTorch than ours, so it runs in an environment of its own (`requirements.txt` says how
to make it), on a folder of plain files: the float network, the student's integers and step sizes, and images.
"""

import json
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.protocol import Detector
from quantization.convert import quantized_layers, quantized_matmuls
from quantization.fake_quantize import SMALLEST_STEP
from quantization.layers import QuantizedLayer
from schemas.errors import ConfigError, VerificationError
from schemas.student import StudentManifest
from stages.storage import atomic_path

ENVIRONMENT = "ZSQ_LITERT_PYTHON"
"""Environment variable that names the Python of the converter's environment."""
HERE = Path(__file__).parent
CALIBRATION_IMAGES = 16
"""At most this many images give the ranges of what the student leaves in float."""
BITS = 8
"""Of activations, the only ones that LiteRT's fast kernels have with INT8 and INT4 weights."""


class Scaled(nn.Module):
    """A network whose boxes are shares of the image's side, as Ultralytics' LiteRT files have them.

    Args:
        network: gives `(B, 4 + C, A)`, boxes in pixels.
        side: of the image, pixels.
    """

    def __init__(self, network: nn.Module, side: int) -> None:
        super().__init__()
        self.network = network
        self.side = side

    def forward(self, images: Tensor) -> Tensor:
        """The same outputs, boxes in [0, 1]."""
        outputs = self.network(images)
        return torch.cat((outputs[:, :4] / self.side, outputs[:, 4:]), dim=1)


def converter_python() -> Path | None:
    """The Python of the converter's environment, where it was made and named; None where it was not."""
    python = os.environ.get(ENVIRONMENT)
    return Path(python) if python else None


def export_litert(
    student: Detector, manifest: StudentManifest, path: Path, images: Tensor, *, image_size: int, int4: bool
) -> None:
    """Write a student as a LiteRT file with float input and output, `(1, 3, S, S)` to `(1, 4 + C, A)`.

    Inputs are as the network takes them; boxes come out as shares of the image's side, centre and size, so that
    `ultralytics.YOLO("model.tflite")` reads the file. End-to-end heads give their rows in pixels.

    Args:
        student: as its manifest describes it.
        manifest: of the student.
        path: the file.
        images: of the calibration set, `(N, 3, H, W)`; the first ones give the ranges of what the student leaves in
            float and LiteRT computes in integers.
        image_size: S, pixels.
        int4: store weights of up to 4 bits as INT4: half the bytes, and without fast kernels on x86.

    Raises:
        ConfigError: the converter's environment is missing, or LiteRT cannot express the student.
        VerificationError: the converter failed.
    """
    python = converter_python()
    if python is None:
        raise ConfigError(
            f"LiteRT files are made in an environment of their own: follow {HERE / 'requirements.txt'}, then set "
            f"{ENVIRONMENT} to its Python"
        )
    _check(student, image_size)
    with tempfile.TemporaryDirectory(prefix="zsq-litert-") as temporary:
        folder = Path(temporary)
        _write_job(student, folder, images, image_size)
        _run(python, folder, int4)
        metadata = student.deployment_metadata(image_size) | {
            "args": str({"batch": 1, "dynamic": False, "nms": False}),
            "zsq_student_sha256": manifest.weights_sha256,
            "zsq_calibration_set": manifest.calibration_set.digest,
            "zsq_bits": f"{manifest.method.value} {manifest.bits.name}",
        }
        with zipfile.ZipFile(folder / "model.tflite", "a", zipfile.ZIP_DEFLATED) as archive:
            entry = zipfile.ZipInfo("metadata.json")  # its time is fixed: equal students give equal files
            archive.writestr(entry, json.dumps(metadata))
        with atomic_path(path) as unfinished:
            unfinished.write_bytes((folder / "model.tflite").read_bytes())


def _check(student: Detector, image_size: int) -> None:
    """Raise `ConfigError` where LiteRT cannot express the student."""
    if student.export_obstacle is not None:
        raise ConfigError(f"this student has no LiteRT file: {student.export_obstacle}")
    if image_size % student.identity.stride:
        raise ConfigError(f"image_size: got {image_size}, the network takes multiples of {student.identity.stride}")
    if products := quantized_matmuls(student.network):
        raise ConfigError(f"LiteRT files have no quantized products of activations yet; {next(iter(products))} is one")
    for name, layer in quantized_layers(student.network).items():
        if layer.input_quantizer.spec.bits != BITS:
            raise ConfigError(
                f"LiteRT's activations have {BITS} bits, the input of {name} has {layer.input_quantizer.spec.bits}; "
                f"train with activation_bits: {BITS}"
            )


@torch.no_grad()
def _write_job(student: Detector, folder: Path, images: Tensor, image_size: int) -> None:
    """What the converter reads: `network.pt2`, `layers.npz` and `images.npy`."""
    network = student.deployed().eval()
    arrays: dict[str, NDArray[Any]] = {}
    for name, layer in quantized_layers(network).items():
        arrays |= {f"{name}.{key}": values for key, values in _layer_arrays(layer).items()}
        layer.weight.copy_(layer.weight_quantizer(layer.weight))
        layer.enabled = False
    np.savez(folder / "layers.npz", allow_pickle=False, **arrays)
    chosen = images[:CALIBRATION_IMAGES].cpu()
    if chosen.shape[-2:] != (image_size, image_size):
        chosen = F.interpolate(chosen, (image_size, image_size), mode="bilinear", antialias=True)
    np.save(folder / "images.npy", chosen.contiguous().numpy())
    if not student.end_to_end:
        network = Scaled(network, image_size)
    program = torch.export.export(network.eval(), (torch.zeros(1, 3, image_size, image_size),), strict=False)
    torch.export.save(program, folder / "network.pt2")


def _layer_arrays(layer: QuantizedLayer) -> dict[str, NDArray[Any]]:
    """A layer's integers `(outputs, ...)` int8 and steps `(outputs,)`; its input's step and zero point, weight bits."""
    quantizer, entering = layer.weight_quantizer, layer.input_quantizer
    steps = quantizer.step_size.clamp(min=SMALLEST_STEP).expand(len(layer.weight))
    integers = quantizer(layer.weight) / steps.reshape(-1, *[1] * (layer.weight.dim() - 1))
    lowest, highest = entering.spec.range
    zero_point = int(entering.zero_point.round().clamp(lowest, highest)) - (lowest + 2 ** (BITS - 1))
    step = float(entering.step_size.clamp(min=SMALLEST_STEP))
    return {
        "integers": integers.round().to(torch.int8).numpy(),
        "steps": steps.contiguous().numpy(),
        "input": np.array([step, zero_point, quantizer.spec.bits]),
    }


def _run(python: Path, folder: Path, int4: bool) -> None:
    """Run the converter on a folder."""
    command = [str(python), "-m", "converter", str(folder), *(["--int4"] if int4 else [])]
    environment = os.environ | {"PYTHONPATH": str(HERE), "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise ConfigError(f"{ENVIRONMENT}: {python} does not run ({error.strerror or error})") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it said nothing"]
        raise VerificationError(f"the LiteRT converter failed: {lines[-1][:300]}")
