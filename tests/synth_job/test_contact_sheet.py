"""The contact sheet shows the set at a glance, whatever its labels are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from schemas.labels import BoxLabel, ImageLabels, LabelOrigin
from stages.shards import Sample, read_shard, write_shard
from synth_job.contact_sheet import CELL, GAP, write_contact_sheet

NAMES = ("cat", "a class with a rather long name")


def samples(folder: Path, count: int, *boxes: tuple[float, float, float, float]) -> list[Sample]:
    labels = ImageLabels(
        width=32,
        height=32,
        boxes=tuple(BoxLabel(bbox=box, category_id=k % 2, origin=LabelOrigin.SAMPLED) for k, box in enumerate(boxes)),
    )
    image = np.full((32, 32, 3), 40, dtype=np.uint8)
    record = write_shard(folder, 0, [(image, labels)] * count, first_sample=0, seed=0, key="k")
    return read_shard(folder / record.file, count)


@pytest.mark.parametrize(
    ("count", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (8, 8, 1), (9, 8, 2), (64, 8, 8), (65, 8, 5), (200, 8, 7)]
)
def test_the_sheet_is_a_png_with_a_cell_for_each_shown_image(
    tmp_path: Path, count: int, columns: int, rows: int
) -> None:
    write_contact_sheet(tmp_path / "sheet.png", samples(tmp_path, count, (4.0, 4.0, 20.0, 20.0)), NAMES)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.size == (columns * (CELL + GAP) + GAP, rows * (CELL + GAP) + GAP)


@pytest.mark.parametrize("box", [(5.0, 5.0, 1.0, 1.0), (31.0, 31.0, 1.0, 1.0), (0.0, 0.0, 32.0, 32.0), (3, 3, 1e-3, 9)])
def test_tiny_boxes_and_boxes_at_the_border_are_drawn(tmp_path: Path, box: tuple[float, float, float, float]) -> None:
    write_contact_sheet(tmp_path / "sheet.png", samples(tmp_path, 1, tuple(map(float, box))), NAMES)  # type: ignore[arg-type]
    with Image.open(tmp_path / "sheet.png") as sheet:
        colours = {tuple(pixel) for pixel in np.asarray(sheet).reshape(-1, 3)}
    assert colours - {(255, 255, 255), (40, 40, 40)}, "nothing was drawn"


def test_boxes_are_drawn_where_they_are(tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", samples(tmp_path, 1, (16.0, 16.0, 8.0, 8.0)), NAMES)
    with Image.open(tmp_path / "sheet.png") as sheet:
        cell = np.asarray(sheet)[GAP : GAP + CELL, GAP : GAP + CELL]
    rows, columns = np.nonzero((cell != 40).any(axis=2))
    scale = CELL / 32
    assert (rows.min(), columns.min()) == pytest.approx((16 * scale, 16 * scale), abs=2)
    assert rows.max() == pytest.approx(24 * scale, abs=2)


def test_an_image_without_boxes_is_shown_as_it_is(tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "sheet.png", samples(tmp_path, 1), NAMES)
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert (np.asarray(sheet)[GAP : GAP + CELL, GAP : GAP + CELL] == 40).all()
