"""Small query-set detectors for the whole pipeline: `python -m benchmarks.train_queries d_fine --out runs/d-fine`.

They learn the scenes that the embedded detector learnt, smaller, in minutes of a CPU, by the transformers package's own
losses with their denoising queries, and are saved by `save_pretrained`. Training stops on the clock.
"""

import copy
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import transformers
import typer
from torch import Tensor, nn

from benchmarks.train_scenes import resized
from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.embedded.scenes import CLASS_NAMES, SCENE_SIZE, TRAINING_SEED, VALIDATION_SEED, Scene
from detectors.embedded.train import augment, render_scenes, update_average
from detectors.protocol import Suppression
from detectors.transformers.architecture import NETWORKS

SCENES, VALIDATION_SCENES = 2000, 256
SIZE = 128
"""Side of the images, pixels."""
BATCH_SIZE, WARMUP_STEPS, GRADIENT_NORM, RATE = 16, 100, 0.1, 1e-3
HGNET = {
    "model_type": "hgnet_v2", "stem_channels": [3, 16, 16], "stage_in_channels": [16, 32, 64, 128],
    "stage_mid_channels": [16, 16, 32, 64], "stage_out_channels": [32, 64, 128, 192], "stage_num_blocks": [1, 1, 1, 1],
    "stage_numb_of_layers": [2, 2, 2, 2], "hidden_sizes": [32, 64, 128, 192], "depths": [1, 1, 1, 1],
    "use_learnable_affine_block": True, "out_indices": [2, 3, 4],
}  # fmt: skip
RESNET = {
    "model_type": "rt_detr_resnet", "embedding_size": 32, "hidden_sizes": [32, 64, 128, 192], "depths": [1, 1, 1, 1],
    "layer_type": "basic", "out_indices": [2, 3, 4],
}  # fmt: skip
QUERIES = {
    "encoder_hidden_dim": 64, "encoder_ffn_dim": 128, "encoder_attention_heads": 4,
    "encoder_in_channels": [64, 128, 192], "d_model": 64, "decoder_in_channels": [64, 64, 64], "decoder_ffn_dim": 128,
    "decoder_layers": 3, "decoder_attention_heads": 4, "num_queries": 60, "num_denoising": 40,
    "freeze_backbone_batch_norms": False,
}  # fmt: skip
DISTRIBUTIONS = {"depth_mult": 0.34, "hidden_expansion": 0.5, "reg_scale": 4.0}


def network_of(kind: str) -> Any:
    described, network = (getattr(transformers, name) for name in NETWORKS[kind])
    further: dict[str, Any] = {"backbone_config": RESNET}
    if kind == "d_fine":
        further = {"backbone_config": HGNET} | DISTRIBUTIONS
    made = network(described(**QUERIES, **further, id2label=dict(enumerate(CLASS_NAMES))))
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):  # the library's start suits pretrained backbones
            nn.init.ones_(module.weight)
    for module in made.model.backbone.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return made


def batches(scenes: list[Scene], rng: np.random.Generator) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Endless shuffled batches as the library takes them: boxes are centres and sizes, shares of the sides."""
    while True:
        order = rng.permutation(len(scenes))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            chosen = [scenes[i] for i in order[start : start + BATCH_SIZE]]
            changed = [augment(scene.image, scene.boxes / SCENE_SIZE, rng) for scene in chosen]
            targets = []
            for scene, (_, corners) in zip(chosen, changed, strict=True):
                boxes = torch.from_numpy(np.ascontiguousarray(corners)).float().reshape(-1, 4)
                first, last = boxes.split(2, dim=1)
                targets.append(
                    {
                        "boxes": torch.cat(((first + last) / 2, last - first), dim=1),
                        "class_labels": torch.from_numpy(scene.classes).long(),
                    }
                )
            yield resized(np.stack([image for image, _ in changed]), SIZE), targets


def train(network: Any, scenes: list[Scene], minutes: float, seed: int) -> nn.Module:
    """Train in place until the time is over; the moving average of the weights comes back."""
    average = copy.deepcopy(network)
    network.train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-4)
    stream = batches(scenes, np.random.default_rng(seed))
    begin, step, share = time.monotonic(), 0, 0.0
    while share < 1:
        images, targets = next(stream)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * share)))
        loss = network(images, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), GRADIENT_NORM)
        optimizer.step()
        update_average(average, network, step)
        if step % 50 == 0:
            print(f"step {step}, {share:.0%} of the time: loss {float(loss.detach()):.3f}", flush=True)
        step, share = step + 1, (time.monotonic() - begin) / (60 * minutes)
    return average


def main(
    kind: Annotated[str, typer.Argument(help=", ".join(NETWORKS))],
    out: Annotated[Path, typer.Option(help="folder to write")],
    minutes: Annotated[float, typer.Option(min=0.1)] = 12,
    seed: int = 0,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    start: Annotated[Path | None, typer.Option(help="folder to go on from")] = None,
) -> None:
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    network = network_of(kind)
    if start is not None:
        network = type(network).from_pretrained(start, local_files_only=True)
    trained = train(network, render_scenes(TRAINING_SEED, SCENES), minutes, seed)
    trained.save_pretrained(out)
    transformers.RTDetrImageProcessor(size={"height": SIZE, "width": SIZE}).save_pretrained(out)
    measure(out)


def measure(folder: Path) -> None:
    """Print the average precision of a saved model on scenes that no training used."""
    from detectors.registry import load_teacher
    from schemas.teacher import TeacherSource

    teacher = load_teacher(TeacherSource(path=str(folder)), torch.device("cpu"))
    scenes = render_scenes(VALIDATION_SEED, VALIDATION_SCENES)
    found: list[Detections] = []
    for start in range(0, len(scenes), BATCH_SIZE):
        images = resized(np.stack([scene.image for scene in scenes[start : start + BATCH_SIZE]]), SIZE)
        found += teacher.predict(images, Suppression(0.001, max_detections=100))
    truth = [Detections.of(torch.from_numpy(scene.boxes), torch.from_numpy(scene.classes)) for scene in scenes]
    precision, per_class = average_precision(truth, [each.scaled(SCENE_SIZE / SIZE) for each in found], CLASS_NAMES)
    for name, value in {"mAP50-95": precision.map50_95, "mAP50": precision.map50, **per_class}.items():
        print(f"{name} {value:.3f}")


if __name__ == "__main__":
    typer.run(main)
