"""An archive of the layout of COCO val2017, small and of rendered scenes, on a server of this machine."""

import hashlib
import http.server
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detectors.embedded.scenes import CLASS_NAMES, VALIDATION_SEED, render_scene


@dataclass
class SmallCoco:
    """What is served.

    Attributes:
        served: folder of the server.
        sources: the YAML file that says what is there.
        asked: paths that were asked for.
        images: how many there are.
    """

    served: Path
    sources: Path
    images: int
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def small_coco(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SmallCoco]:
    served = tmp_path / "served"
    coco = SmallCoco(served, tmp_path / "sources.yaml", images=6)

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            coco.asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(served)))
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    images, annotations = archives(coco.images)
    sources = {
        "coco": {
            "images": stored(served, "zips", "val2017.zip", images, address),
            "annotations": stored(served, "annotations", "annotations_trainval2017.zip", annotations, address),
        },
        "checkpoints": {"yolov5s": stored(served, "v7.0", "yolov5s.pt", b"weights", address)},
    }
    coco.sources.write_text(yaml.safe_dump(sources))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield coco
    server.shutdown()
    server.server_close()


def stored(served: Path, folder: str, name: str, content: bytes, address: str) -> dict[str, Any]:
    (served / folder).mkdir(parents=True)
    (served / folder / name).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    return {"address": f"{address}/{folder}", "file": name, "bytes": len(content), "sha256": digest}


def archives(count: int) -> tuple[bytes, bytes]:
    """Images and annotations, as COCO's own archives hold them; one image more than the labels name."""
    pictures, labels = io.BytesIO(), io.BytesIO()
    instances: dict[str, list[dict[str, Any]]] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": 10 + number, "name": name} for number, name in enumerate(CLASS_NAMES)],
    }
    with zipfile.ZipFile(pictures, "w") as archive:
        archive.mkdir("val2017")
        for index in range(count + 1):
            scene = render_scene(VALIDATION_SEED, index)
            name, content = f"{index:012}.jpg", io.BytesIO()
            Image.fromarray(scene.image).save(content, "JPEG", quality=95)
            archive.writestr(f"val2017/{name}", content.getvalue())
            if index == count:
                break
            height, width = scene.image.shape[:2]
            instances["images"].append({"id": index, "file_name": name, "width": width, "height": height})
            for (x1, y1, x2, y2), kind in zip(scene.boxes.tolist(), scene.classes.tolist(), strict=True):
                box = [x1, y1, x2 - x1, y2 - y1]
                instances["annotations"].append(
                    {"id": len(instances["annotations"]) + 1, "image_id": index, "category_id": 10 + kind, "bbox": box,
                     "area": box[2] * box[3], "iscrowd": 0}
                )  # fmt: skip
    with zipfile.ZipFile(labels, "w") as archive:
        archive.writestr("annotations/instances_train2017.json", "{}")
        archive.writestr("annotations/instances_val2017.json", json.dumps(instances))
    return pictures.getvalue(), labels.getvalue()
