"""Weights under MMDetection's names and in its order become the same function here, computed from them as it does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.registry import load_teacher
from detectors.torchvision.mmdetection import (
    converted,
    merged_as_torchvision,
    published_name,
    relative_positions,
    torchvision_name,
)
from detectors.torchvision.models import PUBLISHED, Architecture, Backbone, build_network
from schemas.errors import InputError
from schemas.teacher import TeacherSource

CLASSES = 80


def published_state(backbone: Backbone, heads_only: bool = False) -> dict[str, tuple[int, ...]]:
    """Names and shapes of MMDetection's `mask-rcnn_swin-*-p4-w7_fpn` checkpoints, from its module definitions."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, *shape: int, bias: bool = True) -> None:
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    width, side = backbone.width, backbone.window
    layer("backbone.patch_embed.projection", width, 3, 4, 4)
    layer("backbone.patch_embed.norm", width)
    for stage, (depth, heads) in enumerate(zip(backbone.blocks, backbone.heads, strict=True)):
        channels = width * 2**stage
        for block in range(depth):
            name = f"backbone.stages.{stage}.blocks.{block}"
            layer(f"{name}.norm1", channels)
            shapes[f"{name}.attn.w_msa.relative_position_bias_table"] = ((2 * side - 1) ** 2, heads)
            shapes[f"{name}.attn.w_msa.relative_position_index"] = (side**2, side**2)
            layer(f"{name}.attn.w_msa.qkv", 3 * channels, channels)
            layer(f"{name}.attn.w_msa.proj", channels, channels)
            layer(f"{name}.norm2", channels)
            layer(f"{name}.ffn.layers.0.0", 4 * channels, channels)
            layer(f"{name}.ffn.layers.1", channels, 4 * channels)
        if stage < 3:
            layer(f"backbone.stages.{stage}.downsample.norm", 4 * channels)
            layer(f"backbone.stages.{stage}.downsample.reduction", 2 * channels, 4 * channels, bias=False)
        layer(f"backbone.norm{stage}", channels)
        layer(f"neck.lateral_convs.{stage}.conv", 256, channels, 1, 1)
        layer(f"neck.fpn_convs.{stage}.conv", 256, 256, 3, 3)
    layer("rpn_head.rpn_conv", 256, 256, 3, 3)
    layer("rpn_head.rpn_cls", 3, 256, 1, 1)
    layer("rpn_head.rpn_reg", 12, 256, 1, 1)
    layer("roi_head.bbox_head.fc_cls", CLASSES + 1, 1024)
    layer("roi_head.bbox_head.fc_reg", 4 * CLASSES, 1024)
    layer("roi_head.bbox_head.shared_fcs.0", 1024, 256 * 49)
    layer("roi_head.bbox_head.shared_fcs.1", 1024, 1024)
    for number in range(4):
        layer(f"roi_head.mask_head.convs.{number}.conv", 256, 256, 3, 3)
    layer("roi_head.mask_head.upsample", 256, 256, 2, 2)
    layer("roi_head.mask_head.conv_logits", CLASSES, 256, 1, 1)
    return shapes


def doubled_steps(side: int) -> Tensor:
    """Relative positions as MMDetection counts them: a sum of a row and a column of steps, flipped."""
    steps = (torch.arange(side)[:, None] * (2 * side - 1) + torch.arange(side)).flatten()
    return (steps[:, None] + steps[None]).flip(1)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """Random weights of Swin-T in MMDetection's layout."""
    generator = torch.Generator().manual_seed(0)
    backbone = PUBLISHED["maskrcnn_swin_t_fpn"].backbone
    assert backbone is not None
    return {
        name: doubled_steps(backbone.window)
        if name.endswith("_index")
        else torch.randn(shape, generator=generator) * (0.5 / max(1, shape[-1])) ** 0.5
        for name, shape in published_state(backbone).items()
    }


def test_relative_positions_are_counted_alike() -> None:
    assert torch.equal(doubled_steps(7).flatten(), relative_positions(7))


@pytest.mark.parametrize("name", ["maskrcnn_swin_t_fpn", "maskrcnn_swin_s_fpn"])
def test_every_published_name_and_shape_fits_the_network(name: str) -> None:
    backbone = PUBLISHED[name].backbone
    assert backbone is not None
    given = {key: torch.zeros(shape) for key, shape in published_state(backbone).items()}
    given |= {key: doubled_steps(7) for key in given if key.endswith("_index")}
    assert published_name(given) == name
    with torch.device("meta"):
        network = build_network(Architecture(model=name, outputs=CLASSES + 1, labels=tuple(range(1, CLASSES + 1))))
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert {key: tuple(value.shape) for key, value in converted(given).items()} == expected


