"""Train the embedded default on rendered scenes: `python -m detectors.embedded.train --out FILE --minutes 18`.

The loop is short and its own; the loss is the library's. Training stops on the clock: the learning rate follows the
share of the given minutes that has passed, so a slower machine trains for fewer steps in the same time.
"""

import copy
import math
import multiprocessing
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.embedded import ARCHITECTURE, WEIGHTS
from detectors.embedded.scenes import CLASS_NAMES, SCENE_SIZE, TRAINING_SEED, VALIDATION_SEED, Scene, render_scene
from detectors.protocol import Detector, Suppression
from detectors.ultralytics.yolo import UltralyticsDetector
from schemas.calibration_set import AveragePrecision
from stages.storage import atomic_path

TRAINING_SCENES: int = 8000
VALIDATION_SCENES: int = 256
BATCH_SIZE: int = 32
LEARNING_RATE: float = 2e-3
WEIGHT_DECAY: float = 0.02
WARMUP_STEPS: int = 200
EMA_DECAY: float = 0.998
GRADIENT_NORM: float = 10.0
MAX_BYTES: int = 3_000_000
"""Largest weights file; the weights are stored in float16 where float32 would exceed it."""


def build_model(architecture: Path = ARCHITECTURE) -> DetectionModel:
    """The untrained embedded detector, float32 on the CPU, with the library's default loss gains in `args`."""
    layers: dict[str, Any] = yaml.safe_load(architecture.read_text(encoding="utf-8"))
    model = DetectionModel(layers, nc=len(CLASS_NAMES), verbose=False)
    model.args = get_cfg()  # type: ignore[assignment]  # nn.Module declares every attribute a tensor or a module
    return model


