"""Traces of networks, each made once for all workers: PyTorch takes ten seconds for one of these tests' students."""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import pytest
from torch import nn

from quantization.onnx import export

PLAIN = (bool, int, float, str, tuple, list, type(None))
"""Kinds of attributes that decide what a module computes, beside its parts and tensors."""


def digest_of(network: nn.Module) -> str:
    """The same for networks of the same modules, attributes and tensors, which have the same trace."""
    found = hashlib.sha256()
    for name, module in network.named_modules():
        plain = {key: value for key, value in vars(module).items() if isinstance(value, PLAIN)}
        found.update(repr((name, type(module).__qualname__, sorted(plain.items()))).encode())
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        found.update(repr((name, tensor.dtype, tuple(tensor.shape))).encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


@contextmanager
def traced_once(folder: Path) -> Iterator[None]:
    """Inside the block a network whose trace lies in `folder` is not traced again."""
    trace: Callable[..., onnx.ModelProto] = export.to_onnx

    def look_up(network: nn.Module, stride: int, metadata: dict[str, str], *outputs: Any) -> onnx.ModelProto:
        path = folder / f"{digest_of(network)}-{stride}.onnx"
        if not path.exists():
            own = path.with_suffix(f".{os.getpid()}")
            own.write_bytes(trace(network, stride, {}, *outputs).SerializeToString())
            own.rename(path)
        model = onnx.load(path)
        onnx.helper.set_model_props(model, metadata)
        return model

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "to_onnx", look_up)
        yield
