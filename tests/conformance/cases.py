"""The detectors that every family's adapter is held to: one line each. A new family adds its own.

Networks are the smallest of their kind, with random weights, so that nothing is downloaded; batch norms have the
statistics of random images, so that features stay within range.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional as F
from ultralytics.nn.tasks import (
    DetectionModel,
    OBBModel,
    PoseModel,
    RTDETRDetectionModel,
    SegmentationModel,
    yaml_model_load,
)

from detectors.registry import build_detector
from detectors.yolov5.network import Yolov5Network
from schemas.teacher import Family, TeacherIdentity
from tests.detectors.yolov5.conftest import architecture
from tests.detectors.yolov5.pickled import write_checkpoint

NAMES = ("cat", "dog", "cow")


@dataclass(frozen=True)
class Case:
    """A detector on its way through the stages.

    Attributes:
        name: its row in the table.
        family: of the adapter.
        write: writes a checkpoint as the family's own tools do, and returns what computes, from images, what the
            adapter's `decoded` must give; None where decoding is the adapter's own.
        size: side of the images, pixels.
        learning_rate: of QAT, where the default overshoots on random weights.
        quick: cheap enough for every run of the tests.
        reasons: checks that cannot pass, by name, with the beginning of the error that says why.
    """

    name: str
    family: Family
    write: Callable[[Path], Callable[[Tensor], Tensor] | None]
    size: int = 64
    learning_rate: float | None = None
    quick: bool = False
    reasons: tuple[tuple[str, str], ...] = ()


def coarse_images(count: int, size: int, seed: int) -> Tensor:
    """Random images of 8 x 8 colours, `(count, 3, size, size)` in [0, 1]: they differ more than noise does."""
    colours = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(colours, (size, size), mode="bilinear")


def seen_images(network: nn.Module, size: int = 128) -> None:
    """Give batch norms the statistics of images and noise, and stay in eval mode: the network then tells them apart."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all that it sees
    network.train()
    with torch.no_grad():
        for seed in range(3):
            noise = torch.rand(4, 3, size, size, generator=torch.Generator().manual_seed(seed))
            network(torch.cat((coarse_images(4, size, seed), noise)))
    network.eval()
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


def prefer_short_edges(head: Any) -> None:
    """Short distances become likelier: with all equal, a box has 15 cells and no small image holds it."""
    for level in (*head.cv2, *getattr(head, "one2one_cv2", ())):
        bias = level[-1].bias.data
        if head.reg_max > 1:
            bias.view(4, head.reg_max).sub_(torch.arange(head.reg_max) / 2)


def ultralytics(description: str, kind: Any = DetectionModel) -> Callable[[Path], Callable[[Tensor], Any]]:
    """A network of the library, saved as its trainer does."""

    def write(path: Path) -> Callable[[Tensor], Tensor]:
        torch.manual_seed(0)
        network: Any = kind(yaml_model_load(description), ch=3, nc=len(NAMES), verbose=False)
        network.names = dict(enumerate(NAMES))
        seen_images(network)
        prefer_short_edges(network.model[-1])
        torch.save({"model": network, "train_args": {"imgsz": 64}}, path)
        return lambda images: network(images)[0]

    return write


def rtdetr(path: Path) -> Callable[[Tensor], Tensor]:
    """The smaller of the two published ones."""
    torch.manual_seed(0)
    network: Any = RTDETRDetectionModel(yaml_model_load("rtdetr-l.yaml"), ch=3, nc=len(NAMES), verbose=False)
    network.names = dict(enumerate(NAMES))
    seen_images(network)
    torch.save({"model": network, "train_args": {"imgsz": 64}}, path)

    def decoded(images: Tensor) -> Tensor:
        rows = network(images)[0]
        sides = torch.tensor([images.shape[3], images.shape[2]])
        centres, half = rows[..., :2], rows[..., 2:4] / 2
        return torch.cat(((centres - half) * sides, (centres + half) * sides, rows[..., 4:]), dim=2)

    return decoded