def test_patch_merging_computes_what_unfolding_computes() -> None:
    torch.manual_seed(0)
    channels = 6
    norm, reduction = torch.nn.LayerNorm(4 * channels), torch.nn.Linear(4 * channels, 2 * channels, bias=False)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 10, channels)
    unfolded = F.unfold(x.permute(0, 3, 1, 2), kernel_size=2, stride=2).transpose(1, 2)  # MMDetection's PatchMerging
    expected = reduction(norm(unfolded)).view(2, 4, 5, 2 * channels)

    from torchvision.models.swin_transformer import PatchMerging

    mine = PatchMerging(channels)
    mine.norm.load_state_dict({key: merged_as_torchvision(value) for key, value in norm.state_dict().items()})
    mine.reduction.weight.data = merged_as_torchvision(reduction.weight.data)
    torch.testing.assert_close(mine(x), expected)
    mine.reduction.weight.data = reduction.weight.data
    assert not torch.allclose(mine(x), expected), "without the new order it is another function"


def test_background_goes_from_last_to_first_and_has_a_box_and_a_mask(state: dict[str, Tensor]) -> None:
    made = converted(state)
    scores, given = made["roi_heads.box_predictor.cls_score.weight"], state["roi_head.bbox_head.fc_cls.weight"]
    assert torch.equal(scores[0], given[CLASSES])
    assert torch.equal(scores[1:], given[:CLASSES])
    boxes = made["roi_heads.box_predictor.bbox_pred.weight"]
    assert boxes.shape[0] == 4 * (CLASSES + 1)
    assert torch.equal(boxes[4:], state["roi_head.bbox_head.fc_reg.weight"])
    assert torch.equal(
        made["roi_heads.mask_predictor.mask_fcn_logits.weight"][1:], state["roi_head.mask_head.conv_logits.weight"]
    )


def attention(state: dict[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    """A block's attention over `(1, 7, 7, C)`, one window, from weights as MMDetection names them."""
    tokens = F.linear(x.reshape(49, -1), state[f"{name}.qkv.weight"], state[f"{name}.qkv.bias"])
    query, key, value = tokens.reshape(49, 3, heads, -1).permute(1, 2, 0, 3)
    bias = state[f"{name}.relative_position_bias_table"][state[f"{name}.relative_position_index"].flatten()]
    scores = query @ key.transpose(1, 2) / query.shape[-1] ** 0.5 + bias.view(49, 49, heads).permute(2, 0, 1)
    mixed = (scores.softmax(dim=2) @ value).transpose(0, 1).reshape(49, -1)
    return F.linear(mixed, state[f"{name}.proj.weight"], state[f"{name}.proj.bias"]).view(1, 7, 7, -1)


def test_a_block_computes_what_it_computes_under_its_old_names(state: dict[str, Tensor]) -> None:
    network = build_network(
        Architecture(model="maskrcnn_swin_t_fpn", outputs=CLASSES + 1, labels=tuple(range(1, CLASSES + 1)))
    )
    network.load_state_dict(converted(state))
    x = torch.randn(1, 7, 7, 192, generator=torch.Generator().manual_seed(1))
    name = "backbone.stages.1.blocks.1"

    def normalised(value: Tensor, which: str) -> Tensor:
        return F.layer_norm(value, (192,), state[f"{name}.{which}.weight"], state[f"{name}.{which}.bias"])

    attended = x + attention(state, f"{name}.attn.w_msa", normalised(x, "norm1"), heads=6)
    hidden = F.gelu(
        F.linear(
            normalised(attended, "norm2"), state[f"{name}.ffn.layers.0.0.weight"], state[f"{name}.ffn.layers.0.0.bias"]
        )
    )
    expected = attended + F.linear(hidden, state[f"{name}.ffn.layers.1.weight"], state[f"{name}.ffn.layers.1.bias"])
    with torch.no_grad():
        torch.testing.assert_close(network.backbone.body[3][1](x), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["backbone.stages.0.blocks.0.attn.w_msa.qkv.weight", "neck.fpn_convs.3.conv.bias", "rpn_head.rpn_reg.bias"]
)
def test_build_by_hand(name: str) -> None:
    assert (
        torchvision_name(name)
        == {
            "backbone.stages.0.blocks.0.attn.w_msa.qkv.weight": "backbone.body.1.0.attn.qkv.weight",
            "neck.fpn_convs.3.conv.bias": "backbone.fpn.layer_blocks.3.0.bias",
            "rpn_head.rpn_reg.bias": "rpn.head.bbox_pred.bias",
        }[name]
    )


def test_a_foreign_name_and_a_foreign_depth_are_refused(state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="no parameter of MMDetection"):
        converted({"backbone.stages.0.blocks.0.norm1.weight": torch.ones(1), "mask_iou_head.weight": torch.ones(1)})
    with pytest.raises(InputError, match="1 blocks"):
        published_name({"backbone.stages.2.blocks.0.norm1.weight": torch.ones(1)})


def test_a_checkpoint_in_mmdetections_layout_loads_and_predicts(
    state: dict[str, Tensor], save_checkpoint: Callable[[Any], Path]
) -> None:
    names = tuple(f"class {index}" for index in range(CLASSES))
    path = save_checkpoint({"state_dict": state, "meta": {"dataset_meta": {"CLASSES": names}}})
    teacher = load_teacher(TeacherSource(path=str(path), family="torchvision"), torch.device("cpu"))
    assert teacher.identity.class_names == names
    found: list[Detections] = teacher.predict(
        torch.rand(1, 3, 64, 64), Suppression(1e-4, max_detections=10, multi_label=False)
    )
    assert 0 < len(found[0]) <= 10
