"""How close each layer's output of a student is to that of the full-precision detector."""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from detectors.hooks import hooked
from detectors.protocol import Detector
from quantization.convert import quantized_layers
from schemas.layer_study import Fidelity
from schemas.qat_config import BitPolicy, Policy

HIGHEST_DB = 120.0
"""What outputs that are equal are given: single precision tells no more apart."""


@dataclass
class _Sums:
    """Running sums over the values of a layer's output."""

    theirs: float = 0.0
    mine: float = 0.0
    product: float = 0.0
    difference: float = 0.0

    def add(self, mine: Tensor, theirs: Tensor) -> None:
        a, b = mine.flatten().double(), theirs.flatten().double()
        self.theirs += float(b @ b)
        self.mine += float(a @ a)
        self.product += float(a @ b)
        self.difference += float((a - b).square().sum())

    @property
    def fidelity(self) -> Fidelity | None:
        """None where a layer gave nothing, or nothing but zeros."""
        if not self.theirs > 0:
            return None
        ratio = self.difference / self.theirs
        snr = HIGHEST_DB if ratio <= 0 else min(max(-10 * math.log10(ratio), -HIGHEST_DB), HIGHEST_DB)
        length = math.sqrt(self.theirs * self.mine)
        cosine = self.product / length if length > 0 else 0.0
        return Fidelity(snr_db=snr, cosine=min(max(cosine, -1.0), 1.0))


def reference_of(teacher: Detector, bits: BitPolicy) -> Detector:
    """The full-precision detector with layers that correspond to those of a student, batch norm folded where its is."""
    reference = teacher.copy()
    if bits.policy is Policy.DEPLOY:
        reference.fold_batch_norm()
    return reference


@torch.no_grad()
def layer_fidelity(reference: Detector, student: Detector, batches: Iterable[Tensor]) -> dict[str, Fidelity]:
    """The fidelity of each quantized layer by name, in the order of the network; layers that gave nothing are left out.

    Args:
        reference: see `reference_of`.
        student: of the same detector.
        batches: network inputs, `(B, 3, H, W)` each.
    """
    sums = {name: _Sums() for name in quantized_layers(student.network)}
    for images in batches:
        with _recorded(reference, sums) as expected:
            outputs = reference.head_outputs(images)
        with _compared(student, expected, sums):
            student.head_outputs(images, like=outputs)
    found = {name: each.fidelity for name, each in sums.items()}
    return {name: fidelity for name, fidelity in found.items() if fidelity is not None}


@contextmanager
def _recorded(reference: Detector, names: Iterable[str]) -> Iterator[dict[str, list[Tensor]]]:
    """What layers give out inside the block, one entry a call."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in names}
    handles = [
        reference.network.get_submodule(name).register_forward_hook(
            # A copy: activation functions often work in place.
            lambda _module, _inputs, output, calls=calls: calls.append(output.clone())
        )
        for name, calls in outputs.items()
    ]
    with hooked(handles):
        yield outputs


@contextmanager
def _compared(student: Detector, expected: dict[str, list[Tensor]], sums: dict[str, _Sums]) -> Iterator[None]:
    """Hold each call of a layer inside the block against the recorded one."""

    def compare(name: str, output: Tensor) -> None:
        if expected[name] and expected[name][0].shape == output.shape:
            sums[name].add(output, expected[name].pop(0))

    handles = [
        layer.register_forward_hook(lambda _module, _inputs, output, name=name: compare(name, output))
        for name, layer in quantized_layers(student.network).items()
    ]
    with hooked(handles):
        yield
