"""Images with boxes drawn over them as SVG: sharp at any size, and the image itself travels once."""

import base64
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from PIL import Image

from schemas.errors import VerificationError
from schemas.evaluation import SAMPLES_FOLDER, SampleBox, SamplePicture
from schemas.labels import BoxLabel
from schemas.layer_study import SetCheck, SetImage
from stages.drawing import bones_of, label_outlines
from stages.shards import CalibrationSet
from stages.storage import file_digest

MAX_TILES = 96
TILE = 240
"""Longer side of a calibration image on the page, pixels."""
JPEG_QUALITY = 82
SAME_OBJECT = 0.5
"""IoU from which two boxes of a class show the same object."""


@dataclass(frozen=True)
class Comparison:
    """One sample image as labelled, as full precision sees it, and as a student does."""

    number: int
    image: Markup
    panels: list[tuple[str, Markup, str]]
    """Heading, picture, and a sentence that counts its boxes."""
    differing: int = 0
    """Boxes that one of two models lacks."""


def comparisons(
    samples: Sequence[SamplePicture], folder: Path, models: Sequence[str], labelled: bool = True
) -> list[Comparison] | None:
    """The sample pictures with the detections of `models`, after the labels where the data is `labelled`.

    None where the picture files were taken away.

    With two models, boxes of one that the other lacks are dashed, and images with most of them come first.

    Raises:
        VerificationError: a picture does not match its digest.
    """
    paths = [folder / SAMPLES_FOLDER / sample.file for sample in samples]
    if not all(path.is_file() for path in paths):
        return None
    found = [
        _comparison(number, sample, path, models, labelled)
        for number, (sample, path) in enumerate(zip(samples, paths, strict=True), start=1)
    ]
    return sorted(found, key=lambda each: -each.differing)


@dataclass(frozen=True)
class Tile:
    """An image of the calibration set on the contact sheet.

    Attributes:
        picture: with its labels; those that the detector does not see are dashed.
        index: place in the set, from 0.
        classes: names of its labels, for a reader who searches.
        found: share of its labels that the detector sees; None where it was not looked at.
        failed: number of labels that the detector does not see.
    """

    picture: Markup
    index: int
    classes: str
    found: float | None
    failed: int


