"""Sums that overflow on old processors.

Processors without VNNI instructions (x86 with AVX2 alone, or the first AVX-512) multiply unsigned activations by signed
weights in pairs, and add each pair in 16 bits, which saturate: 255 · 127 · 2 is nearly twice what they hold. Engines do
so without a word. Weights within 7 bits never overflow, which is why `BitPolicy.reduce_range` is the default.
"""

import torch

from quantization.engines.target import engine_target
from schemas.planned_bits import SAFE_BITS
from schemas.student import OnnxManifest


def sums_overflow_here() -> bool:
    """Whether this is an x86 processor without VNNI, whose engines add products of 8 bits in 16."""
    found = torch.cpu.get_capabilities()
    return found.get("architecture") == "x86_64" and not (found.get("avx_vnni") or found.get("avx512_vnni"))


def overflow_remark(described: OnnxManifest) -> str | None:
    """What to know and to do where sums of a file overflow on a processor like this one; None where they do not."""
    engine = engine_target(described.target)
    wide = sum(count for bits, count in described.weight_tensors.items() if int(bits) > SAFE_BITS)
    if described.bits.reduces_range or not (engine.overflows_without_vnni and wide and sums_overflow_here()):
        return None
    layers = sum(described.weight_tensors.values())
    return (
        "this processor has no VNNI instructions, and without them sums of 8-bit weights may overflow in "
        f"{engine.title}: {wide} of {layers} layers have such; with bits.reduce_range true none has (docs/engines.md)"
    )
