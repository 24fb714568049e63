"""Small Segment, Pose and OBB teachers, trained on rendered scenes by the library's own losses.

`python -m benchmarks.train_heads segment --out runs/segment.pt --minutes 6`: a checkpoint as the library's trainer
writes it. The embedded detector, whose scenes these are, gives the weights that training starts from.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import OBBModel, PoseModel, SegmentationModel
from ultralytics.utils.ops import xyxyxyxy2xywhr

from benchmarks.head_scenes import KEYPOINTS, NAMES, Head, keypoints, render, turned_boxes
from detectors.embedded import ARCHITECTURE, WEIGHTS
from detectors.embedded.scenes import SCENE_SIZE, TRAINING_SEED, Scene
from detectors.embedded.train import BATCH_SIZE, train

SCENES, WARM_UP = 4000, 100
PROTOTYPES = 16
"""Of a mask; published networks have 32."""
MASK_STRIDE = 4
LAYERS: dict[str, tuple[Any, list[Any]]] = {
    "segment": (SegmentationModel, ["Segment", ["nc", PROTOTYPES, 256]]),
    "pose": (PoseModel, ["Pose", ["nc", [len(KEYPOINTS), 3]]]),
    "obb": (OBBModel, ["OBB", ["nc", 1]]),
}


def build(head: Head, layers: Path = ARCHITECTURE, weights: Path = WEIGHTS) -> Any:
    """The embedded detector, or another one of its scenes, with another head, its weights where they fit."""
    architecture: dict[str, Any] = yaml.safe_load(layers.read_text(encoding="utf-8"))
    kind, (name, arguments) = LAYERS[head]
    architecture["head"][-1][2:] = [name, arguments]
    architecture["nc"] = len(NAMES[head])
    if head == "pose":
        architecture["kpt_shape"] = [len(KEYPOINTS), 3]
    network = kind(architecture, ch=3, nc=len(NAMES[head]), verbose=False)
    own = network.state_dict()
    stored = load_file(weights)
    network.load_state_dict(own | {n: t.float() for n, t in stored.items() if n in own and own[n].shape == t.shape})
    network.names = dict(enumerate(NAMES[head]))
    if head == "pose":
        network.kpt_names = {0: list(KEYPOINTS)}
    network.args = get_cfg(overrides={"overlap_mask": False})
    return network


def targets(head: Head, scene: Scene) -> dict[str, Tensor]:
    """What the loss of a head takes of one scene, in shares of the side."""
    corners = torch.from_numpy(scene.boxes) / SCENE_SIZE
    found = {
        "cls": torch.from_numpy(scene.classes).float(),
        "bboxes": torch.cat(((corners[:, :2] + corners[:, 2:]) / 2, corners[:, 2:] - corners[:, :2]), dim=1),
    }
    if head == "segment":
        found["masks"] = F.max_pool2d(torch.from_numpy(scene.masks[None]).float(), 1, MASK_STRIDE)[0]
    if head == "pose":
        found["keypoints"] = torch.from_numpy(keypoints(scene)) / torch.tensor([SCENE_SIZE, SCENE_SIZE, 1.0])
    if head == "obb":
        boxes = xyxyxyxy2xywhr(torch.from_numpy(turned_boxes(scene)))
        found["bboxes"] = boxes / torch.tensor([*[SCENE_SIZE] * 4, 1.0])
    return found


def batches(head: Head, scenes: list[Scene], rng: np.random.Generator) -> Iterator[dict[str, Tensor]]:
    """Endless shuffled batches; colour channels change places."""
    made = [targets(head, scene) for scene in scenes]
    while True:
        order = rng.permutation(len(scenes))
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            chosen = order[start : start + BATCH_SIZE]
            images = np.stack([scenes[k].image[..., rng.permutation(3)] for k in chosen])
            counts = torch.tensor([len(scenes[k].classes) for k in chosen])
            yield {
                "img": torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255,
                "batch_idx": torch.arange(len(chosen)).repeat_interleave(counts).float(),
            } | {name: torch.cat([made[k][name] for k in chosen]) for name in made[0]}


def main(
    head: Annotated[str, typer.Argument(help="segment, pose or obb")],
    out: Annotated[Path, typer.Option(help="checkpoint to write")],
    minutes: Annotated[float, typer.Option(min=0.1, help="training time, without rendering")] = 8.0,
    seed: int = 0,
    threads: Annotated[int, typer.Option(min=1)] = 2,
    scenes: Annotated[int, typer.Option(min=32)] = SCENES,
) -> None:
    """Train a teacher with one of the further heads."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    kind: Head = head  # type: ignore[assignment]  # one of the three, or no table has such a key
    rendered = [scene for scene in render(kind, TRAINING_SEED, scenes) if len(scene.classes)]
    shuffled = batches(kind, rendered, np.random.default_rng(seed))
    trained: Any = train(build(kind), shuffled, minutes * 60, partial(print, flush=True), WARM_UP)
    out.parent.mkdir(parents=True, exist_ok=True)
    trained.criterion = None
    torch.save({"model": trained, "train_args": {"imgsz": SCENE_SIZE}}, out)


if __name__ == "__main__":
    typer.run(main)
