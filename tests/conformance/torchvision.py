"""torchvision detectors with random weights, saved as checkpoints that the adapter reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detectors.registry import build_detector
from schemas.teacher import TeacherIdentity

SMALL = {
    "kind": "resnet", "blocks": [1, 1, 1, 1], "channels": 32, "representation": 64, "proposals": 40,
    "anchors": [8, 16, 32, 64, 128],
}  # fmt: skip
SMALL_SWIN = SMALL | {"kind": "swin", "width": 16, "heads": [1, 1, 2, 2], "blocks": [2, 1, 1, 1]}


def torchvision(
    model: str, names: tuple[str, ...], images: Callable[[], Tensor], backbone: dict[str, Any] | None = None
) -> Callable[[Path], None]:
    """A network of the library, or a small one on `backbone`; its batch norms have the statistics of `images`."""

    def write(path: Path) -> None:
        torch.manual_seed(0)
        architecture: dict[str, Any] = {"model": model, "outputs": len(names) + 1}
        architecture["labels"] = list(range(1, len(names) + 1))
        if backbone is not None:
            architecture["backbone"] = backbone
        identity = TeacherIdentity(
            family="torchvision",
            architecture=architecture,
            sha256="0" * 64,
            class_names=names,
            input_size=64,
            stride=32,
        )
        built: Any = build_detector(identity)
        for module in built.network.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if model.startswith("fcos"):  # its first distances are 0, and no box has an area
            nn.init.constant_(built.network.head.regression_head.bbox_reg.bias, 1.0)
        norms = [module for module in built.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all that it sees
            norm.train()
        with torch.no_grad():
            built.head_outputs(images())
        content = {"model": built.network.state_dict(), "architecture": architecture, "input_size": 64}
        torch.save(content | {"class_names": list(names)}, path)

    return write
