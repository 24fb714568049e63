"""An exported set reads back as validation data and as given labels, box by box."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from PIL import Image
from pycocotools.coco import COCO

from eval_job.data import find_validation_data
from label_formats.boxes import boxes_inside
from label_formats.yolo_rows import label_text, read_rows
from pipeline.sets.choices import ExportFormat
from schemas.calibration_set import CalibrationSetManifest
from schemas.labels import ImageLabels
from stages.shards import open_calibration_set
from synth_job.given_labels import read_given_labels
from tests.pipeline.sets.conftest import zsq_set
from tests.schemas.test_properties import image_labels

NAMES = ("cat", "dog")


@pytest.fixture(params=["coco", "yolo"])
def exported(request: pytest.FixtureRequest, set_folder: Path, tmp_path: Path) -> Path:
    result = zsq_set("export", set_folder, "--format", request.param, "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    return tmp_path / "out"


def test_it_reads_back_as_validation_data(exported: Path, set_folder: Path) -> None:
    data = find_validation_data(str(exported), None).read(NAMES)
    samples = open_calibration_set(set_folder).samples
    assert len(data.images) == len(samples) == 6
    for image, sample in zip(data.images, samples, strict=True):
        np.testing.assert_array_equal(image.pixels(), sample.image())
        x, y, w, h = sample.labels.boxes[0].bbox
        np.testing.assert_allclose(image.boxes, [[x, y, x + w, y + h]], atol=1e-4)
        assert image.classes.tolist() == [sample.labels.boxes[0].category_id]


def test_it_reads_back_as_given_labels(exported: Path, set_folder: Path) -> None:
    coco = exported / "instances.json"
    labels = read_given_labels(coco if coco.exists() else exported / "labels", NAMES)
    for found, sample in zip(labels, open_calibration_set(set_folder).samples, strict=True):
        x, y, w, h = sample.labels.boxes[0].bbox
        np.testing.assert_allclose(found.boxes.numpy() * 32, [[x, y, x + w, y + h]], atol=1e-4)
        assert found.classes.tolist() == [sample.labels.boxes[0].category_id]


@pytest.mark.parametrize("layout", list(ExportFormat))
def test_rectangles_keep_their_sides_and_boxes_in_every_layout(
    layout: ExportFormat, tmp_path: Path, make_calibration_set: Callable[..., CalibrationSetManifest]
) -> None:
    make_calibration_set(tmp_path / "set", 32, 64)
    assert zsq_set("verify", tmp_path / "set").exit_code == 0
    result = zsq_set("export", tmp_path / "set", "--format", layout.value, "--output", tmp_path / "out")
    assert result.exit_code == 0 and "32x64 px (height x width)" in result.stdout.replace("\n", " ")
    if layout in (ExportFormat.NCHW, ExportFormat.NHWC):
        shape = np.load(tmp_path / "out" / "calibration.npy").shape
        assert shape == ((6, 3, 32, 64) if layout is ExportFormat.NCHW else (6, 32, 64, 3))
        return
    assert Image.open(sorted((tmp_path / "out" / "images").iterdir())[0]).size == (64, 32)
    if layout is ExportFormat.COCO:
        written = json.loads((tmp_path / "out" / "instances.json").read_text())
        assert (written["images"][0]["width"], written["images"][0]["height"]) == (64, 32)
    if layout is ExportFormat.YOLO:  # [2, 4, 16, 8] in pixels: x by the width, y by the height
        first = sorted((tmp_path / "out" / "labels").iterdir())[1].read_text()
        assert first == "0 0.156250000 0.250000000 0.250000000 0.250000000\n"


def test_pycocotools_reads_the_coco_file(set_folder: Path, tmp_path: Path) -> None:
    assert zsq_set("export", set_folder, "--format", "coco", "--output", tmp_path / "out").exit_code == 0
    coco = COCO(tmp_path / "out" / "instances.json")
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == ["cat", "dog"]
    assert len(coco.getAnnIds()) == 6
    description = json.loads((tmp_path / "out" / "instances.json").read_text())["info"]["description"]
    assert "synthesized images, sampled labels" in description


def test_the_yolo_layout_is_what_trainers_expect(set_folder: Path, tmp_path: Path) -> None:
    assert zsq_set("export", set_folder, "--format", "yolo", "--output", tmp_path / "out").exit_code == 0
    data = yaml.safe_load((tmp_path / "out" / "data.yaml").read_text())
    assert "path" not in data, "images lie beside the file, wherever that is"
    assert data["names"] == {0: "cat", 1: "dog"}
    images, labels = (sorted((tmp_path / "out" / name).iterdir()) for name in ("images", "labels"))
    assert [path.stem for path in images] == [path.stem for path in labels]
    assert Image.open(images[0]).size == (32, 32)
    assert labels[1].read_text() == "0 0.312500000 0.250000000 0.500000000 0.250000000\n"


def test_a_folder_that_is_not_empty_is_left_alone(set_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    result = zsq_set("export", set_folder, "--format", "coco", "--output", tmp_path / "out")
    assert result.exit_code == 2 and "not empty" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_damaged_set_is_not_exported(set_folder: Path, tmp_path: Path) -> None:
    (set_folder / "calib-000001.tar").write_bytes(b"")
    assert zsq_set("export", set_folder, "--format", "coco", "--output", tmp_path / "out").exit_code == 3
    assert not (tmp_path / "out").exists()


@given(image_labels())
def test_any_box_survives_both_formats_cut_at_the_edges(labels: ImageLabels) -> None:
    inside = boxes_inside(labels)
    for _, (x, y, w, h) in inside:
        assert x >= 0 and y >= 0 and x + w <= labels.width + 1e-9 and y + h <= labels.height + 1e-9
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.txt"
        path.write_text(label_text(labels), encoding="utf-8")
        rows = read_rows(path, 100_000, "")
    assert len(rows.edges) + rows.duplicates == len(inside)
    sides = np.array([labels.width, labels.height] * 2)
    if not rows.duplicates:
        assert rows.classes == [label.category_id for label, _ in inside]
        for edges, (_, (x, y, w, h)) in zip(rows.edges, inside, strict=True):
            np.testing.assert_allclose(np.array(edges) * sides, [x, y, x + w, y + h], atol=1e-4)


@pytest.mark.parametrize(("layout", "shape"), [("nchw", (6, 3, 32, 32)), ("nhwc", (6, 32, 32, 3))])
def test_an_array_holds_every_pixel(layout: str, shape: tuple[int, ...], set_folder: Path, tmp_path: Path) -> None:
    assert zsq_set("export", set_folder, "--format", layout, "--output", tmp_path / "out").exit_code == 0
    array = np.load(tmp_path / "out" / "calibration.npy")
    assert array.shape == shape
    expected = np.stack([sample.image() for sample in open_calibration_set(set_folder).samples])
    if layout == "nchw":
        assert array.dtype == np.float32 and array.flags.c_contiguous
        array = (array * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, expected)


@pytest.mark.parametrize("layout", ["images", "list"])
def test_images_alone_or_with_their_list(layout: str, set_folder: Path, tmp_path: Path) -> None:
    assert zsq_set("export", set_folder, "--format", layout, "--output", tmp_path / "out").exit_code == 0
    images = sorted((tmp_path / "out" / "images").iterdir())
    assert len(images) == 6
    listed = tmp_path / "out" / "dataset.txt"
    assert listed.exists() is (layout == "list")
    if layout == "list":
        assert [tmp_path / "out" / line for line in listed.read_text().splitlines()] == images
