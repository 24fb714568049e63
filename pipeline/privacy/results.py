"""What the check leaves behind: tables on the terminal, a folder for the owner, a record in the set's manifest."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageOps

from label_formats.files import count_of, some
from label_formats.images import read_image
from pipeline.privacy.findings import Findings
from schemas.calibration_set import MANIFEST, CalibrationSetManifest
from schemas.errors import ConfigError, VerificationError
from schemas.privacy import NEAREST_PAIRS, PRIVACY, ComparedSample, NearestImage, PrivacyReport, Verdict
from stages.ranks import Rank
from stages.stage import Stage
from stages.storage import atomic_path, write_text

SHOWN_ROWS = 8
"""Nearest pairs in the table."""
SHOWN_PAIRS = 24
"""Nearest pairs in the picture."""
CELL = 200
"""Side of an image in the picture, pixels."""
CAPTION = 16
GAP = 4


def check_output(output: Path | None, folder: Path, against: Path) -> None:
    """Refuse a folder for the results that would leave together with the set, or that changes the real images.

    Raises:
        ConfigError: `output` lies in the set's folder, or among the real images.
    """
    for other, what in ((folder, "the folder of the set, with which it would leave"), (against, "the real images")):
        if output is not None and output.resolve().is_relative_to(other.resolve()):
            raise ConfigError(
                f"--output {output}: lies in {what}; real images and their names go there, so choose another one"
            )


def print_findings(findings: Findings, stage: Stage) -> None:
    """The nearest pairs, and what the check says."""
    report, record = findings.report, findings.report.record
    rows = [
        (
            str(sample.sample),
            each.measure,
            each.image,
            f"{each.distance:.2f}",
            f"{each.ratio:.2f}",
            _mark(each),
        )
        for sample in nearest_first(report)[:SHOWN_ROWS]
        for each in sample.nearest
    ]
    columns = ("image of the set", "by", "nearest real image", "distance", "ratio", "")
    stage.reporter.table("Nearest real images", columns, rows)
    verdict = [
        ("images of the set", str(record.images)),
        ("real images", str(record.real_images)),
        ("look like copies", str(record.copy_like)),
    ]
    for real in report.real:
        verdict += [
            (f"near by {real.measure}", f"below {real.near:.2f}; below {real.median:.2f} at ratio < {real.ratio:.2f}"),
            ("  as near to another real image", f"{real.near_each_other:.0%} of the real images"),
        ]
    verdict += [(f"planted copies found: {each.kind}", f"{each.found} of {each.planted}") for each in record.planted]
    verdict.append(("verdict", record.verdict.value))
    stage.reporter.table("Privacy check", ("", ""), verdict)


def nearest_first(report: PrivacyReport) -> list[ComparedSample]:
    """The images of the set: those that look like copies, then the others, nearest to what is near first."""
    near = {real.measure: max(real.near, 1e-6) for real in report.real}

    def order(sample: ComparedSample) -> tuple[bool, float]:
        return not sample.copy_like, min(each.distance / near[each.measure] for each in sample.nearest)

    return sorted(report.samples, key=order)


def write_findings(findings: Findings, output: Path) -> None:
    """Write `privacy.json` and a picture of the nearest pairs: for the owner alone.

    Raises:
        InputError: it cannot be written, or a real image is gone.
    """
    shown = nearest_first(findings.report)[:SHOWN_PAIRS]
    columns = 1 + len(findings.report.real)
    size = (columns * (CELL + GAP) + GAP, len(shown) * (CELL + CAPTION + GAP) + GAP)
    sheet = Image.new("RGB", size, "white")
    for row, sample in enumerate(shown):
        cells = [(f"set {sample.sample}", findings.calibration_set.samples[sample.sample].image())]
        cells += [
            (
                f"{each.measure} {each.distance:.2f} ratio {each.ratio:.2f} {_mark(each)}",
                read_image(findings.real.folder / each.image),
            )
            for each in sample.nearest
        ]
        upper = GAP + row * (CELL + CAPTION + GAP)
        for column, (caption, pixels) in enumerate(cells):
            left = GAP + column * (CELL + GAP)
            sheet.paste(ImageOps.pad(Image.fromarray(pixels), (CELL, CELL), color="white"), (left, upper + CAPTION))
            ImageDraw.Draw(sheet).text((left, upper), caption, fill="black")
    with atomic_path(output / NEAREST_PAIRS) as temporary:
        sheet.save(temporary, format="PNG")
    write_text(output / PRIVACY, findings.report.to_json())


def record_findings(findings: Findings, stage: Stage) -> None:
    """Put the record, which names no real image, into the set's manifest; shards and digest stay what they are.

    Raises:
        InputError: somebody else writes the set's folder, or it cannot be written.
        VerificationError: it is another set by now.
    """
    folder, digest = findings.calibration_set.folder, findings.report.set_digest
    with stage.claim(folder, digest, Rank(), lambda: False):
        manifest = CalibrationSetManifest.read(folder / MANIFEST)
        if manifest.digest != digest:
            raise VerificationError(f"{folder}: holds another set than the one that was checked; run the check again")
        recorded = manifest.model_copy(update={"privacy": findings.report.record})
        write_text(folder / MANIFEST, recorded.to_json())


def refuse_copies(findings: Findings) -> None:
    """End with an error where the set should not leave as it is.

    Raises:
        VerificationError: images look like copies, or the check could not see copies that it planted.
    """
    record, folder = findings.report.record, findings.calibration_set.folder
    if record.verdict is Verdict.COPIES:
        positions = [str(sample.sample) for sample in findings.report.samples if sample.copy_like]
        raise VerificationError(
            f"{folder}: {count_of(record.copy_like, 'image')} of {record.images} may be copies of real ones (at "
            f"{some(positions)}); look at the pairs that --output writes before you share the set"
        )
    if record.verdict is Verdict.INCONCLUSIVE:
        raise VerificationError(
            f"{folder}: the check missed copies that it planted itself, so that it says nothing on these real images; "
            "are they blank, or alike?"
        )


def _mark(nearest: NearestImage) -> str:
    return "COPY?" if nearest.copy_like else ""
