"""The story of stage 1: load the teacher, and for each shard sample labels, invert, check, write."""

from pathlib import Path

import numpy as np
import torch

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.protocol import Detector, Suppression
from detectors.registry import check_size, load_teacher, resolve_device
from schemas.calibration_set import (
    AveragePrecision,
    CalibrationSetManifest,
    LabelMode,
    LabelStatistics,
    ShardRecord,
    shard_record_path,
)
from schemas.errors import ConfigError
from schemas.image_size import ImageSize
from schemas.synth_config import LabelConfig, LabelSource, SynthConfig
from stages.container import other_output
from stages.event_files import events_folder
from stages.output import Job, Output
from stages.shards import CalibrationSet, Sample, read_shard, verify_shard, write_shard
from stages.stage import Stage
from stages.storage import remove_file
from synth_job.background import InBackground
from synth_job.contact_sheet import write_contact_sheet
from synth_job.divergence import Attempts
from synth_job.given_labels import read_given_labels
from synth_job.images import ImageMaker, levels
from synth_job.inversion import Inversion
from synth_job.label_sampling import LabelSampler
from synth_job.loss_record import LossRecord
from synth_job.memory import check_memory

CONTACT_SHEET = "contact_sheet.png"
AGREEMENT_CONFIDENCE = 0.001


SetJob = Job[CalibrationSetManifest]


def synthesize(settings: SynthConfig, job: SetJob) -> CalibrationSetManifest | None:
    """Make the calibration set `settings` describes, going on where an earlier run stopped.

    Of several ranks on one folder, each makes its share of the shards, with the same bytes as one alone would, and
    whoever finds all of them finished at its end publishes the manifest.

    Returns:
        The manifest, or None where other ranks are still at work.

    Raises:
        ZsqError: bad input, a foreign unfinished set in the folder, or a stop request.
    """
    stage, output = job.stage, job.output
    device = resolve_device(settings.device, job.rank.local_index)
    losses = LossRecord(events_folder(output.folder)) if settings.tensorboard else None
    teacher = load_teacher(settings.teacher, device)
    size = settings.image_size or ImageSize.square(teacher.identity.input_size)
    for asked, name in ((size, "image_size"), (ImageSize.square(settings.labels.size), "labels.size")):
        check_size(teacher, asked, name)
    if not teacher.layers.statistics:
        stage.reporter.message(
            "the detector has neither batch norm nor attention whose statistics images could follow: they follow its "
            "loss alone, and look less like what it was trained on"
        )
    inversion = Inversion(teacher, settings.precision)
    given = given_labels(settings.labels, teacher, size, stage)
    sampler = LabelSampler(teacher, settings.labels, settings.seed, losses, inversion=inversion, given=given)
    maker = ImageMaker(teacher, inversion, settings, size, losses)
    published = output.finished()
    if published is not None:  # by another rank, while this one loaded the teacher
        return published
    check_memory(settings, teacher, inversion, size, stage)
    output.withdraw()  # inputs are good; from here on the set is not whole

    starts = range(0, settings.images, settings.shard_size)
    mine = [number for number in range(len(starts)) if job.rank.takes(number) and not finished_shard(output, number)]
    plan_progress(teacher, settings, size, [min(settings.shard_size, settings.images - starts[n]) for n in mine], stage)
    with InBackground() as writer:  # the next shard is computed while one is encoded and written
        for number in mine:
            first = starts[number]
            stage.stop_here_if_asked()
            indices = range(first, min(first + settings.shard_size, settings.images))
            stage.reporter.message(f"shard {number + 1} of {len(starts)}: {len(indices)} images")
            attempts = Attempts(stage.reporter.message)
            sampled = sampler.sample(indices, size, stage, attempts)
            images = maker.make(sampled, indices, stage, attempts)
            writer.start(
                write_shard,
                output.folder,
                number,
                zip(images, sampled.labels(size), strict=True),
                first_sample=first,
                seed=settings.seed,
                key=output.key,
                diverged=attempts.failed,
            )
    if losses is not None:
        losses.close()
    return publish(settings, teacher, size, len(starts), job)


def publish(
    settings: SynthConfig, teacher: Detector, size: ImageSize, wanted: int, job: SetJob
) -> CalibrationSetManifest | None:
    """The manifest of the `wanted` shards, measured and published; None while some of them are still to come."""
    stage, folder = job.stage, job.output.folder
    finished = [finished_shard(job.output, number) for number in range(wanted)]
    shards = [record for record in finished if record is not None]
    if len(shards) < wanted:
        stage.reporter.message(
            f"rank {job.rank.index} of {job.rank.count} is done, {wanted - len(shards)} of {wanted} shards are still "
            "to come; the rank that ends last publishes the set"
        )
        return None
    remove_other_shards(folder, {record.file for record in shards})
    samples = [sample for record in shards for sample in read_shard(folder / record.file, record.samples)]
    agreement = teacher_agreement(teacher, samples, stage)
    manifest = CalibrationSetManifest(
        teacher=teacher.identity,
        label_mode=LabelMode.GIVEN if settings.labels.source is LabelSource.GIVEN else LabelMode.SAMPLED,
        synth=settings.shareable(),
        image_size=size,
        seed=settings.seed,
        shards=tuple(shards),
        statistics=LabelStatistics.of([sample.labels for sample in samples], teacher.identity.class_names),
        teacher_agreement=agreement,
        provenance=job.output.wanted,
    )
    write_contact_sheet(folder / CONTACT_SHEET, samples, teacher.identity.class_names)
    job.output.publish(manifest)
    report(CalibrationSet(folder, manifest, samples), stage)
    return manifest


