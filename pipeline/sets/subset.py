"""Part of a set."""

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.sets.compose import Part, compose_set
from schemas.calibration_set import CalibrationSetManifest
from schemas.errors import ConfigError
from stages.shards import open_calibration_set
from stages.stage import Stage

RANGE = re.compile("([0-9]{0,12}):([0-9]{0,12})")


def subset_of_set(
    folder: Path,
    output: Path,
    stage: Stage,
    *,
    samples: str | None = None,
    classes: Sequence[str] = (),
    count: int | None = None,
    overwrite: bool = False,
) -> CalibrationSetManifest:
    """Part of the set in `folder` as a set in `output`; what is asked for narrows it down one after the other.

    Args:
        folder: the whole set.
        output: the new one.
        stage: reports, and stops between shards.
        samples: range of sample positions `start:stop`, as Python slices count; either may be left out.
        classes: names of which an image must show at least one; its other boxes stay.
        count: the first so many of what is left.
        overwrite: leave to replace another set there.

    Raises:
        ConfigError: nothing is left, a class is not known, or `output` holds something else.
        InputError: there is no set in `folder`.
        VerificationError: the set is damaged.
    """
    if output.resolve() == folder.resolve():
        raise ConfigError(f"{output}: is the set to take from; choose another folder")
    whole = open_calibration_set(folder)
    names = whole.manifest.teacher.class_names
    if unknown := [name for name in classes if name not in names]:
        raise ConfigError(f"--class {unknown[0]}: not a class of this set; it has {', '.join(names[:10])}")
    wanted = {index for index, name in enumerate(names) if name in classes}
    chosen = whole.samples[_range(samples)] if samples else whole.samples
    if classes:
        chosen = [sample for sample in chosen if any(box.category_id in wanted for box in sample.labels.boxes)]
    chosen = chosen[:count]
    if not chosen:
        raise ConfigError(
            f"{folder}: no image is left of {whole.manifest.samples}; ask for less with --samples or --class"
        )
    config = {"operation": "subset", "samples": samples, "classes": sorted(classes), "count": count}
    return compose_set([Part(whole, chosen)], config, output, stage, overwrite=overwrite)


def _range(text: str) -> slice:
    found = RANGE.fullmatch(text)
    if not found:
        raise ConfigError(f"--samples {text!r}: write it as start:stop, for example 0:128")
    return slice(*(int(part) if part else None for part in found.groups()))
