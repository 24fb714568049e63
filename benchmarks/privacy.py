"""How sharp `zsq set privacy` is, and whether synthetic images are nearer to images of training than to unseen ones.

    uv run python -m benchmarks.privacy copies --real train/images --clean val/images --set set
    uv run python -m benchmarks.privacy training --seen train/images --unseen val/images --set set

`copies` smuggles altered copies of real images in and counts those that the check finds, by each measure and by either;
clean photographs, which are no copies, and the images of sets show the false alarms. `training` compares the distances
of synthetic images to those that the teacher was trained on and to others.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from detectors.registry import load_teacher
from label_formats.images import find_images, read_image
from pipeline.privacy import copies as planting
from pipeline.privacy import features as layers
from pipeline.privacy.features import FeatureMeasure
from pipeline.privacy.findings import Measured
from pipeline.privacy.measures import Measure, PixelMeasure
from pipeline.privacy.nearest import NOBODY, Nearest, similarities
from pipeline.privacy.prepared import Floats, Prepared, prepare, prepared
from schemas.image_size import ImageSize
from schemas.teacher import EMBEDDED, TeacherSource
from stages.shards import open_calibration_set

app = typer.Typer(add_completion=False)

Sets = Annotated[list[Path], typer.Option("--set", help="synthetic set; several may be given")]
Features = Annotated[str, typer.Option(help="detector whose features are compared")]
CROPS = (0.9, 0.6, 0.5)
"""Further crops: what is left of each side."""


@app.command()
def copies(
    real: Annotated[Path, typer.Option(help="folder of real images")],
    clean: Annotated[Path, typer.Option(help="folder of other photographs")],
    sets: Sets,
    every: Annotated[int, typer.Option(help="copy each so many-th real image")] = 2,
    side: Annotated[int, typer.Option(help="side of the copies, pixels")] = 320,
    features: Features = EMBEDDED,
    depth: Annotated[float, typer.Option(help="how deep in the network, as a share of its blocks")] = layers.DEPTH,
) -> None:
    """Print the share of smuggled copies that is found, and of clean images that is not clean by the check."""
    layers.DEPTH = depth  # type: ignore[misc]
    files = find_images(real).files
    reals = _read(files)
    generator = np.random.default_rng(1)
    groups = {}
    for kind in planting.KINDS:
        groups[kind] = [_altered(path, kind, side, generator) for path in files[::every]]
    for planting.CROPPED in CROPS:  # type: ignore[misc]
        groups[f"cropped to {planting.CROPPED}"] = [_altered(p, "cropped", side, generator) for p in files[::every]]
    smuggled = list(groups)
    groups["clean photographs"] = _read(find_images(clean).files)
    groups |= {f"clean set {folder.name}": _of_set(folder) for folder in sets}
    images = [image for group in groups.values() for image in group]
    own = [NOBODY] * len(images) + list(range(len(reals)))
    measured = []
    for measure in _measures(features):
        measure.learn(reals)
        nearest = Nearest([measure.queries(image) for image in [*images, *reals]], own)
        nearest.update(measure.references(reals), 0)
        measured.append(Measured.of(measure, nearest, len(images)))
    print("".join(f"near by {each.real.measure}: {each.real}\n" for each in measured))
    flags = [each.copy_like() for each in measured]
    print("| images | number | pixels | features | either |\n| --- | --- | --- | --- | --- |")
    first = 0
    for name, group in groups.items():
        rows = slice(first, first := first + len(group))
        shares = [flags[0][rows].mean(), flags[1][rows].mean(), (flags[0] | flags[1])[rows].mean()]
        mark = "" if name in smuggled else "*"
        print(
            f"| {mark}{name}{mark} | {len(group)} | " + " | ".join(f"{share:.1%}" for share in shares) + " |",
            flush=True,
        )


@app.command()
def training(
    seen: Annotated[Path, typer.Option(help="folder of images that the teacher was trained on")],
    unseen: Annotated[Path, typer.Option(help="folder of as many others of their kind")],
    sets: Sets,
    features: Features = EMBEDDED,
) -> None:
    """Print by how much synthetic images are nearer to seen images than to unseen ones, with intervals."""
    reals = [_read(find_images(folder).files) for folder in (seen, unseen)]
    count = min(map(len, reals))
    both = [*reals[0][:count], *reals[1][:count]]
    synthetic = [image for folder in sets for image in _of_set(folder)]
    print(f"{len(synthetic)} synthetic images, {count} seen and {count} unseen ones\n")
    print("| by | nearest is a seen image | distance to seen less unseen | random halves |\n| --- | --- | --- | --- |")
    for measure in _measures(features):
        measure.learn(both)
        distances = _distances(measure, synthetic, both)
        is_seen = np.arange(2 * count) < count
        nearer = int((distances[:, is_seen].min(1) < distances[:, ~is_seen].min(1)).sum())
        low, high = _wilson(nearer, len(synthetic))
        print(
            f"| {measure.name} | {nearer} of {len(synthetic)} ({low:.0%} to {high:.0%}) "
            f"| {_difference(distances, is_seen)} | {_of_random_halves(distances, is_seen)} |"
        )


def _difference(distances: NDArray[np.float64], is_seen: NDArray[np.bool_]) -> str:
    """Mean difference of the nearest distances, 95 % of it over resampled synthetic images."""
    each = distances[:, is_seen].min(1) - distances[:, ~is_seen].min(1)
    generator = np.random.default_rng(2)
    means = generator.choice(each, (10_000, len(each))).mean(1)
    return f"{each.mean():+.4f} ({np.quantile(means, 0.025):+.4f} to {np.quantile(means, 0.975):+.4f})"


def _of_random_halves(distances: NDArray[np.float64], is_seen: NDArray[np.bool_]) -> str:
    """95 % of the same difference where which real image counts as seen is drawn by chance."""
    generator = np.random.default_rng(3)
    means = []
    for _ in range(5_000):
        drawn = generator.permutation(is_seen)
        means.append((distances[:, drawn].min(1) - distances[:, ~drawn].min(1)).mean())
    return f"{np.quantile(means, 0.025):+.4f} to {np.quantile(means, 0.975):+.4f}"


def _wilson(successes: int, number: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's)."""
    share, z = successes / number, 1.96
    centre = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * np.sqrt(share * (1 - share) / number + z**2 / (4 * number**2))
    return centre - half, centre + half


def _distances(measure: Measure, images: list[Prepared], reals: list[Prepared]) -> NDArray[np.float64]:
    """`(images, reals)`."""
    queries: list[Floats] = [measure.queries(image) for image in images]
    starts = np.cumsum([0, *(len(views) for views in queries[:-1])])
    similar = similarities(np.concatenate(queries), starts, measure.references(reals))
    return np.sqrt(np.maximum(2 - 2 * similar.astype(np.float64), 0))


def _measures(features: str) -> list[Measure]:
    return [PixelMeasure(), FeatureMeasure(load_teacher(TeacherSource(path=features), torch.device("cpu")))]


def _read(files: list[Path]) -> list[Prepared]:
    return _all(prepared(files, read_image))


def _of_set(folder: Path) -> list[Prepared]:
    return _all(prepared(open_calibration_set(folder).samples, lambda sample: sample.image()))


def _all(batches: Iterable[list[Prepared]]) -> list[Prepared]:
    return [image for batch in batches for image in batch]


def _altered(path: Path, kind: str, side: int, generator: np.random.Generator) -> Prepared:
    return prepare(planting.altered(read_image(path), kind, ImageSize.square(side), generator))


if __name__ == "__main__":
    app()