def render_scenes(seed: int, count: int) -> list[Scene]:
    """Scenes 0 to `count` - 1 of the sequence `seed`, rendered by one process per core."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        return pool.map(partial(render_scene, seed), range(count), chunksize=64)


def to_image(scene: Scene) -> Tensor:
    """The image of a scene as (3, H, W) float32 RGB in [0, 1]."""
    return torch.from_numpy(scene.image).permute(2, 0, 1).float() / 255


def augment(image: NDArray[np.uint8], boxes: NDArray[np.float32], rng: np.random.Generator) -> tuple[Any, Any]:
    """One of the eight flips and quarter turns of a square image, and one of the six orders of its colour channels.

    image: (H, H, 3). boxes: (N, 4) xyxy in units of the image side. Returns both, changed.
    """
    if rng.random() < 0.5:
        image, boxes = image.swapaxes(0, 1), boxes[:, [1, 0, 3, 2]]
    if rng.random() < 0.5:
        image, boxes = image[:, ::-1], np.stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]], axis=1)
    if rng.random() < 0.5:
        image, boxes = image[::-1], np.stack([boxes[:, 0], 1 - boxes[:, 3], boxes[:, 2], 1 - boxes[:, 1]], axis=1)
    return image[..., rng.permutation(3)], boxes


def training_batches(scenes: list[Scene], rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
    """Endless shuffled batches in the form the library's loss takes.

    img: (B, 3, H, W) float32 in [0, 1]. batch_idx: (M,) float32 image of each object. cls: (M,) float32.
    bboxes: (M, 4) float32 (centre x, centre y, width, height) in units of the image side.
    """
    while True:
        order = rng.permutation(len(scenes))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            chosen = [scenes[i] for i in order[start : start + BATCH_SIZE]]
            changed = [augment(scene.image, scene.boxes / scene.image.shape[0], rng) for scene in chosen]
            corners = torch.from_numpy(np.concatenate([boxes for _, boxes in changed])).float()
            images = torch.from_numpy(np.stack([image for image, _ in changed]))
            counts = torch.tensor([len(scene.classes) for scene in chosen])
            yield {
                "img": images.permute(0, 3, 1, 2).float() / 255,
                "batch_idx": torch.arange(len(chosen)).repeat_interleave(counts).float(),
                "cls": torch.from_numpy(np.concatenate([scene.classes for scene in chosen])).float(),
                "bboxes": torch.cat([(corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]], dim=1),
            }


def make_optimizer(model: nn.Module) -> torch.optim.AdamW:
    """AdamW with weight decay on convolution kernels only."""
    kernels = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.99))


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int) -> None:
    """Move the exponential moving average of parameters and running statistics towards `model`, in place."""
    decay = EMA_DECAY * (1 - math.exp(-(step + 1) / 400))
    current = model.state_dict()
    for name, value in average.state_dict().items():
        if value.is_floating_point():
            value.lerp_(current[name], 1 - decay)
        else:
            value.copy_(current[name])


def train(
    model: DetectionModel,
    batches: Iterable[dict[str, Tensor]],
    seconds: float,
    report: Callable[[str], None],
    warm_up: int = WARMUP_STEPS,
) -> DetectionModel:
    """Train `model` in place on `batches` for `seconds` and return the moving average of its weights.

    The learning rate rises over `warm_up` steps.

    Raises RuntimeError if the loss stops being finite.
    """
    average = copy.deepcopy(model).eval()
    model.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = make_optimizer(model)
    started = time.monotonic()
    for step, batch in enumerate(batches):
        share = (time.monotonic() - started) / seconds
        if share >= 1:
            break
        rate = LEARNING_RATE * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share))) * min(1, (step + 1) / warm_up)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch["img"] = batch["img"].contiguous(memory_format=torch.channels_last)
        losses, parts = model.loss(batch)
        loss = losses.sum() / BATCH_SIZE
        if not torch.isfinite(loss):
            raise RuntimeError(f"the training loss is {loss.item()} at step {step}; lower LEARNING_RATE")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
        optimizer.step()
        update_average(average, model, step)
        if step % 100 == 0:
            named = " ".join(f"{name} {float(value):.3f}" for name, value in parts.items())
            speed = step * BATCH_SIZE / (share * seconds)
            report(f"step {step} ({share:.0%}) rate {rate:.2e} {named} images/s {speed:.0f}")
    return average


def evaluate(detector: Detector, scenes: list[Scene]) -> tuple[AveragePrecision, dict[str, float]]:
    """COCO average precision of `detector` on `scenes`, and AP50-95 by class name."""
    found: list[Detections] = []
    for start in range(0, len(scenes), BATCH_SIZE):
        images = torch.stack([to_image(scene) for scene in scenes[start : start + BATCH_SIZE]])
        found += detector.predict(images, Suppression(0.001, iou=0.7))
    truth = [Detections.of(torch.from_numpy(scene.boxes), torch.from_numpy(scene.classes)) for scene in scenes]
    return average_precision(truth, found, CLASS_NAMES)


def save_weights(model: nn.Module, out: Path, metadata: dict[str, str]) -> None:
    """Write the state dictionary as safetensors, in float16 if float32 would not fit in `MAX_BYTES`."""
    state = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    if sum(value.nbytes for value in state.values()) > 0.98 * MAX_BYTES:
        state = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    with atomic_path(out) as temporary:
        save_file(state, temporary, metadata=metadata)


def main(
    out: Annotated[Path, typer.Option(help="Weights file to write (safetensors).")] = WEIGHTS,
    minutes: Annotated[float, typer.Option(min=0.1, help="Training time, without rendering and evaluation.")] = 18.0,
    seed: Annotated[int, typer.Option(help="Seed of initial weights, order and augmentation.")] = 0,
    architecture: Annotated[Path, typer.Option(help="The layers of the detector, as Ultralytics writes them.")] = (
        ARCHITECTURE
    ),
    threads: Annotated[int, typer.Option(min=1, help="Torch threads.")] = 2,
) -> None:
    """Train the embedded detector on rendered scenes, measure it on validation scenes and save it."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    report = partial(print, flush=True)
    started = time.monotonic()
    scenes = render_scenes(TRAINING_SEED, TRAINING_SCENES)
    report(f"rendered {len(scenes)} training scenes in {time.monotonic() - started:.0f} s")
    batches = training_batches(scenes, np.random.default_rng(seed))
    model = train(build_model(architecture), batches, minutes * 60, report)

    command = f"python -m detectors.embedded.train --minutes {minutes:g} --seed {seed} --threads {threads}"
    names = ",".join(CLASS_NAMES)
    save_weights(model, out, {"class_names": names, "image_size": str(SCENE_SIZE), "command": command})
    stored = UltralyticsDetector.embedded(out, architecture)
    precision, per_class = evaluate(stored, render_scenes(VALIDATION_SEED, VALIDATION_SCENES))
    for name, value in {"mAP50-95": precision.map50_95, "mAP50": precision.map50, **per_class}.items():
        report(f"{name} {value:.3f}")
    report(f"{sum(p.numel() for p in stored.network.parameters())} parameters, {out.stat().st_size} bytes in {out}")


if __name__ == "__main__":
    typer.run(main)
