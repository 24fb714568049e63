"""The calibration set at a glance: a grid of its images with their boxes."""

import colorsys
from pathlib import Path

from PIL import Image, ImageDraw

from schemas.labels import BoxLabel
from stages.drawing import bones_of, label_outlines
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
        draw_shape(draw, box, side / longer)
        x, y, w, h = (value * side / longer for value in box.bbox)
        colour = colour_of(box)
        draw.rectangle((x, y, x + max(w, 3), y + max(h, 3)), outline=colour, width=2)
        name = class_names[box.category_id]
        left, top, right, bottom = draw.textbbox((x + 2, y + 1), name)
        draw.rectangle((left - 2, top - 1, right + 2, bottom + 1), fill=colour)
        draw.text((x + 2, y + 1), name, fill="black")
    return cell


def colour_of(box: BoxLabel) -> tuple[int, int, int]:
    """Of a class, RGB."""
    hue = box.category_id * 0.618034 % 1.0  # golden-ratio steps keep neighbouring classes apart
    red, green, blue = (int(255 * part) for part in colorsys.hsv_to_rgb(hue, 0.9, 1.0))
    return red, green, blue


def draw_shape(draw: ImageDraw.ImageDraw, box: BoxLabel, scale: float) -> None:
    """Draw what a label says beside its box: a mask or a turned box as outlines, keypoints with lines between them."""
    colour = colour_of(box)
    for outline in label_outlines(box):
        points = [value * scale for value in outline]
        draw.line([*points, *points[:2]], fill=colour, width=2)
    points3 = box.keypoints or ()
    for a, b in bones_of(len(points3)):
        if points3[a][2] and points3[b][2]:
            draw.line([value * scale for value in (*points3[a][:2], *points3[b][:2])], fill=colour, width=2)
    for x, y, seen in points3:
        if seen:
            draw.circle((x * scale, y * scale), 3, fill=colour if seen > 1 else None, outline=colour)
