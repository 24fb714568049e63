"""What convolutions and matrix products compute in, and which of it the product offers."""

from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import torch

from schemas.synth_config import Precision


class Arithmetic(StrEnum):
    """Of convolutions and matrix products."""

    FP32 = "fp32"
    """IEEE float32 throughout."""
    TF32 = "tf32"
    """Tensor cores on float32 tensors. PyTorch turns it on for convolutions: `precision: float32` of synth has it."""
    BF16 = "bf16"
    """`precision: bfloat16` of synth; autocast."""

    @property
    def precision(self) -> Precision:
        """The setting of synth."""
        return Precision.BFLOAT16 if self is Arithmetic.BF16 else Precision.FLOAT32

    @property
    def dtype(self) -> torch.dtype:
        """Of the tensors that tensor cores take."""
        return torch.bfloat16 if self is Arithmetic.BF16 else torch.float32


@contextmanager
def computing_in(arithmetic: Arithmetic) -> Iterator[None]:
    """PyTorch's switches for float32 tensors; bfloat16 is chosen by autocast, and has no switch here."""
    places: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]
    before = [place.fp32_precision for place in places]
    for place in places:
        place.fp32_precision = "ieee" if arithmetic is Arithmetic.FP32 else "tf32"
    try:
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.fp32_precision = value
