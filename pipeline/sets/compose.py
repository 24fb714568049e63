"""A new set out of samples of finished ones: what `merge` and `subset` share."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from schemas.calibration_set import (
    MANIFEST,
    CalibrationSetManifest,
    ImageSource,
    LabelMode,
    LabelStatistics,
    SetSource,
    ShardRecord,
    shard_record_path,
)
from schemas.errors import ConfigError
from schemas.provenance import Provenance
from stages.output import Output
from stages.ranks import Rank
from stages.shards import CalibrationSet, Sample, write_shard
from stages.stage import Stage
from stages.storage import remove_file


@dataclass(frozen=True)
class Part:
    """Samples of one set, in order."""

    calibration_set: CalibrationSet
    samples: list[Sample]


def compose_set(
    parts: Sequence[Part], config: dict[str, Any], folder: Path, stage: Stage, *, overwrite: bool = False
) -> CalibrationSetManifest:
    """Write the samples of `parts`, numbered anew, as a set in `folder`.

    A shard holds samples of one source shard only, so that its recorded seed stays true.

    Args:
        parts: where the samples come from; teacher and class names are the first one's.
        config: what was asked for; with the digests of the sets it decides "up to date".
        folder: the new set.
        stage: reports, and stops between shards.
        overwrite: leave to replace another set there.

    Raises:
        ConfigError: `folder` holds something else and `overwrite` is not set.
        InputError: another process writes `folder`.
        VerificationError: an image does not decode.
    """
    manifests = [part.calibration_set.manifest for part in parts]
    provenance = Provenance.of("set", config, {f"set {n}": m.digest for n, m in enumerate(manifests)})
    output = Output(folder / MANIFEST, CalibrationSetManifest, provenance, overwrite)
    finished = output.finished()
    if finished is not None:
        stage.reporter.message(f"up to date: {folder}")
        return finished
    with stage.claim(folder, output.key, Rank(), lambda: False):
        _make_way(output)
        return _write_set(parts, output, stage)


def _write_set(parts: Sequence[Part], output: Output[CalibrationSetManifest], stage: Stage) -> CalibrationSetManifest:
    """The shards, then the manifest."""
    folder, manifests = output.folder, [part.calibration_set.manifest for part in parts]
    shards: list[ShardRecord] = []
    sources: list[SetSource] = []
    written = 0
    pieces = [(part, list(samples)) for part in parts for _, samples in groupby(part.samples, key=lambda s: s.shard)]
    for part, samples in stage.reporter.track(pieces, "shards", unit="shard"):
        stage.stop_here_if_asked()
        pairs = ((sample.image(), sample.labels) for sample in samples)
        seed = _seed(part, samples[0])
        shards.append(write_shard(folder, len(shards), pairs, first_sample=written, seed=seed, key=output.key))
        written += len(samples)
    first_sample = 0
    for part in parts:
        sources.append(_source(part, first_sample))
        first_sample += len(part.samples)
    labels = [sample.labels for part in parts for sample in part.samples]
    manifest = CalibrationSetManifest(
        teacher=manifests[0].teacher,
        label_mode=LabelMode.GIVEN if any(m.label_mode is LabelMode.GIVEN for m in manifests) else LabelMode.SAMPLED,
        image_source=max((m.image_source for m in manifests), key=list(ImageSource).index),
        synth=None,
        image_size=manifests[0].image_size,
        seed=manifests[0].seed,
        shards=tuple(shards),
        statistics=LabelStatistics.of(labels, manifests[0].teacher.class_names),
        teacher_agreement=None,
        provenance=output.wanted,
        sources=tuple(sources),
        licence=" ".join(dict.fromkeys(m.licence for m in manifests)),
    )
    output.publish(manifest)
    return manifest


def _make_way(output: Output[CalibrationSetManifest]) -> None:
    """Remove what an earlier run left; its shards are only kept from being mistaken for the new set's."""
    folder, old = output.folder, sorted(output.folder.glob("calib-*.tar"))
    if old and output.present() is None and not output.overwrite:
        raise ConfigError(f"{folder} holds shards of an unfinished set; choose another folder, or --overwrite")
    output.withdraw()
    for shard in old:
        remove_file(shard_record_path(folder, shard.name))
        remove_file(shard)


def _seed(part: Part, sample: Sample) -> int:
    return next(r.seed for r in part.calibration_set.manifest.shards if r.file == sample.shard.name)


def _source(part: Part, first_sample: int) -> SetSource:
    manifest = part.calibration_set.manifest
    return SetSource(
        digest=manifest.digest,
        samples=len(part.samples),
        first_sample=first_sample,
        teacher_sha256=manifest.teacher.sha256,
        label_mode=manifest.label_mode,
        image_source=manifest.image_source,
        synth=manifest.synth,
        seed=manifest.seed,
        provenance=manifest.provenance,
        licence=manifest.licence,
        sources=manifest.sources,
    )
