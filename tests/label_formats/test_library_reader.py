"""Random folders of YOLO data, read here and by the Ultralytics library: same images, same boxes, same classes."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from label_formats.find import find_labelled_images
from label_formats.images import IMAGE_SUFFIXES, REFUSED_SUFFIXES
from label_formats.yolo import SMALLEST
from schemas.errors import InputError

NAMES = ("cat", "dog", "owl")
LAYOUTS, PER_TEST = 240, 20
Boxes = list[tuple[float, ...]]
"""Sorted rows of class, x1, y1, x2, y2 in pixels."""


@dataclass
class Layout:
    """What was written, and where the two readers are told to look."""

    root: Path
    random: random.Random
    data: Path = Path()
    sources: list[Path] = field(default_factory=list)

    def name(self) -> str:
        stem = self.random.choice(["a", "b.c", "0012", "ä ö", "x-1"]) + str(self.random.randrange(10**6))
        suffixes = [".png", ".jpg", ".JPG", ".jpeg", ".bmp", ".webp", ".tif", ".avif", ".jp2", ".mpo"]
        return stem + self.random.choice(suffixes)

    def image(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        side = self.random.randint
        size = (side(3, 9), 40) if self.random.random() < 0.05 else (side(SMALLEST, 60), side(SMALLEST, 60))
        image = Image.effect_noise(size, 60).convert(self.random.choice(["L", "RGB"]))
        exif = Image.Exif()
        if self.random.random() < 0.2 and path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            exif[0x0112] = self.random.randint(1, 8)
        kind = {".jpg": "JPEG", ".mpo": "JPEG", ".tif": "TIFF", ".jp2": "JPEG2000"}.get(path.suffix.lower())
        image.save(path, format=kind, exif=exif)

    def rows(self) -> list[str]:
        number, share = self.random.randint(0, 4), self.random.random
        polygons = share() < 0.2
        rows = []
        for _ in range(number):
            shares = [share() for _ in range(2 * self.random.randint(3, 6))] if polygons else self.box()
            rows.append(" ".join([str(self.random.randrange(len(NAMES))), *(f"{each:.6f}" for each in shares)]))
        if rows and share() < 0.3:
            rows += self.random.choices(rows, k=2)  # rows that are there twice
        if rows and share() < 0.06:
            odd = ["0 0.5 0.5 -0.1 0.2", "3 0.5 0.5 0.1 0.1", "0 0.5 0.5 0.1", "1 5 5 1 1", "x", "0.5 .5 .5 .1 .1"]
            rows.append(self.random.choice(odd))
        return rows

    def box(self) -> list[float]:
        w, h = self.random.random(), self.random.random() * self.random.choice([0, 1, 1, 1, 1])
        return [self.random.uniform(-0.01, 1.01), self.random.uniform(0, 1), w, h]

    def label(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        text = self.random.choice(["\n", "\r\n", "\n\n"]).join(self.rows()) + self.random.choice(["", "\n"])
        path.write_bytes(self.random.choice([b"", b"", b"\xef\xbb\xbf"]) + text.encode())

    def pairs(self, images: Path, labels: Path) -> list[Path]:
        """Images in folders of up to two levels, most of them with labels, and files that are none of both."""
        made = []
        for _ in range(self.random.randint(1, 5)):
            below = Path(*self.random.choices(["cam", "b 2", "images2"], k=self.random.choice([0, 0, 1, 2])))
            path = images / below / self.name()
            self.image(path)
            made.append(path)
            if self.random.random() < 0.85:
                self.label((labels / below / path.name).with_suffix(".txt"))
        self.noise(images, labels)
        return made

    def noise(self, images: Path, labels: Path) -> None:
        if self.random.random() < 0.3:
            (images / "._a.jpg").write_bytes(b"\0\5\26\7Mac OS X")
        if self.random.random() < 0.2:
            self.image(images / ".ipynb_checkpoints" / "a-checkpoint.png")
        if self.random.random() < 0.2:
            (images / "notes.md").write_text("hello")
        if self.random.random() < 0.2:
            self.label(labels / "of-no-image.txt")
        if self.random.random() < 0.2:
            labels.mkdir(parents=True, exist_ok=True)
            (labels / "classes.txt").write_text("\n".join(NAMES))
        if self.random.random() < 0.15:  # a folder elsewhere, linked into both
            self.image(self.root / "elsewhere" / "linked.png")
            apart = self.root / ("elsewhere" if images == labels else "elsewhere labels")
            self.label(apart / "linked.txt")
            labels.mkdir(parents=True, exist_ok=True)
            for folder, target in {images: self.root / "elsewhere", labels: apart}.items():
                (folder / "link").symlink_to(target)
        if self.random.random() < 0.1:
            (images / "around").symlink_to(images / "nowhere")


def folder(layout: Layout) -> None:
    layout.pairs(layout.root / "images", layout.root / "labels")
    layout.data, layout.sources = layout.root, [layout.root / "images"]


def one_split(layout: Layout) -> None:
    for split in ("train", "val"):
        layout.pairs(layout.root / "images" / split, layout.root / "labels" / split)
    layout.sources = [layout.root / "images" / "val"]
    layout.data = layout.random.choice([layout.root, *layout.sources])


def beside(layout: Layout) -> None:
    layout.pairs(layout.root / "obj", layout.root / "obj")
    layout.data, layout.sources = layout.root / "obj", [layout.root / "obj"]


def roboflow(layout: Layout) -> None:
    for split in ("train", "valid"):
        layout.pairs(layout.root / split / "images", layout.root / split / "labels")
    layout.data, layout.sources = layout.root, [layout.root / "valid" / "images"]


def yaml_of_folders(layout: Layout) -> None:
    folders = layout.random.sample(["images/a", "images/b", "c/images"], k=layout.random.randint(1, 3))
    for name in folders:
        layout.pairs(layout.root / name, layout.root / name.replace("images", "labels"))
    values = {"train": "images/none", "val": folders if len(folders) > 1 else folders[0]}
    write_yaml(layout, values)
    layout.sources = [layout.root / name for name in folders]


def yaml_of_a_list(layout: Layout) -> None:
    made = layout.pairs(layout.root / "images", layout.root / "labels")
    chosen = layout.random.sample(made, k=layout.random.randint(1, len(made)))
    lines = [f"./{path.relative_to(layout.root)}" if layout.random.random() < 0.5 else str(path) for path in chosen]
    (layout.root / "val.txt").write_bytes(layout.random.choice([b"", b"\xef\xbb\xbf"]) + "\n".join(lines).encode())
    write_yaml(layout, {"train": "val.txt", "val": "val.txt"})
    layout.sources = [layout.root / "val.txt"]


def write_yaml(layout: Layout, values: dict[str, object]) -> None:
    layout.data = layout.root / "data.yaml"
    names = layout.random.choice([list(NAMES), dict(enumerate(NAMES)), {str(n): name for n, name in enumerate(NAMES)}])
    path = layout.random.choice([{}, {"path": str(layout.root)}])
    layout.data.write_text(yaml.safe_dump(path | values | {"names": names, "nc": 3}), encoding="utf-8")


KINDS: tuple[Callable[[Layout], None], ...] = (folder, one_split, beside, roboflow, yaml_of_folders, yaml_of_a_list)


def sorted_rows(classes: NDArray[np.int64], boxes: NDArray[np.float32]) -> Boxes:
    rows = np.concatenate([classes.reshape(-1, 1), boxes.reshape(-1, 4)], axis=1)
    kept = rows[(rows[:, 3] > rows[:, 1]) & (rows[:, 4] > rows[:, 2])]  # the library keeps boxes without area
    return sorted(tuple(np.round(row, 3).tolist()) for row in kept)


def read_here(data: Path) -> dict[Path, Boxes] | None:
    try:
        images = find_labelled_images(data, None, None).read(NAMES).images
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 900
        return None
    found = {}
    for image in images:
        assert isinstance(image.source, Path)
        assert image.size() == (image.pixels().shape[1], image.pixels().shape[0])
        found[image.source] = sorted_rows(image.classes, image.boxes)
    return found


def read_by_the_library(sources: list[Path]) -> tuple[dict[Path, Boxes], int]:
    """Its images and boxes, and the number of images that it drops for their labels."""
    from ultralytics.data.dataset import YOLODataset

    paths = [str(source) for source in sources]
    try:
        labels = (data := YOLODataset(img_path=paths, data={"names": dict(enumerate(NAMES))}, augment=False)).labels
    except (RuntimeError, FileNotFoundError):
        return {}, 1
    found = {}
    for each in labels:
        (height, width), xywh = each["shape"], each["bboxes"].astype(np.float64)
        edges = np.concatenate([xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2], axis=1)
        found[Path(each["im_file"])] = sorted_rows(each["cls"], edges * [width, height, width, height])
    every = {Path(file) for file in YOLODataset.get_img_files(data, paths)}
    small = {file for file in every if min(Image.open(file).size) < SMALLEST}
    return found, len(every - small - found.keys())


@pytest.mark.parametrize("first", range(0, LAYOUTS, PER_TEST))
def test_random_layouts_are_read_as_the_library_reads_them(tmp_path: Path, first: int) -> None:
    compared = 0
    for number in range(first, first + PER_TEST):
        layout = Layout(tmp_path / str(number), random.Random(number))
        layout.root.mkdir()
        KINDS[number % len(KINDS)](layout)
        mine = read_here(layout.data)
        theirs, dropped = read_by_the_library(layout.sources)
        if dropped or not any(theirs.values()):
            assert mine is None, f"layout {number}: read, although the library drops {dropped} images"
            continue
        assert mine is not None, f"layout {number}: refused, although the library reads {len(theirs)} images"
        assert mine.keys() == theirs.keys(), f"layout {number}"
        for image, boxes in theirs.items():
            np.testing.assert_allclose(mine[image], boxes, atol=2e-2, err_msg=f"layout {number}, {image}")
        compared += 1
    assert compared >= PER_TEST // 3


def test_the_formats_of_the_library_are_read_or_refused_by_name() -> None:
    from ultralytics.data.utils import IMG_FORMATS

    assert {f".{name}" for name in IMG_FORMATS} == {*IMAGE_SUFFIXES, *REFUSED_SUFFIXES}
