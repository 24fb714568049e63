"""`python -m converter FOLDER`: `network.pt2`, `layers.npz` and `images.npy` there become `model.tflite`."""

import argparse
import contextlib
import io
import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from .emission import Emission
from .layers import find_layers, read_layers
from .model import Model
from .placement import place
from .ranges import Curve, calibrate, identity, silu


def main() -> None:
    """Convert, or exit with one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int4", action="store_true", help="store weights of up to 4 bits as INT4")
    parser.add_argument("--threads", type=int, default=1, help="to calibrate with")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    images = np.load(folder / "images.npy", allow_pickle=False)
    content = to_litert(folder / "network.pt2", images.shape[1:])
    content = quantized(content, folder / "layers.npz", images, arguments)
    (folder / "model.tflite").write_bytes(content)


def to_litert(program: Path, shape: tuple[int, ...]) -> bytes:
    """A float LiteRT file of an exported PyTorch program that takes one image of a shape."""
    import litert_torch

    with contextlib.redirect_stdout(io.StringIO()):
        network = torch.export.load(program).module()
        converted = litert_torch.convert(network, (torch.zeros(1, *shape),))
    path = program.with_suffix(".tflite")
    converted.export(str(path))
    return path.read_bytes()


def quantized(content: bytes, layers: Path, images: NDArray[np.float32], arguments: argparse.Namespace) -> bytes:
    """The same network with a student's integers and step sizes."""
    model = Model(content)
    with np.load(layers, allow_pickle=False) as arrays:
        found = find_layers(model, read_layers(arrays))
    placement = place(model, found)
    curves = {tensor: curve_of(model, tensor) for tensor in placement.measured()}
    ranges = calibrate(content, images, curves, arguments.threads)
    emission = Emission(model, found, placement, ranges, arguments.int4)
    emission.run()
    versions = {name: version(name) for name in ("litert-torch", "ai-edge-litert")}
    counts = {"layers": len(found), "calibrated": len(ranges), "clipped": emission.clipped}
    print(json.dumps(counts | {"versions": versions}))
    return model.write()


def curve_of(model: Model, tensor: int) -> Curve:
    """SiLU, where a tensor is read by a sigmoid and by its product with it, else the identity."""
    readers = {model.name(operator) for operator in model.operators if tensor in operator.inputs}
    return silu if readers == {"LOGISTIC", "MUL"} else identity


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
