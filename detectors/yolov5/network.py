"""The network of YOLOv5: blocks of the library, and an anchor head of its own."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from ultralytics.nn.tasks import parse_model

from detectors.stored import brief
from detectors.yolov5.checkpoint import StoredModule

BLOCKS = {"Conv", "C3", "SPP", "SPPF", "Focus", "Concat", "nn.Upsample"}
"""Blocks that were compared with the original's: the library kept them, but for the SPPF of YOLO26."""
PROBE = 256
"""Side of the image that strides and channels are found with, pixels."""
BOOKKEEPING = {"training", "inplace", "i", "f", "type", "np", "num_batches_tracked", "state", "momentum", "return_idx"}
"""Attributes of modules that decide nothing in eval mode, or that the network keeps in its own way."""


class AnchorHead(nn.Module):
    """One convolution per level; each cell and anchor gives [x, y, w, h, objectness, C classes], all as logits.

    Args:
        classes: number C.
        anchors: `(L, A, 2)`, widths and heights in cells of the level.
        strides: pixels per cell of each level.
        channels: of each level.
    """

    anchors: Tensor

    def __init__(self, classes: int, anchors: Tensor, strides: list[int], channels: list[int]) -> None:
        super().__init__()
        self.classes = classes
        self.strides = strides
        self.register_buffer("anchors", anchors)
        self.m = nn.ModuleList(nn.Conv2d(c, anchors.shape[1] * (5 + classes), 1) for c in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Logits of each level, `(B, A, H, W, 5 + C)`."""
        outputs = [convolution(level) for convolution, level in zip(self.m, features, strict=True)]
        anchors = self.anchors.shape[1]
        return [level.unflatten(1, (anchors, 5 + self.classes)).permute(0, 1, 3, 4, 2) for level in outputs]

    def boxes(self, raw: list[Tensor]) -> list[Tensor]:
        """Decoded boxes of each level, `(B, A, H, W, 4)`: centre relative to the cell, width and height, in cells.

        A centre lies between -0.5 and 1.5 of its cell, a side between 0 and 4 times its anchor's.
        """
        decoded = []
        for level, anchors in zip(raw, self.anchors, strict=True):
            share = level[..., :4].sigmoid() * 2
            sides = share[..., 2:] ** 2 * anchors[:, None, None]
            decoded.append(torch.cat((share[..., :2] - 0.5, sides), dim=-1))
        return decoded

    def decode(self, raw: list[Tensor]) -> Tensor:
        """`(B, 4 + C, N)`: box centres and sizes in pixels, and objectness times class probability."""
        rows = []
        for level, boxes, stride in zip(raw, self.boxes(raw), self.strides, strict=True):
            height, width = level.shape[2:4]
            y, x = torch.arange(height, device=level.device), torch.arange(width, device=level.device)
            columns = x[None, :, None].expand(height, width, 1)
            cells = torch.cat((columns, y[:, None, None].expand(height, width, 1)), dim=-1)
            scores = level[..., 4:].sigmoid()
            parts = ((boxes[..., :2] + cells) * stride, boxes[..., 2:] * stride, scores[..., 1:] * scores[..., :1])
            rows.append(torch.cat(parts, dim=-1).flatten(1, 3))
        return torch.cat(rows, dim=1).transpose(1, 2)


class Yolov5Network(nn.Module):
    """Backbone, neck and head, run layer by layer.

    Args:
        architecture: the repository's description: `backbone` and `head` are lists of `[from, repeats, module,
            arguments]`, the last of them the head; `anchors` in pixels, or their number per level.
        classes: number of classes.

    Raises:
        ValueError: a block that was not compared with the original's, or no anchor head.
        Exception: whatever a foreign architecture makes the library raise.
    """

    def __init__(self, architecture: dict[str, Any], classes: int) -> None:
        super().__init__()
        plan = copy.deepcopy(architecture)
        levels, repeats, kind, _ = plan["head"].pop()
        layers = [*plan["backbone"], *plan["head"]]
        if kind != "Detect" or repeats != 1:
            raise ValueError(f"its last layer is {kind}, not an anchor head (Detect)")
        if other := sorted({str(layer[2]) for layer in layers} - BLOCKS):
            raise ValueError(f"block {other[0]} is not supported; known are {', '.join(sorted(BLOCKS))}")
        plan = {
            key: plan[key]
            for key in ("backbone", "head", "depth_multiple", "width_multiple", "activation")
            if key in plan
        }
        self.model, saved = parse_model(plan | {"nc": classes}, ch=3, verbose=False)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-3  # as the original sets it after building
        self.levels = [int(level) % len(layers) for level in levels]
        self.kept = {*saved, *self.levels}
        self.decoding = False
        """Whether `forward` gives decoded outputs instead of logits."""

        self.eval()
        with torch.no_grad():
            features = self._features(torch.zeros(1, 3, PROBE, PROBE))
        strides = [PROBE // level.shape[-1] for level in features]
        anchors = _anchors(architecture.get("anchors"), strides)
        self.model.append(AnchorHead(classes, anchors, strides, [level.shape[1] for level in features]))

    @property
    def head(self) -> AnchorHead:
        """The last layer."""
        last = self.model[-1]
        assert isinstance(last, AnchorHead)
        return last

    def forward(self, images: Tensor) -> list[Tensor] | Tensor:
        """Logits of each level, or decoded outputs: see `AnchorHead`."""
        raw: list[Tensor] = self.head(self._features(images))
        return self.head.decode(raw) if self.decoding else raw

    def _features(self, images: Tensor) -> list[Tensor]:
        """What the head looks at, finest level first."""
        x: Any = images
        kept: dict[int, Tensor] = {}
        for index, layer in enumerate(self.model):
            if isinstance(layer, AnchorHead):
                break
            sources = layer.f if isinstance(layer.f, list) else [layer.f]
            inputs = [x if source == -1 else kept[source % index] for source in sources]
            x = layer(inputs if isinstance(layer.f, list) else inputs[0])
            if index in self.kept:
                kept[index] = x
        return [kept[level] for level in self.levels]


def difference(module: nn.Module, stored: StoredModule, name: str = "model") -> str | None:
    """The first thing in which a built network and a stored one differ besides weights; None where there is none.

    Weights that fit do not make two networks the same: strides, paddings, activations and shortcuts have none.
    """
    if type(module).__name__ != {"Detect": "AnchorHead"}.get(stored.kind, stored.kind):
        return f"{name} is a {stored.kind}, and would be built as {type(module).__name__}"
    for key, value in stored.attributes.items():
        mine = getattr(module, key, None)
        plain = isinstance(value, bool | int | float | str | tuple) and not isinstance(module, AnchorHead)
        if plain and key not in BOOKKEEPING and key in vars(module) and mine != value:
            return f"{name}.{key} is {brief(value)}, and would be built as {brief(mine)}"
    children = dict(module.named_children())
    if children.keys() != stored.modules.keys():
        return f"{name} has parts {', '.join(stored.modules)[:80]}, and would be built with {', '.join(children)[:80]}"
    return next(
        (found for key, part in children.items() if (found := difference(part, stored.modules[key], f"{name}.{key}"))),
        None,
    )


def _anchors(described: Any, strides: list[int]) -> Tensor:
    """`(L, A, 2)` in cells, from pixels; zeros where the description has their number alone, for weights to fill."""
    if isinstance(described, int):
        return torch.zeros(len(strides), described, 2)
    pixels = torch.tensor(described, dtype=torch.float32).reshape(len(strides), -1, 2)
    return pixels / torch.tensor(strides)[:, None, None]
