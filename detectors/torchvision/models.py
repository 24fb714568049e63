"""What a torchvision detector is made of, in plain values, and the network that these describe."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, roi_align
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from detectors.torchvision.swin import SwinPyramid
from schemas.base import Contract
from schemas.errors import VerificationError

MAX_OUTPUTS = 2000
"""Most classes of a network; published ones have up to 1,204 (LVIS)."""
ASPECT_RATIOS = (0.5, 1.0, 2.0)
REGION_SIDE, MASK_SIDE = 7, 14
"""Cells along a side of what is pooled from a region, for its box and for its mask."""

Channels = Annotated[int, Field(ge=8, le=2048)]


class Backbone(Contract):
    """A backbone with a feature pyramid, of four stages."""

    kind: Literal["resnet", "swin"]
    blocks: tuple[Annotated[int, Field(ge=1, le=50)], ...] = Field(min_length=4, max_length=4)
    width: Channels = Field(default=64, description="of the first stage; a ResNet of basic blocks has 64")
    heads: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(3, 6, 12, 24), min_length=4, max_length=4)
    window: int = Field(default=7, ge=2, le=32, description="side of attention windows, tokens")
    channels: Channels = Field(default=256, description="of the feature pyramid")
    representation: Channels = Field(default=1024, description="of the box head")
    anchors: tuple[Annotated[int, Field(ge=4, le=2048)], ...] = Field(
        default=(32, 64, 128, 256, 512), min_length=5, max_length=5, description="side of each level's anchors, pixels"
    )
    proposals: int = Field(default=1000, ge=10, le=2000, description="regions of an image that the second stage sees")


class Architecture(Contract):
    """A torchvision detector."""

    model: str = Field(max_length=100, description="published name, or one of `ON_BACKBONE` with its backbone")
    backbone: Backbone | None = Field(default=None, description="null: the published one")
    outputs: int = Field(ge=1, le=MAX_OUTPUTS, description="classes that the network tells apart, background included")
    labels: tuple[Annotated[int, Field(ge=0, lt=MAX_OUTPUTS)], ...] = Field(
        min_length=1, description="the network's own index of each class; it may have more (COCO's gaps, background)"
    )
    batch_norm: Literal["running", "frozen"] = "running"

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From the plain values of a `TeacherIdentity`.

        Raises:
            VerificationError: they describe no such detector.
        """
        architecture = cls.parse_plain(values)
        if architecture.model not in (PUBLISHED if architecture.backbone is None else ON_BACKBONE):
            raise VerificationError(
                f"the architecture of the teacher is {architecture.model[:40]!r}, which nobody knows"
            )
        backbone = architecture.backbone
        channels = [backbone.width * 2**stage for stage in range(4)] if backbone and backbone.kind == "swin" else []
        if backbone and any(width % heads for width, heads in zip(channels, backbone.heads, strict=False)):
            raise VerificationError("the architecture of the teacher has heads that do not divide its channels")
        if max(architecture.labels) >= architecture.outputs:
            raise VerificationError("the architecture of the teacher names classes that its network does not have")
        return architecture

    @classmethod
    def parse_plain(cls, values: dict[str, Any]) -> Self:
        """Validate, and nothing else."""
        try:
            return cls.model_validate_json(json.dumps(values))
        except (ValueError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise VerificationError(
                f"the architecture of the teacher is not a torchvision detector's ({reason})"
            ) from error


@dataclass(frozen=True)
class PublishedModel:
    """A detector that torchvision publishes, or one that MMDetection does.

    Attributes:
        build: torchvision's function; None where this project builds it on `backbone`.
        input_size: shorter side that it was trained with, pixels.
        frozen_eps: what frozen batch norms add to variances, as the published weights were trained with.
    """

    build: Callable[..., nn.Module] | None
    input_size: int
    frozen_eps: float = 1e-5
    backbone: Backbone | None = None


PUBLISHED = {
    "fasterrcnn_resnet50_fpn": PublishedModel(detection.fasterrcnn_resnet50_fpn, 800, frozen_eps=0.0),
    "fasterrcnn_resnet50_fpn_v2": PublishedModel(detection.fasterrcnn_resnet50_fpn_v2, 800),
    "fasterrcnn_mobilenet_v3_large_fpn": PublishedModel(detection.fasterrcnn_mobilenet_v3_large_fpn, 800),
    "fasterrcnn_mobilenet_v3_large_320_fpn": PublishedModel(detection.fasterrcnn_mobilenet_v3_large_320_fpn, 320),
    "maskrcnn_resnet50_fpn": PublishedModel(detection.maskrcnn_resnet50_fpn, 800, frozen_eps=0.0),
    "maskrcnn_resnet50_fpn_v2": PublishedModel(detection.maskrcnn_resnet50_fpn_v2, 800),
    "maskrcnn_swin_t_fpn": PublishedModel(None, 800, backbone=Backbone(kind="swin", blocks=(2, 2, 6, 2), width=96)),
    "maskrcnn_swin_s_fpn": PublishedModel(None, 800, backbone=Backbone(kind="swin", blocks=(2, 2, 18, 2), width=96)),
    "retinanet_resnet50_fpn": PublishedModel(detection.retinanet_resnet50_fpn, 800, frozen_eps=0.0),
    "retinanet_resnet50_fpn_v2": PublishedModel(detection.retinanet_resnet50_fpn_v2, 800),
    "fcos_resnet50_fpn": PublishedModel(detection.fcos_resnet50_fpn, 800),
    "ssd300_vgg16": PublishedModel(detection.ssd300_vgg16, 300),
    "ssdlite320_mobilenet_v3_large": PublishedModel(detection.ssdlite320_mobilenet_v3_large, 320),
}
ON_BACKBONE = ("fasterrcnn", "maskrcnn", "retinanet", "fcos")
"""Detectors of any size."""


def build_network(architecture: Architecture) -> Any:
    """The network in eval mode, weights unset.

    Raises:
        VerificationError: it does not build.
    """
    published = PUBLISHED.get(architecture.model)
    try:
        if published is not None and published.build is not None:
            network = published.build(weights=None, weights_backbone=None, num_classes=architecture.outputs)
        else:
            backbone = published.backbone if published is not None else architecture.backbone
            assert backbone is not None  # `Architecture.of` saw to it
            network = on_backbone(architecture.model.partition("_")[0], backbone, architecture.outputs)
    except (ValueError, RuntimeError) as error:
        raise VerificationError(f"the architecture of the teacher does not build ({error})") from error
    if architecture.batch_norm == "frozen":
        freeze_batch_norm(network, published.frozen_eps if published else 1e-5)
    return network.eval()


def stored_numbers(architecture: Architecture) -> int:
    """How many numbers the weights of an architecture are, told without making them.

    Raises:
        VerificationError: it does not build.
    """
    with torch.device("meta"):
        network = build_network(architecture)
    return sum(tensor.numel() for tensor in network.state_dict().values())


def on_backbone(model: str, backbone: Backbone, outputs: int) -> Any:
    """A detector of any size, see `ON_BACKBONE`."""
    pyramid: nn.Module
    if backbone.kind == "swin":
        pyramid = SwinPyramid(backbone.width, backbone.blocks, backbone.heads, backbone.window, backbone.channels)
    else:
        body = ResNet(BasicBlock, list(backbone.blocks))
        levels = {f"layer{stage + 1}": str(stage) for stage in range(4)}
        widths = [64 * 2**stage for stage in range(4)]
        pyramid = BackboneWithFPN(body, levels, widths, backbone.channels, extra_blocks=LastLevelMaxPool())
    if model == "fcos":
        return detection.FCOS(pyramid, outputs)
    if model == "retinanet":
        octaves = tuple(tuple(round(side * 2 ** (third / 3)) for third in range(3)) for side in backbone.anchors)
        anchors = AnchorGenerator(octaves, (ASPECT_RATIOS,) * len(octaves))
        return detection.RetinaNet(pyramid, outputs, anchor_generator=anchors)
    sizes = tuple((side,) for side in backbone.anchors)
    exact = backbone.kind == "swin"
    anchors = (ExactAnchors if exact else AnchorGenerator)(sizes, (ASPECT_RATIOS,) * len(sizes))
    pool = AlignedPooling if exact else MultiScaleRoIAlign
    names = ["0", "1", "2", "3"]
    options: dict[str, Any] = {
        "box_roi_pool": pool(names, REGION_SIDE, 2),
        "box_head": TwoMLPHead(backbone.channels * REGION_SIDE**2, backbone.representation),
        "box_predictor": FastRCNNPredictor(backbone.representation, outputs),
        "rpn_pre_nms_top_n_test": backbone.proposals,
        "rpn_post_nms_top_n_test": backbone.proposals,
    }
    if model == "fasterrcnn":
        return detection.FasterRCNN(pyramid, rpn_anchor_generator=anchors, **options)
    options |= {
        "mask_roi_pool": pool(names, MASK_SIDE, 2),
        "mask_head": MaskRCNNHeads(backbone.channels, (backbone.channels,) * 4, 1),
        "mask_predictor": MaskRCNNPredictor(backbone.channels, backbone.channels, outputs),
    }
    return detection.MaskRCNN(pyramid, rpn_anchor_generator=anchors, **options)


class ExactAnchors(AnchorGenerator):
    """Anchors as MMDetection has them: their sides are not rounded, and levels lie 4, 8, 16, … pixels apart."""

    def generate_anchors(
        self,
        scales: list[int],
        aspect_ratios: list[float],
        dtype: torch.dtype = torch.float32,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ) -> Tensor:
        """Anchors around 0 of one level, `(N, 4)`."""
        ratios = torch.as_tensor(aspect_ratios, dtype=dtype, device=device).sqrt()
        sides = torch.as_tensor(scales, dtype=dtype, device=device)
        widths, heights = (sides / ratios[:, None]).flatten(), (sides * ratios[:, None]).flatten()
        return torch.stack((-widths, -heights, widths, heights), dim=1) / 2

    def grid_anchors(self, grid_sizes: list[list[int]], strides: list[list[Tensor]]) -> list[Tensor]:
        """Anchors of each level, whatever the strides that its size suggests."""
        exact = [[torch.full_like(side, 4 * 2**level) for side in pair] for level, pair in enumerate(strides)]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, exact)
        return anchors


