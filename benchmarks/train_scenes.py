"""Small torchvision detectors for the whole pipeline: `python -m benchmarks.train_scenes resnet --out runs/resnet.pt`.

They learn the scenes that the embedded detector learnt, smaller, in minutes of a CPU, by torchvision's own losses.
There are no masks in those scenes: the mask head of the Swin detector stays as it was initialised.
"""

import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn
from torch.nn import functional as F

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.embedded.scenes import CLASS_NAMES, SCENE_SIZE, TRAINING_SEED, VALIDATION_SEED, Scene
from detectors.embedded.train import augment, make_optimizer, render_scenes, update_average
from detectors.protocol import Suppression
from detectors.torchvision.models import Architecture, Backbone, build_network
from stages.storage import atomic_path

SCENES, VALIDATION_SCENES = 1000, 256
SIZE = 96
"""Side of the images, pixels."""
BATCH_SIZE, WARMUP_STEPS, GRADIENT_NORM = 16, 100, 5.0
REGIONS, PROPOSALS = 32, 200
"""Regions of an image that the box head learns from, and that they are drawn from."""
RATES = {"resnet": 1e-3, "swin": 1e-3}
ANCHORS = (12, 24, 36, 48, 72)
BACKBONES = {
    "resnet": Backbone(
        kind="resnet", blocks=(1, 1, 1, 1), channels=64, representation=256, anchors=ANCHORS, proposals=100
    ),
    "swin": Backbone(
        kind="swin", blocks=(2, 2, 2, 2), width=32, heads=(1, 2, 4, 8), channels=64, representation=256,
        anchors=ANCHORS, proposals=100,
    ),
}  # fmt: skip


def architecture(backbone: str) -> Architecture:
    return Architecture(
        model="maskrcnn" if backbone == "swin" else "fasterrcnn",
        backbone=BACKBONES[backbone],
        outputs=len(CLASS_NAMES) + 1,
        labels=tuple(range(1, len(CLASS_NAMES) + 1)),
    )


def batches(scenes: list[Scene], rng: np.random.Generator) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]]]]:
    """Endless shuffled batches as torchvision takes them; class 0 is background."""
    while True:
        order = rng.permutation(len(scenes))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            chosen = [scenes[i] for i in order[start : start + BATCH_SIZE]]
            changed = [augment(scene.image, scene.boxes / SCENE_SIZE, rng) for scene in chosen]
            images = list(resized(np.stack([image for image, _ in changed])))
            targets = [
                {
                    "boxes": torch.from_numpy(np.ascontiguousarray(boxes)).float().reshape(-1, 4) * SIZE,
                    "labels": torch.from_numpy(scene.classes) + 1,
                }
                for scene, (_, boxes) in zip(chosen, changed, strict=True)
            ]
            yield images, targets


def resized(scenes: np.ndarray, side: int = SIZE) -> Tensor:
    """`(B, H, W, 3)` 8-bit images as `(B, 3, side, side)` in [0, 1]."""
    images = torch.from_numpy(scenes).permute(0, 3, 1, 2).float() / 255
    return F.interpolate(images, side, mode="bilinear", antialias=True).clamp(0, 1)


def for_training(network: Any) -> Any:
    """Scenes are taken as they are, few regions are learnt from, and the mask head is left out."""
    network.transform.min_size, network.transform.max_size = (SIZE,), SIZE
    network.rpn._pre_nms_top_n["training"] = network.rpn._post_nms_top_n["training"] = PROPOSALS
    network.roi_heads.fg_bg_sampler.batch_size_per_image = REGIONS
    network.roi_heads.mask_roi_pool = None
    return network


def train(network: Any, scenes: list[Scene], steps: int, rate: float, seed: int) -> nn.Module:
    """Train in place for `steps`; the moving average of the weights comes back."""
    average = copy.deepcopy(network)
    for_training(network).train().to(memory_format=torch.channels_last)
    optimizer = make_optimizer(network)
    stream = batches(scenes, np.random.default_rng(seed))
    for step in range(steps):
        images, targets = next(stream)
        share = step / steps
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        losses = network(images, targets)
        loss = sum(losses.values())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        update_average(average, network, step)
        if step % 50 == 0:
            named = " ".join(
                f"{name.removeprefix('loss_')} {float(value.detach()):.3f}" for name, value in losses.items()
            )
            print(f"step {step} of {steps}: {named}", flush=True)
    return average


def main(
    backbone: Annotated[str, typer.Argument(help="resnet (Faster R-CNN) or swin (Mask R-CNN)")],
    out: Annotated[Path, typer.Option(help="checkpoint to write")],
    steps: Annotated[int, typer.Option(min=1, help="of 16 scenes; about half a second each on one idle core")] = 500,
    seed: int = 0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    start: Annotated[Path | None, typer.Option(help="checkpoint to go on from")] = None,
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    described = architecture(backbone)
    network = build_network(described)
    if start is not None:
        network.load_state_dict(torch.load(start, weights_only=True)["model"])
    scenes = render_scenes(TRAINING_SEED, SCENES)
    trained = train(network, scenes, steps, RATES[backbone], seed)
    checkpoint = {
        "model": trained.state_dict(), "architecture": described.model_dump(mode="json"),
        "class_names": list(CLASS_NAMES), "input_size": SIZE,
    }  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(out) as temporary:
        torch.save(checkpoint, temporary)
    measure(out)


def measure(path: Path) -> None:
    """Print the average precision of a checkpoint on scenes that no training used."""
    from detectors.registry import load_teacher
    from schemas.teacher import TeacherSource

    teacher = load_teacher(TeacherSource(path=str(path), family="torchvision"), torch.device("cpu"))
    scenes = render_scenes(VALIDATION_SEED, VALIDATION_SCENES)
    found: list[Detections] = []
    for start in range(0, len(scenes), BATCH_SIZE):
        images = resized(np.stack([scene.image for scene in scenes[start : start + BATCH_SIZE]]))
        found += teacher.predict(images, Suppression(0.001, max_detections=100))
    truth = [Detections.of(torch.from_numpy(scene.boxes), torch.from_numpy(scene.classes)) for scene in scenes]
    found = [each.scaled(SCENE_SIZE / SIZE) for each in found]
    precision, per_class = average_precision(truth, found, CLASS_NAMES)
    for name, value in {"mAP50-95": precision.map50_95, "mAP50": precision.map50, **per_class}.items():
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    typer.run(main)
