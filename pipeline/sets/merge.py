"""Several sets as one."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path

from pipeline.sets.choices import Difference
from pipeline.sets.compose import Part, compose_set
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError
from stages.shards import CalibrationSet, Sample, open_calibration_set
from stages.stage import Stage

COMPARED: dict[Difference, Callable[[CalibrationSetManifest], object]] = {
    Difference.TEACHER: lambda manifest: manifest.teacher.sha256,
    Difference.CLASSES: lambda manifest: manifest.teacher.class_names,
    Difference.LABELS: lambda manifest: manifest.label_mode.value,
    Difference.IMAGES: lambda manifest: manifest.image_source.value,
}


def merge_sets(
    folders: Sequence[Path], allowed: Collection[Difference], output: Path, stage: Stage, *, overwrite: bool = False
) -> CalibrationSetManifest:
    """All samples of several sets, in the order given, as one set in `output`; an image of two sets is taken once.

    Raises:
        ConfigError: the sets do not fit together, or `output` holds something else and `overwrite` is not set.
        InputError: one of the folders holds no set.
        VerificationError: one of the sets is damaged.
    """
    if len(folders) < 2:
        raise ConfigError("merge takes two or more sets; `zsq set subset` copies part of one")
    if output.resolve() in {folder.resolve() for folder in folders}:
        raise ConfigError(f"{output}: is one of the sets to merge; choose another folder")
    sets = [open_calibration_set(folder) for folder in folders]
    first = sets[0].manifest
    for other in sets[1:]:
        _check_fit(sets[0], other, allowed)
    if len({calibration_set.manifest.digest for calibration_set in sets}) < len(sets):
        raise ConfigError("merge: the same set is named twice; each of its images would count double")
    config = {"operation": "merge", "allowed": sorted(kind.value for kind in allowed), "images": "each once"}
    parts = _each_image_once([Part(each, _renamed(each, first.teacher.class_names)) for each in sets], stage)
    return compose_set(parts, config, output, stage, overwrite=overwrite)


def _each_image_once(parts: Sequence[Part], stage: Stage) -> list[Part]:
    """The parts without images of earlier ones, as a set and its own subset have; they would count double."""
    seen: set[bytes] = set()
    kept = []
    for part in parts:
        digests = [hashlib.sha256(sample.image().tobytes()).digest() for sample in part.samples]
        new = [sample for sample, digest in zip(part.samples, digests, strict=True) if digest not in seen]
        if double := len(digests) - len(new):
            stage.reporter.message(f"{part.calibration_set.folder}: {double} images are in an earlier set; left out")
        seen.update(digests)
        kept.append(Part(part.calibration_set, new))
    return kept


def _check_fit(first: CalibrationSet, other: CalibrationSet, allowed: Collection[Difference]) -> None:
    one, two = first.manifest, other.manifest
    if one.image_size != two.image_size:
        raise ConfigError(
            f"{other.folder}: images of {two.image_size} px, those of {first.folder} have {one.image_size}; no batch "
            "can hold both, so make the sets at one size"
        )
    for kind, value in COMPARED.items():
        if kind not in allowed and value(one) != value(two):
            shown = "" if kind is Difference.CLASSES else f" ({value(one)}, {value(two)})"
            raise ConfigError(
                f"{other.folder}: other {kind.value} than {first.folder}{shown}; --allow {kind.value} "
                "merges them all the same"
            )


def _renamed(calibration_set: CalibrationSet, class_names: tuple[str, ...]) -> list[Sample]:
    """The samples with each category as the class of the same name counts among `class_names`."""
    theirs = calibration_set.manifest.teacher.class_names
    if theirs == class_names:
        return calibration_set.samples
    used = {box.category_id for sample in calibration_set.samples for box in sample.labels.boxes}
    if unknown := sorted(theirs[index] for index in used if theirs[index] not in class_names):
        raise ConfigError(
            f"{calibration_set.folder}: the teacher of the first set knows no class {', '.join(unknown[:5])}; take "
            "these images out with `zsq set subset --class`"
        )
    index_of = {index: class_names.index(theirs[index]) for index in used}
    return [
        replace(
            sample,
            labels=sample.labels.model_copy(
                update={
                    "boxes": tuple(
                        box.model_copy(update={"category_id": index_of[box.category_id]}) for box in sample.labels.boxes
                    )
                }
            ),
        )
        for sample in calibration_set.samples
    ]
