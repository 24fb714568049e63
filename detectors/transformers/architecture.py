"""What a saved model says of its network, believed only within bounds, and what of it an artifact keeps.

The kept part names no paths and asks no network, so that a student can be built from its manifest alone.
"""

import math
from collections.abc import Mapping
from typing import Any

from detectors.stored import LARGEST_STRIDE, brief
from schemas.errors import VerificationError

NETWORKS = {
    "d_fine": ("DFineConfig", "DFineForObjectDetection"),
    "rt_detr": ("RTDetrConfig", "RTDetrForObjectDetection"),
    "rt_detr_v2": ("RTDetrV2Config", "RTDetrV2ForObjectDetection"),
}
"""The library's classes for each `model_type`."""
BACKBONES = {"hgnet_v2": "HGNetV2Config", "rt_detr_resnet": "RTDetrResNetConfig"}
"""The library's own backbones; others would be fetched, or are of another package."""
LARGEST_NUMBER = 16_384
"""Channels, and what else has no limit of its own. The widest published detectors have 2,048 channels."""
LARGEST = {
    "encoder_layers": 32, "decoder_layers": 32, "depths": 64, "stage_num_blocks": 16, "stage_numb_of_layers": 16,
    "lqe_layers": 16, "num_feature_levels": 16, "decoder_n_points": 16, "encoder_attention_heads": 64,
    "decoder_attention_heads": 64, "num_queries": 3000, "max_num_bins": 256, "top_prob_values": 64, "depth_mult": 8,
    "hidden_expansion": 8, "layer_scale": 8, "feat_strides": LARGEST_STRIDE, "positional_encoding_temperature": 10**6,
}  # fmt: skip
"""Numbers that multiply modules or the memory of a forward pass."""
MOST_VALUES = 8
"""Of a list: stages, levels."""
ACTIVATIONS = ("relu", "gelu", "gelu_new", "silu", "swish", "mish", "leaky_relu")
TEXTS = {
    "activation_function": ACTIVATIONS, "encoder_activation_function": ACTIVATIONS, "hidden_act": ACTIVATIONS,
    "decoder_activation_function": ACTIVATIONS, "decoder_method": ("default", "discrete"),
    "layer_type": ("basic", "bottleneck"), "out_features": ("stem", *(f"stage{stage}" for stage in range(1, 9))),
}  # fmt: skip
"""What fields that are texts may say."""
NOT_KEPT = ("backbone_config", "is_encoder_decoder", "tie_word_embeddings", "disable_custom_kernels")
"""Fields of the library's classes that do not decide what the network computes, or are looked at apart."""
FIXED = {"num_denoising": 0, "anchor_image_size": None, "freeze_backbone_batch_norms": False, "auxiliary_loss": True}
"""What stands in the place of stored values, without a change of outputs: no queries that only training has, anchors of
whatever size the image has, batch norms that fold, and a loss that counts the encoder's boxes."""


def model_type(configuration: Mapping[str, Any]) -> str:
    """Which network a description is of.

    Raises:
        VerificationError: it is none that is supported here.
    """
    found, named = configuration.get("model_type"), configuration.get("architectures")
    known = {kind: network for kind, (_, network) in NETWORKS.items()}
    listed = [name for name in named if isinstance(name, str)] if isinstance(named, list) else []
    if isinstance(found, str) and found in known and (not listed or known[found] in listed):
        return found
    what = ", ".join(listed) if listed else str(found)
    raise VerificationError(
        f"is a {what[:60]!r} of the transformers package, and those that can be quantized are "
        f"{', '.join(known.values())}"
    )


def kept_fields(configuration: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """Those fields of a description that decide what a network computes.

    Args:
        configuration: as stored; what it does not say is as the library has it by default.
        fields: names that the library's class has for them.

    Raises:
        VerificationError: one is beyond its bounds.
    """
    kept = {name: configuration[name] for name in sorted(fields) if name in configuration and name not in NOT_KEPT}
    for name, value in kept.items():
        _check(name, value, 0)
    return kept


def _check(name: str, value: object, depth: int) -> None:
    if isinstance(value, list) and depth < 2 and len(value) <= MOST_VALUES:
        for each in value:
            _check(name, each, depth + 1)
        return
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str) and value in TEXTS.get(name, ()):
        return
    if isinstance(value, int | float) and math.isfinite(value) and abs(value) <= LARGEST.get(name, LARGEST_NUMBER):
        return
    allowed = TEXTS.get(name, (f"numbers up to {LARGEST.get(name, LARGEST_NUMBER)}",))
    raise VerificationError(
        f"config.json: {name} is {brief(value)}, which no detector has ({', '.join(allowed)}); take the folder as its "
        "training wrote it"
    )


def backbone_of(configuration: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The description of the backbone; None where it is the library's default.

    Raises:
        VerificationError: it is of another package, or none that is known here.
    """
    stored = configuration.get("backbone_config")
    if configuration.get("use_timm_backbone") or (stored is None and configuration.get("backbone")):
        raise VerificationError(
            f"its backbone {brief(configuration.get('backbone'))} is of another package (timm) or published apart; "
            f"only the library's own fit: {', '.join(BACKBONES)}"
        )
    if stored is None:
        return None
    kind = stored.get("model_type") if isinstance(stored, dict) else None
    if not isinstance(stored, dict) or kind not in BACKBONES:
        raise VerificationError(f"its backbone is {brief(kind)}, and those that fit are {', '.join(BACKBONES)}")
    return stored