def yolov5(depth: float, width: float) -> Callable[[Path], Callable[[Tensor], Tensor]]:
    """The anchor-based network of the repository, pickled as there."""

    def write(path: Path) -> Callable[[Tensor], Tensor]:
        torch.manual_seed(0)
        described = architecture(depth, width)
        network = Yolov5Network(described, len(NAMES))
        seen_images(network)
        write_checkpoint(path, network, described, list(NAMES), options={"imgsz": 64})
        return lambda images: network.head.decode(network(images))

    return write


def torchvision(model: str, **backbone: Any) -> Callable[[Path], None]:
    """A network of the library with batch norms that saw random images, saved with its description.

    `backbone` makes a small one; decoding is compared with the library's own in tests/detectors.
    """
    described: dict[str, Any] = {"model": model, "outputs": len(NAMES) + 1, "labels": [1, 2, 3]}
    if backbone:
        small = {"blocks": [1, 1, 1, 1], "channels": 32, "representation": 64, "proposals": 40}
        described["backbone"] = small | {"anchors": [16, 32, 64, 128, 256]} | backbone

    def write(path: Path) -> None:
        torch.manual_seed(0)
        identity = TeacherIdentity(
            family="torchvision", architecture=described, sha256="0" * 64, class_names=NAMES,
            input_size=64, stride=1 if model.startswith("ssd") else 32,
        )  # fmt: skip
        detector = build_detector(identity)
        network: Any = detector.network
        for module in network.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if model == "fcos":  # its first distances are 0, and no box has an area
            nn.init.constant_(network.head.regression_head.bbox_reg.bias, 1.0)
        norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:  # the network itself trains only with targets
            norm.reset_running_stats()
            norm.momentum = None
            norm.train()
        with torch.no_grad():
            for seed in range(3):
                detector.head_outputs(coarse_images(4, 128, seed))
        for norm in norms:
            norm.eval()
        torch.save({"architecture": described, "class_names": NAMES, "model": network.state_dict()}, path)

    return write


HGNET = {
    "model_type": "hgnet_v2", "stem_channels": [3, 8, 16], "stage_in_channels": [16, 24, 32, 48],
    "stage_mid_channels": [8, 8, 16, 16], "stage_out_channels": [24, 32, 48, 64], "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [2, 2, 2, 2], "hidden_sizes": [24, 32, 48, 64], "depths": [1, 1, 1, 1],
    "use_learnable_affine_block": True, "out_indices": [2, 3, 4],
}  # fmt: skip
RESNET = {
    "model_type": "rt_detr_resnet", "embedding_size": 16, "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_indices": [2, 3, 4],
}  # fmt: skip
QUERIES = {
    "encoder_hidden_dim": 32, "encoder_ffn_dim": 64, "encoder_attention_heads": 2, "encoder_in_channels": [32, 48, 64],
    "d_model": 32, "decoder_in_channels": [32, 32, 32], "decoder_ffn_dim": 64, "decoder_layers": 2,
    "decoder_attention_heads": 2, "decoder_n_points": 2, "num_queries": 20, "num_denoising": 4,
}  # fmt: skip
"""A small query set of the transformers package."""
DISTRIBUTIONS = {"max_num_bins": 16, "depth_mult": 0.34, "hidden_expansion": 0.5, "lqe_hidden_dim": 8}
"""What D-FINE has beside it."""


def saved_network(kind: str, folder: Path, **description: Any) -> Any:
    """A network of the transformers package, `DFine`, `RTDetr` or `RTDetrV2`, saved as the library does.

    Its random weights are larger than those that a training starts from, which give the same boxes for every image.
    """
    torch.manual_seed(0)
    further = {"backbone_config": HGNET} | DISTRIBUTIONS if kind == "DFine" else {"backbone_config": RESNET}
    named = {"num_labels": len(NAMES), "id2label": dict(enumerate(NAMES)), "freeze_backbone_batch_norms": False}
    configuration = getattr(transformers, f"{kind}Config")(**(QUERIES | further | named | description))
    network = getattr(transformers, f"{kind}ForObjectDetection")(configuration)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    seen_images(network)
    network.config.freeze_backbone_batch_norms = True  # as published ones are
    network.save_pretrained(folder)
    return network


