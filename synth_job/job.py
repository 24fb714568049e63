"""The story of stage 1: load the teacher, and for each shard sample labels, invert, check, write."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detectors.average_precision import average_precision
from detectors.detections import Detections
from detectors.protocol import Detector
from detectors.registry import check_side, load_teacher, resolve_device
from schemas.calibration_set import (
    MANIFEST,
    AveragePrecision,
    CalibrationSetManifest,
    LabelMode,
    LabelStatistics,
    ShardRecord,
    shard_record_path,
)
from schemas.errors import ConfigError
from schemas.provenance import Provenance
from schemas.synth_config import Initialisation, InversionConfig, LabelSource, SynthConfig
from stages.container import other_output
from stages.event_files import events_folder
from stages.pixels import Pixels
from stages.ranks import Rank
from stages.shards import CalibrationSet, Sample, read_shard, verify_shard, write_shard
from stages.stage import Stage
from stages.storage import remove_file, write_text
from synth_job.background import InBackground
from synth_job.contact_sheet import write_contact_sheet
from synth_job.divergence import Attempts
from synth_job.initialisation import enlarged, initial_images, sample_generator
from synth_job.inversion import invert
from synth_job.label_sampling import LabelSampler, SampledLabels
from synth_job.loss_record import LossRecord

CONTACT_SHEET = "contact_sheet.png"
AGREEMENT_CONFIDENCE = 0.001


def synthesize(
    settings: SynthConfig, provenance: Provenance, folder: Path, stage: Stage, *, rank: Rank, overwrite: bool = False
) -> CalibrationSetManifest | None:
    """Make the calibration set `settings` describes in `folder`, going on where an earlier run stopped.

    Of several ranks on one folder, each makes its share of the shards, with the same bytes as one alone would, and
    whoever finds all of them finished at its end publishes the manifest.

    Returns:
        The manifest, or None where other ranks are still at work.

    Raises:
        ZsqError: bad input, a foreign unfinished set in the folder, or a stop request.
    """
    device = resolve_device(settings.device, rank.local_index)
    losses = LossRecord(events_folder(folder)) if settings.tensorboard else None
    teacher = load_teacher(settings.teacher, device)
    size = settings.image_size or teacher.identity.input_size
    for side, name in ((size, "image_size"), (settings.labels.size, "labels.size")):
        check_side(teacher, side, name)
    sampler = LabelSampler(
        teacher, settings.labels, settings.seed, losses, precision=settings.precision, tell=stage.reporter.message
    )
    if (folder / MANIFEST).exists():
        published = CalibrationSetManifest.read(folder / MANIFEST)
        if published.provenance.key == provenance.key:  # by another rank, while this one loaded the teacher
            return published
        remove_file(folder / MANIFEST)  # inputs are good; from here on the set is not whole

    starts = range(0, settings.images, settings.shard_size)
    mine = [n for n in range(len(starts)) if rank.takes(n) and not finished_shard(folder, n, provenance.key, overwrite)]
    plan_progress(teacher, settings, size, [min(settings.shard_size, settings.images - starts[n]) for n in mine], stage)
    with InBackground() as writer:  # the next shard is computed while one is encoded and written
        for number in mine:
            first = starts[number]
            stage.stop_here_if_asked()
            indices = range(first, min(first + settings.shard_size, settings.images))
            stage.reporter.message(f"shard {number + 1} of {len(starts)}: {len(indices)} images")
            attempts = Attempts(stage.reporter.message)
            sampled = sampler.sample(indices, size, stage, attempts)
            images = synthesize_images(teacher, sampled, indices, settings, size, stage, attempts, losses)
            writer.start(
                write_shard, folder, number, zip(images, sampled.labels(size), strict=True),
                first_sample=first, seed=settings.seed, key=provenance.key, diverged=attempts.failed,
            )  # fmt: skip

    finished = [finished_shard(folder, number, provenance.key, overwrite) for number in range(len(starts))]
    shards = [record for record in finished if record is not None]
    if len(shards) < len(starts):
        stage.reporter.message(
            f"rank {rank.index} of {rank.count} is done, {len(starts) - len(shards)} of {len(starts)} shards are still "
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
        provenance=provenance,
    )
    write_contact_sheet(folder / CONTACT_SHEET, samples, teacher.identity.class_names)
    write_text(folder / MANIFEST, manifest.to_json())
    if losses is not None:
        losses.close()
    report(CalibrationSet(folder, manifest, samples), stage)
    return manifest


def finished_shard(folder: Path, number: int, key: str, overwrite: bool) -> ShardRecord | None:
    """The record of shard `number` where an earlier run of the same key finished it, verified.

    Raises:
        ConfigError: the shard belongs to a run with other settings, and `overwrite` is not set.
        VerificationError: the shard does not match its record.
    """
    file = f"calib-{number:06d}.tar"
    path = shard_record_path(folder, file)
    if not path.exists() or not (folder / file).exists():
        return None
    record = ShardRecord.read(path)
    if record.key != key:
        if overwrite:
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


def synthesize_images(
    teacher: Detector,
    sampled: SampledLabels,
    indices: range,
    settings: SynthConfig,
    size: int,
    stage: Stage,
    attempts: Attempts,
    losses: LossRecord | None = None,
) -> list[Pixels]:
    """Images of `size` pixels for the labels of one shard; `losses` takes the loss terms where it is given.

    Raises:
        InputError: an inversion diverges, whatever the random numbers.
    """
    config = settings.inversion
    schedule = levels(config, size, teacher.identity.stride, teacher.smallest_input)
    pixels: list[Pixels] = []
    batches = -(-len(indices) // config.batch)
    advance = stage.counter(batches * config.iterations, "inversion", unit="iteration")
    change = f"inversion.learning_rate (now {config.learning_rate:g}) or inversion.weights"
    for start in range(0, len(indices), config.batch):
        batch = slice(start, start + config.batch)

        def attempt_at(attempt: int, batch: slice = batch) -> Tensor:
            if settings.initialisation is Initialisation.SAMPLED:
                images = sampled.images[batch]
            else:
                start_size = schedule[0][0]
                images = initial_images(settings.initialisation, settings.seed, indices[batch], start_size, attempt)
            first = indices[batch][0]
            terms: list[Tensor] | None = [] if losses else None
            generator = sample_generator(settings.seed, first, attempt)
            for side, iterations in schedule:
                labels = [detections.scaled(side / sampled.size) for detections in sampled.detections[batch]]
                images = invert(
                    teacher, enlarged(images, side), labels, iterations=iterations,
                    learning_rate=config.learning_rate, weights=config.weights, views=config.views,
                    generator=generator, advance=advance, terms=terms, precision=settings.precision,
                )  # fmt: skip
            if losses and terms:
                losses.write("inversion", terms, first // config.batch * config.iterations)
            return images

        pixels += to_pixels(attempts.run("inversion", indices[batch], change, attempt_at))
    return pixels


def plan_progress(teacher: Detector, settings: SynthConfig, size: int, images: list[int], stage: Stage) -> None:
    """Tell the reporter how much work each shard's tasks are: pixels that pass the network, by iteration.

    Args:
        teacher: the network.
        settings: of the stage.
        size: side of the images, pixels.
        images: of each shard that is still to be made.
        stage: reports.
    """
    labels = settings.labels
    adaptive = labels.source is LabelSource.ADAPTIVE
    schedule = levels(settings.inversion, size, teacher.identity.stride, teacher.smallest_input)
    inverted = float(sum(side**2 * iterations for side, iterations in schedule))
    sampled = float(labels.size**2 * labels.iterations) if adaptive else 0.0
    weights = [count * work for count in images for work in ((sampled, inverted) if adaptive else (inverted,))]
    stage.reporter.plan(weights, after=(settings.held_back or 0) * (sampled + inverted))


def levels(config: InversionConfig, size: int, stride: int, smallest: int = 0) -> list[tuple[int, int]]:
    """Side in pixels and iterations of each resolution that images of `size` pixels are optimised at in turn.

    Sides are multiples of `stride`, and none is below `smallest`.
    """
    shares = config.levels_at(size)
    share, rest = divmod(config.iterations, len(shares))
    iterations: dict[int, int] = {}
    for number, level in enumerate(shares):
        side = max(stride, smallest, round(level * size / stride) * stride)
        iterations[side] = iterations.get(side, 0) + share + (rest if number == len(shares) - 1 else 0)
    return list(iterations.items())


def to_pixels(images: Tensor) -> list[Pixels]:
    """`(B, 3, H, W)` float in [0, 1] as 8-bit `(H, W, 3)` images."""
    return list((images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy())


def teacher_agreement(teacher: Detector, samples: list[Sample], stage: Stage, batch: int = 16) -> AveragePrecision:
    """The teacher's average precision on the stored, decoded images against their labels."""
    device = next(teacher.network.parameters()).device
    predictions: list[Detections] = []
    for start in stage.reporter.track(range(0, len(samples), batch), "teacher agreement", unit="batch"):
        pixels = np.stack([sample.image() for sample in samples[start : start + batch]])
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() / 255
        predictions += teacher.predict(
            images, confidence=AGREEMENT_CONFIDENCE, iou=None, max_detections=300, multi_label=True
        )
    truth = [Detections.from_labels(sample.labels) for sample in samples]
    return average_precision(
        truth, [found.to(torch.device("cpu")) for found in predictions], teacher.identity.class_names
    )[0]


def report(finished: CalibrationSet, stage: Stage) -> None:
    """The closing table and where the set lies."""
    manifest = finished.manifest
    statistics = manifest.statistics
    agreement = manifest.teacher_agreement
    rows = [
        ("images", f"{statistics.images} of {manifest.image_size} px in {len(manifest.shards)} shards"),
        ("labels", f"{manifest.label_mode.value}, {statistics.boxes} boxes, {len(statistics.class_histogram)} classes"),
        (
            "teacher agreement",
            f"mAP50-95 {agreement.map50_95:.3f}, mAP50 {agreement.map50:.3f}" if agreement else "none",
        ),
        ("contact sheet", str(finished.folder / CONTACT_SHEET)),
        ("set", str(finished.folder)),
    ]
    stage.reporter.table("Calibration set", ("", ""), rows)