class AlignedPooling(MultiScaleRoIAlign):
    """Pooling as MMDetection has it: pixels have extent, and cells are sampled as densely as needed."""

    def forward(self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]) -> Tensor:
        """Features of each region, `(regions, C, side, side)`; images stand one after another."""
        levels = [x[name] for name in self.featmap_names]
        regions = torch.cat(boxes)
        images = torch.cat([torch.full_like(each[:, :1], index) for index, each in enumerate(boxes)])
        rows = torch.cat((images, regions), dim=1)
        chosen = self.levels(regions, len(levels))
        pooled = levels[0].new_zeros(len(rows), levels[0].shape[1], *self.output_size)
        for number, level in enumerate(levels):
            mine = torch.nonzero(chosen == number).flatten()
            scale = self.scale(number)
            features = roi_align(level, rows[mine], self.output_size, scale, sampling_ratio=0, aligned=True)
            pooled = pooled.index_copy(0, mine, features.to(pooled.dtype))
        return pooled

    def levels(self, regions: Tensor, count: int) -> Tensor:
        """Which of so many levels each of the regions `(R, 4)` is pooled from, `(R,)` int64."""
        sides = ((regions[:, 2] - regions[:, 0]) * (regions[:, 3] - regions[:, 1])).clamp(min=0).sqrt()
        return (sides / FINEST_SIDE + 1e-6).log2().floor().clamp(0, count - 1).long()

    def scale(self, level: int) -> float:
        """Cells per pixel of a level."""
        return 0.25 / 2**level


FINEST_SIDE = 56
"""Regions up to twice this side, pixels, are pooled from the finest level (arXiv 1612.03144)."""


def freeze_batch_norm(network: Any, eps: float) -> None:
    """Put a `FrozenBatchNorm2d` in the place of every batch norm of the backbone, as training from weights does."""
    for parent in network.backbone.modules():
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.BatchNorm2d):
                setattr(parent, name, FrozenBatchNorm2d(module.num_features, eps))
