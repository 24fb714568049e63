"""Rendered scenes as data of the further heads: masks, keypoints and turned boxes are known of every object.

`python -m benchmarks.head_scenes segment --out runs/scenes-segment` writes validation data: COCO for masks and
keypoints, YOLO label files for turned boxes.
"""

import json
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import numpy as np
import typer
import yaml
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_masks

from detectors.embedded.scenes import CLASS_NAMES, SCENE_SIZE, VALIDATION_SEED, Scene, render_scene

Head = Literal["segment", "pose", "obb"]
VALIDATION_SCENES = 256
ARROW = CLASS_NAMES.index("arrow")
KEYPOINTS = {"tip": (0.0, -1.0), "left_wing": (-0.85, -0.05), "right_wing": (0.85, -0.05), "left_tail": (-0.3, 1.0),
             "right_tail": (0.3, 1.0)}  # fmt: skip
"""Corners of an arrow, in its own coordinates."""
RENDERED: dict[str, dict[str, Any]] = {
    "segment": {},
    "pose": {"kinds": (ARROW, ARROW, ARROW, CLASS_NAMES.index("square"), CLASS_NAMES.index("disc"))},
    "obb": {"stretch": 0.5},
}
"""What is different about the scenes of a head: arrows are what a pose is of, and turned boxes are long ones."""
NAMES: dict[str, tuple[str, ...]] = {"segment": CLASS_NAMES, "pose": ("arrow",), "obb": CLASS_NAMES}


def render(head: Head, seed: int, count: int) -> list[Scene]:
    """Scenes of a head, rendered by one process per core."""
    with multiprocessing.get_context("spawn").Pool() as pool:
        return pool.map(partial(_one, head, seed), range(count), chunksize=32)


def _one(head: Head, seed: int, index: int) -> Scene:
    scene = render_scene(seed, index, **RENDERED[head])
    if head != "pose":
        return scene
    keep = np.flatnonzero(scene.classes == ARROW)
    return Scene(
        image=scene.image, boxes=scene.boxes[keep], classes=np.zeros(len(keep), np.int64), masks=scene.masks[keep],
        placements=tuple(scene.placements[k] for k in keep),
    )  # fmt: skip


def keypoints(scene: Scene) -> NDArray[np.float32]:
    """`(N, 5, 3)` of the arrows of a scene: pixels, and 2 where a corner shows, 1 where it is hidden, 0 outside."""
    size = scene.image.shape[0]
    found = np.zeros((len(scene.placements), len(KEYPOINTS), 3), dtype=np.float32)
    for n, placement in enumerate(scene.placements):
        points = placement.in_image(np.array(list(KEYPOINTS.values())))
        near = cv2.dilate(scene.masks[n].astype(np.uint8), np.ones((7, 7), np.uint8))
        for k, (x, y) in enumerate(points):
            if 0 <= x < size and 0 <= y < size:
                found[n, k] = (x, y, 2 if near[int(y), int(x)] else 1)
    return found


def turned_boxes(scene: Scene) -> NDArray[np.float32]:
    """`(N, 4, 2)` corners of the smallest rectangle around the visible part of each object, pixels."""
    corners = []
    for mask in scene.masks:
        rows, columns = np.nonzero(mask)
        pixels = np.stack((columns, rows), axis=1)[:, None] + np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
        corners.append(cv2.boxPoints(cv2.minAreaRect(pixels.reshape(-1, 2).astype(np.float32))))
    return np.array(corners, dtype=np.float32).reshape(-1, 4, 2)


def write_coco(head: Head, scenes: list[Scene], folder: Path) -> None:
    """`instances.json` and `images/`."""
    images, annotations = [], []
    for number, scene in enumerate(scenes, start=1):
        name = f"{number:06d}.png"
        Image.fromarray(scene.image).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "width": SCENE_SIZE, "height": SCENE_SIZE})
        points = keypoints(scene) if head == "pose" else None
        for n, ((x1, y1, x2, y2), category) in enumerate(
            zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True)
        ):
            code = coco_masks.encode(np.asfortranarray(scene.masks[n].astype(np.uint8)))
            annotation = {
                "id": len(annotations) + 1, "image_id": number, "category_id": category + 1, "iscrowd": 0,
                "bbox": [x1, y1, x2 - x1, y2 - y1], "area": float(scene.masks[n].sum()),
                "segmentation": code | {"counts": code["counts"].decode()},
            }  # fmt: skip
            if points is not None:
                annotation["keypoints"] = [round(float(value), 2) for value in points[n].flatten()]
                annotation["num_keypoints"] = int((points[n, :, 2] > 0).sum())
            annotations.append(annotation)
    categories: list[dict[str, Any]] = [{"id": n, "name": name} for n, name in enumerate(NAMES[head], start=1)]
    if head == "pose":
        categories[0]["keypoints"] = list(KEYPOINTS)
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(document), encoding="utf-8")


def write_yolo(scenes: list[Scene], folder: Path) -> None:
    """`data.yaml`, `images/` and `labels/`, `class x1 y1 … x4 y4` a line."""
    (folder / "labels").mkdir(exist_ok=True)
    for number, scene in enumerate(scenes, start=1):
        Image.fromarray(scene.image).save(folder / "images" / f"{number:06d}.png")
        shares = np.clip(turned_boxes(scene).reshape(-1, 8) / SCENE_SIZE, -0.009, 1.009)
        rows = [" ".join([str(c), *(f"{v:.6f}" for v in row)]) for c, row in zip(scene.classes, shares, strict=True)]
        (folder / "labels" / f"{number:06d}.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")
    data = {"train": "images", "val": "images", "names": dict(enumerate(CLASS_NAMES))}
    (folder / "data.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")


def main(
    head: Annotated[str, typer.Argument(help="segment, pose or obb")],
    out: Annotated[Path, typer.Option(help="folder to write")],
    count: Annotated[int, typer.Option(min=1)] = VALIDATION_SCENES,
) -> None:
    """Write scenes that no training used."""
    kind: Head = head  # type: ignore[assignment]  # one of the three, or the table below has no such key
    scenes = render(kind, VALIDATION_SEED, count)
    (out / "images").mkdir(parents=True, exist_ok=True)
    if kind == "obb":
        write_yolo(scenes, out)
    else:
        write_coco(kind, scenes, out)


if __name__ == "__main__":
    typer.run(main)