def calibration_tiles(calibration_set: CalibrationSet, check: SetCheck | None = None) -> list[Tile]:
    """Up to `MAX_TILES` images of the set in its order: those with most labels that fail, the others evenly spread.

    Args:
        calibration_set: the set.
        check: which labels the detector sees; one of another set is left aside.
    """
    checked = {}
    if check is not None and check.set_digest == calibration_set.manifest.digest:
        checked = {each.index: each for each in check.images}
    count = min(MAX_TILES, len(calibration_set.samples))
    failing = sorted(
        (each for each in checked.values() if each.failed), key=lambda each: (-len(each.failed), each.index)
    )
    chosen = {each.index for each in failing[: count // 2]}
    others = [n for n in range(len(calibration_set.samples)) if n not in chosen]
    wanted = count - len(chosen)
    chosen |= {others[(2 * k + 1) * len(others) // (2 * wanted)] for k in range(wanted)}
    return [_tile(calibration_set, index, checked.get(index)) for index in sorted(chosen)]


@dataclass(frozen=True)
class CheckedLabels:
    """How many labels of a set were looked for in its images again, and how many were seen."""

    labels: int
    seen: int
    confidence: float


def checked_labels(check: SetCheck | None, digest: str) -> CheckedLabels | None:
    """Sums over the images that were looked at; None where none of this set were."""
    if check is None or check.set_digest != digest or not check.images:
        return None
    return CheckedLabels(
        labels=sum(each.labels for each in check.images),
        seen=sum(each.labels - len(each.failed) for each in check.images),
        confidence=check.confidence,
    )


def _tile(calibration_set: CalibrationSet, index: int, checked: SetImage | None) -> Tile:
    sample, names = calibration_set.samples[index], calibration_set.manifest.teacher.class_names
    picture = Image.fromarray(sample.image())
    picture.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    boxes = [drawn_box(box, names[box.category_id]) for box in sample.labels.boxes]
    width, height = sample.labels.width, sample.labels.height
    image = Markup('<image href="{}" width="{}" height="{}"/>').format(jpeg_uri(picture), width, height)
    failed = set(checked.failed) if checked else set()
    words = f"Calibration image {index + 1}: {spoken(boxes)}" + (f"; {len(failed)} not seen" if failed else "")
    return Tile(
        picture=_picture(image, width, height, boxes, failed, words, 0.085),
        index=index,
        classes=" ".join(dict.fromkeys(box.class_name.lower() for box in boxes)),
        found=checked.found if checked else None,
        failed=len(failed),
    )


def drawn_box(box: BoxLabel, name: str) -> SampleBox:
    """A label of the set as it is drawn."""
    return SampleBox(
        bbox=box.bbox,
        class_name=name,
        outlines=tuple(tuple(round(value, 1) for value in outline) for outline in label_outlines(box)),
        points=box.keypoints or (),
    )


def spoken(boxes: Sequence[SampleBox]) -> str:
    """The boxes in words: `2 person, 1 dog`."""
    counts: dict[str, int] = {}
    for box in boxes:
        counts[box.class_name] = counts.get(box.class_name, 0) + 1
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "no boxes"


def jpeg_uri(picture: Image.Image) -> str:
    """A data URI."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return _uri(buffer.getvalue())


def unmatched(boxes: Sequence[SampleBox], others: Sequence[SampleBox]) -> set[int]:
    """Indices of the boxes that no other box of their class overlaps by `SAME_OBJECT`; one matches one, best first."""
    free = list(range(len(others)))
    alone: set[int] = set()
    for index, box in enumerate(boxes):
        same = [other for other in free if others[other].class_name == box.class_name]
        best = max(same, key=lambda other: _iou(box, others[other]), default=None)
        if best is None or _iou(box, others[best]) < SAME_OBJECT:
            alone.add(index)
        else:
            free.remove(best)
    return alone


def _comparison(number: int, sample: SamplePicture, path: Path, models: Sequence[str], labelled: bool) -> Comparison:
    if file_digest(path) != sample.sha256:
        raise VerificationError(f"{path}: content does not match its digest; evaluate again")
    identifier = f"sample-{number}"
    image = Markup('<image id="{}" href="{}" width="{}" height="{}"/>').format(
        identifier, _uri(path.read_bytes()), sample.width, sample.height
    )
    use = Markup('<use href="#{}"/>').format(identifier)
    panels: list[tuple[str, Markup, str]] = []
    differing = 0
    shown = {name: sample.detections[name] for name in models if name in sample.detections}
    for heading, boxes in (*([("labels", sample.labels)] if labelled else []), *shown.items()):
        others = [theirs for name, theirs in shown.items() if name != heading]
        alone = unmatched(boxes, others[0]) if len(others) == 1 and heading in shown else set()
        words = spoken(boxes)
        if alone:
            differing += len(alone)
            what = "lost by the student" if heading == next(iter(shown)) else "found by the student alone"
            words += f"; {what}: {spoken([boxes[n] for n in sorted(alone)])}"
        alt = f"Sample {number}, {heading}: {words}"
        panels.append((heading, _picture(use, sample.width, sample.height, boxes, alone, alt, 0.042), words))
    return Comparison(number, image, panels, differing)


def _picture(
    image: Markup, width: int, height: int, boxes: Sequence[SampleBox], dashed: set[int], alt: str, text: float
) -> Markup:
    """`text` is the height of box names as a share of the longer side."""
    size = text * max(width, height)
    groups = [Markup('<g class="alone">{}</g>' if n in dashed else "<g>{}</g>") for n in range(len(boxes))]
    outlines = Markup("").join(
        group.format(_outline(box, n in dashed)) for n, (box, group) in enumerate(zip(boxes, groups, strict=True))
    )
    # On top: no outline crosses them.
    names = Markup("").join(group.format(_name(box, width, size)) for box, group in zip(boxes, groups, strict=True))
    return Markup('<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}">{}{}{}</svg>').format(
        width, height, alt, image, outlines, names
    )


def _outline(box: SampleBox, dashed: bool) -> Markup:
    x, y, w, h = (f"{value:.1f}" for value in box.bbox)
    rectangle = Markup(
        '<rect class="halo" x="{x}" y="{y}" width="{w}" height="{h}"/>'
        '<rect class="box{}" style="--hue:{}" x="{x}" y="{y}" width="{w}" height="{h}"/>'
    ).format(" dashed" if dashed else "", _hue(box), x=x, y=y, w=w, h=h)
    return rectangle + _shape(box)


def _shape(box: SampleBox) -> Markup:
    """The outlines of an object, and its keypoints with the lines between them."""
    hue = _hue(box)
    outlines = [
        Markup('<polygon class="outline" style="--hue:{}" points="{}"/>').format(
            hue, " ".join(f"{v:g}" for v in outline)
        )
        for outline in box.outlines
    ]
    bones = [
        Markup('<line class="bone" style="--hue:{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
            hue, *box.points[a][:2], *box.points[b][:2]
        )
        for a, b in bones_of(len(box.points))
        if box.points[a][2] and box.points[b][2]
    ]
    size = max(0.03 * max(box.bbox[2:]), 0.5)
    dots = [
        Markup('<circle class="dot{}" style="--hue:{}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
            "" if seen > 1 else " hidden", hue, x, y, size
        )
        for x, y, seen in box.points
        if seen
    ]
    return Markup("").join([*outlines, *bones, *dots])


def _name(box: SampleBox, width: int, size: float) -> Markup:
    """The name and score of a box above it, `size` high, inside the picture; squeezed to its plate in any font."""
    text = box.class_name if box.score >= 1 else f"{box.class_name} {box.score:.2f}"
    plate = min(0.56 * size * len(text) + 0.5 * size, float(width))
    left, top = min(box.bbox[0], width - plate), max(box.bbox[1] - 1.15 * size, 0.0)
    return Markup(
        '<rect class="tag" style="--hue:{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"/>'
        '<text class="tag-text" x="{:.1f}" y="{:.1f}" font-size="{:.1f}" textLength="{:.1f}"'
        ' lengthAdjust="spacingAndGlyphs">{}</text>'
    ).format(
        _hue(box),
        left,
        top,
        plate,
        1.15 * size,
        left + 0.25 * size,
        top + 0.9 * size,
        size,
        plate - 0.5 * size,
        text,
    )


def _hue(box: SampleBox) -> int:
    """A class has one hue on every picture of every report."""
    return zlib.crc32(box.class_name.encode()) % 360


def _iou(a: SampleBox, b: SampleBox) -> float:
    ax, ay, aw, ah = a.bbox
    bx, by, bw, bh = b.bbox
    across = max(0.0, min(ax + aw, bx + bw) - max(ax, bx))
    down = max(0.0, min(ay + ah, by + bh) - max(ay, by))
    union = aw * ah + bw * bh - across * down
    return across * down / union if union > 0 else 0.0


def _uri(content: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()
