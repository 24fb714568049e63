"""`zsq set …`: what teams do with finished calibration sets."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.sets.choices import Difference, ExportFormat
from stages.options import Overwrite
from stages.stage import Stage, run_stage

if TYPE_CHECKING:
    from schemas.calibration_set import CalibrationSetManifest

# What a command needs beyond this (numpy, Pillow, fsspec) is loaded when it runs: `zsq --help` need not wait for it.

set_app = typer.Typer(help="Verify, look at, share and rearrange finished calibration sets.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="calibration set")]
NewFolder = Annotated[Path, typer.Option("--output", metavar="FOLDER", help="folder of the new set")]


@set_app.command()
def inspect(
    folder: Folder,
    as_json: Annotated[bool, typer.Option("--json", help="print the manifest as JSON")] = False,
) -> None:
    """Verify a calibration set and say what is in it."""
    from pipeline.inspection import describe_set
    from stages.shards import open_calibration_set

    with run_stage("set inspect") as stage:
        manifest = open_calibration_set(folder).manifest
        stage.reporter.output(manifest.to_json() if as_json else describe_set(manifest))


@set_app.command()
def verify(folder: Folder) -> None:
    """Check everything that can be checked without the teacher: digests, labels, statistics, every image."""
    from pipeline.sets.verify import verify_set

    with run_stage("set verify") as stage:
        _report("Verified", verify_set(folder, stage), str(folder), stage)


@set_app.command()
def pull(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="folder, or file, http(s) or s3 URL of one")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="where the set goes")],
    digest: Annotated[
        str | None,
        typer.Option("--digest", metavar="SHA256", help="set digest that somebody told you; no other is taken"),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Fetch a set, verifying every byte; again after a break: only what is missing is fetched."""
    from pipeline.sets.pull import pull_set

    with run_stage("set pull") as stage:
        manifest = pull_set(source, folder, stage, expected_digest=digest, overwrite=overwrite)
        _report("Pulled", manifest, str(folder), stage)


@set_app.command()
def push(
    folder: Folder,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="folder, or file or s3 URL of one")],
    overwrite: Overwrite = False,
) -> None:
    """Publish a set; it is there for readers when its last byte is."""
    from pipeline.sets.push import push_set

    with run_stage("set push") as stage:
        _report("Pushed", push_set(folder, target, stage, overwrite=overwrite), target, stage)


@set_app.command()
def merge(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDERS...", help="two or more calibration sets")],
    output: NewFolder,
    allow: Annotated[
        list[Difference] | None, typer.Option("--allow", help="merge although the sets differ in this; can be repeated")
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make one set of several of the same teacher, classes, label mode and image source."""
    from pipeline.sets.merge import merge_sets

    with run_stage("set merge") as stage:
        manifest = merge_sets(folders, allow or (), output, stage, overwrite=overwrite)
        _report("Merged", manifest, str(output), stage)


@set_app.command()
def subset(
    folder: Folder,
    output: NewFolder,
    samples: Annotated[
        str | None, typer.Option("--samples", metavar="START:STOP", help="positions in the set; either may be left out")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", metavar="NAME", help="images that show this class; can be repeated")
    ] = None,
    count: Annotated[int | None, typer.Option("--count", min=1, help="the first so many of what is left")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make a set of part of another one."""
    from pipeline.sets.subset import subset_of_set

    with run_stage("set subset") as stage:
        manifest = subset_of_set(
            folder, output, stage, samples=samples, classes=classes or (), count=count, overwrite=overwrite
        )
        _report("Subset", manifest, str(output), stage)


@set_app.command()
def export(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", metavar="FOLDER", help="empty folder for what is written")],
    export_format: Annotated[ExportFormat, typer.Option("--format", help="layout of the folder")],
) -> None:
    """Write a set as other tools take it: images with COCO or YOLO labels, a list, or one array."""
    from pipeline.sets.export import export_set

    with run_stage("set export") as stage:
        _report("Exported", export_set(folder, output, export_format, stage), str(output), stage)


@set_app.command()
def privacy(
    folder: Folder,
    against: Annotated[
        Path, typer.Option("--against", metavar="FOLDER", help="the real images; they are only read, and stay here")
    ],
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="CHECKPOINT",
            help="detector, not the teacher, whose features are compared; default: the embedded one",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", metavar="FOLDER", help="where the nearest pairs go, as picture and JSON, for you alone"
        ),
    ] = None,
    record: Annotated[bool, typer.Option("--record", help="write the verdict into the set's manifest")] = False,
) -> None:
    """Look for images of a set that are like copies of real ones, before it leaves; no proof of privacy."""
    from pipeline.privacy.check import check_privacy
    from pipeline.privacy.features import chosen_measures
    from pipeline.privacy.results import check_output, print_findings, record_findings, refuse_copies, write_findings

    with run_stage("set privacy") as stage:
        check_output(output, folder, against)
        findings = check_privacy(folder, against, lambda teacher: chosen_measures(features, teacher, stage), stage)
        print_findings(findings, stage)
        if output:
            write_findings(findings, output)
            stage.reporter.message(f"nearest pairs: {output}; it holds real images and their names, so keep it")
        if record:
            record_findings(findings, stage)
        refuse_copies(findings)


def _report(title: str, manifest: "CalibrationSetManifest", where: str, stage: Stage) -> None:
    rows = [
        ("images", f"{manifest.samples} of {manifest.image_size.in_words} in {len(manifest.shards)} shards"),
        ("labels", f"{manifest.label_mode.value}, {manifest.statistics.boxes} boxes"),
        ("digest", manifest.digest),
        ("at", where),
    ]
    stage.reporter.table(title, ("", ""), rows)
