"""The calibration set at a glance: a grid of its images with their boxes."""

import colorsys
from pathlib import Path

from PIL import Image, ImageDraw

from stages.shards import Sample
from stages.storage import atomic_path

COLUMNS = 8
MAX_IMAGES = 64
CELL = 200
"""Longer side of one image on the sheet, pixels."""
GAP = 4


def write_contact_sheet(path: Path, samples: list[Sample], class_names: tuple[str, ...]) -> None:
    """Write a PNG with up to 64 images, evenly spread over the set, boxes drawn and named."""
    shown = samples[:: max(1, -(-len(samples) // MAX_IMAGES))]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    cells = [annotated(sample, class_names, CELL) for sample in shown]
    across, down = cells[0].width + GAP, cells[0].height + GAP
    sheet = Image.new("RGB", (columns * across + GAP, rows * down + GAP), "white")
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        sheet.paste(cell, (GAP + column * across, GAP + row * down))
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def annotated(sample: Sample, class_names: tuple[str, ...], side: int) -> Image.Image:
    """An image with its boxes and their names, its longer side `side` pixels."""
    width, height = sample.labels.width, sample.labels.height
    longer = max(width, height)
    cell = Image.fromarray(sample.image()).resize(
        (max(1, round(width * side / longer)), max(1, round(height * side / longer))), Image.Resampling.BICUBIC
    )
    draw = ImageDraw.Draw(cell)
    for box in sample.labels.boxes:
        x, y, w, h = (value * side / longer for value in box.bbox)
        hue = box.category_id * 0.618034 % 1.0  # golden-ratio steps keep neighbouring classes apart
        colour = tuple(int(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 1.0))
        draw.rectangle((x, y, x + max(w, 3), y + max(h, 3)), outline=colour, width=2)
        name = class_names[box.category_id]
        left, top, right, bottom = draw.textbbox((x + 2, y + 1), name)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
        draw.text((x + 2, y + 1), name, fill="black")
    return cell