def queries(kind: str) -> Callable[[Path], Callable[[Tensor], Tensor]]:
    """A small network of the transformers package; its outputs in pixels, as its image processor gives them."""

    def write(folder: Path) -> Callable[[Tensor], Tensor]:
        network = saved_network(kind, folder)
        processor = transformers.RTDetrImageProcessor()

        def decoded(images: Tensor) -> Tensor:
            size = torch.tensor([images.shape[2:]] * len(images))
            found = processor.post_process_object_detection(network(images), threshold=-1.0, target_sizes=size)
            return torch.stack([torch.cat((e["boxes"], e["scores"][:, None], e["labels"][:, None]), 1) for e in found])

        return decoded

    return write


CASES = (
    Case("YOLOv5 (anchors), an eighth as wide", "yolov5", yolov5(0.33, 0.125), quick=True),
    Case("YOLOv5n (anchors)", "yolov5", yolov5(0.33, 0.25)),
    Case("YOLOv3-tinyu", "ultralytics", ultralytics("yolov3-tiny.yaml"), learning_rate=2e-5),
    Case("YOLOv5nu", "ultralytics", ultralytics("yolov5n.yaml")),
    Case("YOLOv6n", "ultralytics", ultralytics("yolov6n.yaml")),
    Case("YOLOv8n", "ultralytics", ultralytics("yolov8n.yaml")),
    Case("YOLOv9t", "ultralytics", ultralytics("yolov9t.yaml")),
    Case("YOLOv10n", "ultralytics", ultralytics("yolov10n.yaml")),
    Case("YOLO11n", "ultralytics", ultralytics("yolo11n.yaml")),
    Case("YOLO12n", "ultralytics", ultralytics("yolo12n.yaml")),
    Case("YOLO26n", "ultralytics", ultralytics("yolo26n.yaml")),
    Case("YOLO11n-seg", "ultralytics", ultralytics("yolo11n-seg.yaml", SegmentationModel)),
    Case("YOLO11n-pose", "ultralytics", ultralytics("yolo11n-pose.yaml", PoseModel)),
    Case("YOLO11n-obb", "ultralytics", ultralytics("yolo11n-obb.yaml", OBBModel)),
    Case("RT-DETR-l", "rtdetr", rtdetr),
    Case("D-FINE, 2 decoder layers", "transformers", queries("DFine"), learning_rate=1e-4),
    Case("RT-DETR (transformers), 2 decoder layers", "transformers", queries("RTDetr")),
    Case("RT-DETRv2, 2 decoder layers", "transformers", queries("RTDetrV2")),
    Case("Faster R-CNN, ResNet of 4 blocks", "torchvision", torchvision("fasterrcnn", kind="resnet")),
    Case("Faster R-CNN, ResNet-50 v1", "torchvision", torchvision("fasterrcnn_resnet50_fpn")),
    Case("Faster R-CNN, MobileNetV3", "torchvision", torchvision("fasterrcnn_mobilenet_v3_large_320_fpn")),
    Case("Mask R-CNN, ResNet of 4 blocks", "torchvision", torchvision("maskrcnn", kind="resnet")),
    Case(
        "Mask R-CNN, Swin of 5 blocks", "torchvision",
        torchvision("maskrcnn", kind="swin", width=16, heads=[1, 1, 2, 2], blocks=[2, 1, 1, 1]),
    ),
    Case("RetinaNet, ResNet of 4 blocks", "torchvision", torchvision("retinanet", kind="resnet")),
    Case("FCOS, ResNet of 4 blocks", "torchvision", torchvision("fcos", kind="resnet"), size=128),
)  # fmt: skip
