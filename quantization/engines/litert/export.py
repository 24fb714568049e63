"""A student as a LiteRT (TFLite) file that carries its own integers, step sizes and zero points.

The converter runs in an environment of its own, on a folder of plain files: the float network, the student's integers
and step sizes, and images.
"""

import json
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detectors.protocol import Detector
from quantization.convert import quantized_layers, quantized_matmuls
from quantization.engines.litert.environment import run_module
from quantization.engines.litert.interpreter import BOXES, METADATA, PIXELS, SHARES
from quantization.engines.metadata import own_metadata
from quantization.engines.target import Images
from quantization.layers import QuantizedLayer
from schemas.errors import ConfigError
from schemas.image_size import ImageSize
from schemas.labels import ShapeKind
from schemas.student import ExportForm, StudentManifest
from stages.storage import atomic_path

CALIBRATION_IMAGES = 16
"""At most this many images give the ranges of what the student leaves in float."""
NO_SHAPES = (
    "LiteRT files are made of heads that see boxes alone so far, not of masks, keypoints or turned boxes; name other "
    "targets"
)
"""Why a student has no file."""
BITS = 8
"""Of activations, the only ones that LiteRT's fast kernels have with INT8 and INT4 weights."""


class Scaled(nn.Module):
    """A network whose boxes are shares of the image's sides, as Ultralytics' LiteRT files have them.

    Args:
        network: gives `(B, 4 + C, A)`, boxes in pixels.
        size: of the image.
    """

    def __init__(self, network: nn.Module, size: ImageSize) -> None:
        super().__init__()
        self.network = network
        # One number where one is enough: a division by a tensor is another operation in the file.
        self.sides = size.height if size.is_square else torch.tensor(size.corners, dtype=torch.float32)[:, None]

    def forward(self, images: Tensor) -> Tensor:
        """The same outputs, boxes in [0, 1]."""
        outputs = self.network(images)
        return torch.cat((outputs[:, :4] / self.sides, outputs[:, 4:]), dim=1)


def export_litert(
    student: Detector, manifest: StudentManifest, path: Path, images: Images, form: ExportForm
) -> dict[str, str]:
    """Write a student as a LiteRT file with float input and output, `(1, 3, H, W)` to `(1, 4 + C, A)`.

    Inputs are as the network takes them; boxes come out as shares of the image's sides, centre and size, so that
    `ultralytics.YOLO("model.tflite")` reads the file. End-to-end heads give their rows in pixels.

    Args:
        student: as its manifest describes it.
        manifest: of the student.
        path: the file.
        images: of the calibration set, `(N, 3, H, W)`; the first ones give the ranges of what the student leaves in
            float and LiteRT computes in integers.
        form: H and W, and whether weights of up to 4 bits are stored as INT4: half the bytes, and without fast kernels
            on x86.

    Returns:
        Versions of the converter and the interpreter, by name.

    Raises:
        ConfigError: the converter's environment is missing, or LiteRT cannot express the student.
        VerificationError: the converter failed.
    """
    size = form.image_size
    _check(student, size)
    with tempfile.TemporaryDirectory(prefix="zsq-litert-") as temporary:
        folder = Path(temporary)
        _write_job(student, folder, images, size)
        said = run_module("converter", str(folder), *(["--int4"] if form.int4 else []))
        metadata = (
            student.deployment_metadata(size)
            | {
                "args": str({"batch": 1, "dynamic": False, "nms": False}),
                BOXES: PIXELS if student.end_to_end else SHARES,
            }
            | own_metadata(manifest, form.target)
        )
        with zipfile.ZipFile(folder / "model.tflite", "a", zipfile.ZIP_DEFLATED) as archive:
            entry = zipfile.ZipInfo(METADATA)  # its time is fixed: equal students give equal files
            archive.writestr(entry, json.dumps(metadata))
        with atomic_path(path) as unfinished:
            unfinished.write_bytes((folder / "model.tflite").read_bytes())
    versions: dict[str, str] = json.loads(said.splitlines()[-1])["versions"]
    return versions


def _check(student: Detector, image_size: ImageSize) -> None:
    """Raise `ConfigError` where LiteRT cannot express the student."""
    if student.export_obstacle is not None:
        raise ConfigError(f"this student has no LiteRT file: {student.export_obstacle}")
    if student.sees is not ShapeKind.BOX:
        raise ConfigError(NO_SHAPES)
    if image_size.height % student.identity.stride or image_size.width % student.identity.stride:
        raise ConfigError(
            f"image_size: got {image_size.plain()}, the network takes multiples of {student.identity.stride}"
        )
    if products := quantized_matmuls(student.network):
        raise ConfigError(f"LiteRT files have no quantized products of activations yet; {next(iter(products))} is one")
    for name, layer in quantized_layers(student.network).items():
        if layer.input_quantizer.spec.bits != BITS:
            raise ConfigError(
                f"LiteRT's activations have {BITS} bits, the input of {name} has {layer.input_quantizer.spec.bits}; "
                f"train with activation_bits: {BITS}"
            )


@torch.no_grad()
def _write_job(student: Detector, folder: Path, images: Images, image_size: ImageSize) -> None:
    """What the converter reads: `network.pt2`, `layers.npz` and `images.npy`."""
    network = student.deployed().eval()
    arrays: dict[str, NDArray[Any]] = {}
    for name, layer in quantized_layers(network).items():
        arrays |= {f"{name}.{key}": values for key, values in _layer_arrays(layer).items()}
        layer.weight.copy_(layer.weight_quantizer(layer.weight))
        layer.enabled = False
    np.savez(folder / "layers.npz", allow_pickle=False, **arrays)
    np.save(folder / "images.npy", images[:CALIBRATION_IMAGES])
    if not student.end_to_end:
        network = Scaled(network, image_size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of anchors, which heads keep as plain attributes
        example = torch.zeros(1, 3, image_size.height, image_size.width)
        program = torch.export.export(network.eval(), (example,), strict=False)
    torch.export.save(program, folder / "network.pt2")


@torch.no_grad()
def _layer_arrays(layer: QuantizedLayer) -> dict[str, NDArray[Any]]:
    """A layer's integers `(outputs, ...)` int8 and steps `(outputs,)`; its input's step and zero point, weight bits."""
    quantizer, entering = layer.weight_quantizer, layer.input_quantizer
    steps = quantizer.effective_step_size.expand(len(layer.weight))
    integers = quantizer(layer.weight) / steps.reshape(-1, *[1] * (layer.weight.dim() - 1))
    lowest, _ = entering.spec.range
    zero_point = int(entering.integer_zero_point) - (lowest + 2 ** (BITS - 1))
    step = float(entering.effective_step_size)
    return {
        "integers": integers.round().to(torch.int8).numpy(),
        "steps": steps.contiguous().numpy(),
        "input": np.array([step, zero_point, quantizer.spec.bits]),
    }
