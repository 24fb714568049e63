"""A calibration set as text, for whoever receives it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from schemas.calibration_set import AREA_EDGES, CalibrationSetManifest, LabelMode
from schemas.text import printable

BAR_WIDTH = 40
"""Length of the longest text bar, characters."""

LABEL_MODES = {
    LabelMode.SAMPLED: "sampled (by the detector itself: nobody's labels were used)",
    LabelMode.GIVEN: "given (SOMEBODY'S LABELS were used)",
}


def describe_set(manifest: CalibrationSetManifest) -> str:
    """Everything a person should know about a verified set, about one screen."""
    return "\n".join(printable(line) for line in _lines(manifest))


def _lines(manifest: CalibrationSetManifest) -> Iterator[str]:
    teacher, statistics, agreement = manifest.teacher, manifest.statistics, manifest.teacher_agreement
    yield f"teacher        {teacher.family}, {len(teacher.class_names)} classes, {teacher.input_size} px"
    yield f"               sha256 {teacher.sha256}"
    yield f"label mode     {LABEL_MODES[manifest.label_mode]}"
    yield f"image source   {manifest.image_source.value}"
    size = manifest.image_size
    order = "" if size.is_square else " (height x width)"
    yield f"images         {manifest.samples} of {size.height} x {size.width} px{order}, seed {manifest.seed}"
    yield f"set digest     {manifest.digest}"
    yield f"made           {manifest.provenance.created.isoformat()} by zsq {manifest.provenance.code_version}"
    yield f"licence        {manifest.licence}"
    if agreement is None:
        yield "agreement      none: there are no boxes to agree with, or nobody measured it"
    else:
        yield f"agreement      teacher mAP50-95 {agreement.map50_95:.3f}, mAP50 {agreement.map50:.3f} on these images"
    if manifest.doubt:
        yield f"               {manifest.doubt}"
    if (checked := manifest.privacy) is not None:
        yield f"privacy check  {checked.verdict.value}: {checked.copy_like} of {checked.images} images look like copies"
        yield f"               of {checked.real_images} real ones (as its maker says; no proof of privacy)"
    for source in manifest.sources:
        yield f"made of        {source.samples} images of set {source.digest}, {source.label_mode.value} labels,"
        yield f"               {source.image_source.value} images, teacher {source.teacher_sha256}"
    yield ""
    yield f"shards         {len(manifest.shards)}, digests verified"
    for shard in manifest.shards:
        yield f"  {shard.file}  {shard.samples:6d} images  {shard.bytes / 1e6:9.2f} MB  sha256 {shard.sha256}"
    yield ""
    yield f"labels         {statistics.boxes} boxes, {statistics.boxes_per_image:.2f} per image"
    origins = ", ".join(f"{count} {origin}" for origin, count in statistics.origin_histogram.items())
    yield f"origins        {origins or 'none'}"
    yield ""
    yield "boxes by class"
    yield from _bars(tuple(statistics.class_histogram), tuple(statistics.class_histogram.values()))
    yield ""
    yield "boxes by share of the image area"
    ranges = [f"{low:.0%} to {high:.0%}" for low, high in pairwise(AREA_EDGES)]
    yield from _bars(ranges, statistics.area_histogram)
    yield ""
    yield "box centres by position"
    for row in statistics.position_histogram:
        yield "  " + " ".join(f"{count:6d}" for count in row)


def _bars(names: Sequence[str], counts: Sequence[int]) -> Iterator[str]:
    longest = max(counts, default=0) or 1
    width = max((len(name) for name in names), default=0)
    for name, count in zip(names, counts, strict=True):
        bar = "█" * (max(1, round(count / longest * BAR_WIDTH)) if count else 0)
        yield f"  {name:<{width}}  {count:6d}  {bar}".rstrip()