def finished_shard(output: Output[CalibrationSetManifest], number: int) -> ShardRecord | None:
    """The record of shard `number` where a run of the same key finished it, verified.

    Raises:
        ConfigError: the shard belongs to a run with other settings, and overwriting is not allowed.
        VerificationError: the shard does not match its record.
    """
    folder, file = output.folder, f"calib-{number:06d}.tar"
    path = shard_record_path(folder, file)
    if not path.exists() or not (folder / file).exists():
        return None
    record = ShardRecord.read(path)
    if record.key != output.key:
        if output.overwrite:
            return None
        raise ConfigError(f"{folder} holds shards of an unfinished run with other settings; {other_output('synth')}")
    verify_shard(folder, record)
    return record


def remove_other_shards(folder: Path, named: set[str]) -> None:
    """Delete what an overwritten, larger set left: a reader of `*.tar` must not find it."""
    for path in folder.glob("calib-*.tar"):
        if path.name not in named:
            remove_file(shard_record_path(folder, path.name))
            remove_file(path)


def given_labels(config: LabelConfig, teacher: Detector, size: ImageSize, stage: Stage) -> list[Detections]:
    """Labels of images that somebody labelled, letterboxed to the shape of `size`, on the unit square.

    Raises:
        InputError: they cannot be read, or name a class that the teacher does not know.
    """
    if config.source is not LabelSource.GIVEN:
        return []
    assert config.path is not None  # checked by the configuration
    return read_given_labels(Path(config.path), teacher.identity.class_names, stage.reporter.message, size.shape)


def plan_progress(teacher: Detector, settings: SynthConfig, size: ImageSize, images: list[int], stage: Stage) -> None:
    """Tell the reporter how much work each shard's tasks are: pixels that pass the network, by iteration.

    Args:
        teacher: the network.
        settings: of the stage.
        size: of the images.
        images: of each shard that is still to be made.
        stage: reports.
    """
    labels = settings.labels
    adaptive = labels.source is LabelSource.ADAPTIVE
    schedule = levels(settings.inversion, size, teacher.identity.stride, teacher.smallest_input)
    inverted = float(sum(level.pixels * iterations for level, iterations in schedule))
    share = labels.size / size.longer
    sampled = share**2 * size.pixels * labels.iterations if adaptive else 0.0
    weights = [count * work for count in images for work in ((sampled, inverted) if adaptive else (inverted,))]
    stage.reporter.plan(weights, after=(settings.held_back or 0) * (sampled + inverted))


def teacher_agreement(teacher: Detector, samples: list[Sample], stage: Stage, batch: int = 16) -> AveragePrecision:
    """The teacher's average precision on the stored, decoded images against their labels."""
    device = next(teacher.network.parameters()).device
    predictions: list[Detections] = []
    for start in stage.reporter.track(range(0, len(samples), batch), "teacher agreement", unit="batch"):
        pixels = np.stack([sample.image() for sample in samples[start : start + batch]])
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
        predictions += teacher.predict(images, Suppression(AGREEMENT_CONFIDENCE))
    truth = [Detections.from_labels(sample.labels) for sample in samples]
    found = [each.to(torch.device("cpu")) for each in predictions]
    return average_precision(truth, found, teacher.identity.class_names)[0]


def report(finished: CalibrationSet, stage: Stage) -> None:
    """The closing table and where the set lies."""
    manifest = finished.manifest
    statistics = manifest.statistics
    agreement = manifest.teacher_agreement
    rows = [
        ("images", f"{statistics.images} of {manifest.image_size.in_words} in {len(manifest.shards)} shards"),
        ("labels", f"{manifest.label_mode.value}, {statistics.boxes} boxes, {len(statistics.class_histogram)} classes"),
        (
            "teacher agreement",
            f"mAP50-95 {agreement.map50_95:.3f}, mAP50 {agreement.map50:.3f}" if agreement else "none",
        ),
        ("contact sheet", str(finished.folder / CONTACT_SHEET)),
        ("set", str(finished.folder)),
    ]
    stage.reporter.table("Calibration set", ("", ""), rows)
    if manifest.doubt:
        stage.reporter.message(manifest.doubt)
