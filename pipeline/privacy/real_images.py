"""The folder of real images: found as validation images are, and passed by in small batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from label_formats.files import shown
from label_formats.images import find_images, image_size, read_image
from pipeline.privacy.prepared import BATCH, Prepared, prepared
from schemas.errors import ConfigError, InputError
from stages.stage import Stage

FEWEST = 10
"""Fewest real images of which it can be said how near they are to each other."""


@dataclass(frozen=True)
class RealImages:
    """Image files below a folder, in order.

    Attributes:
        folder: what names of files are relative to.
        files: the images.
        left_out: what else lies there and is not compared: `3 hidden image files`.
    """

    folder: Path
    files: list[Path]
    left_out: tuple[str, ...]

    def name(self, index: int) -> str:
        """Path of an image within the folder."""
        return self.files[index].relative_to(self.folder).as_posix()

    def batches(self, chosen: Sequence[int], task: str, stage: Stage) -> Iterator[list[Prepared]]:
        """The chosen images, in order, `BATCH` at a time.

        Raises:
            InputError: an image cannot be decoded.
        """
        batches = prepared([self.files[index] for index in chosen], read_image)
        for _ in stage.reporter.track(range(-(-len(chosen) // BATCH)), task, unit="batch"):
            stage.stop_here_if_asked()
            yield next(batches)


def find_real_images(against: Path, set_folder: Path, stage: Stage) -> RealImages:
    """The images below `against`, each an image by its header.

    Raises:
        ConfigError: `against` is, holds or lies in the folder of the set.
        InputError: there is no such folder, it holds too few images, or one of them is none.
    """
    if not against.is_dir():
        raise InputError(f"--against {shown(against)}: no such folder; name the folder of the real images")
    real, synthetic = against.resolve(), set_folder.resolve()
    if real == synthetic or real in synthetic.parents or synthetic in real.parents:
        raise ConfigError(
            f"--against {shown(against)}: is, holds or lies in the folder of the set itself; name the folder of the "
            "real images"
        )
    found = find_images(against)
    also = f" ({', '.join(found.left_out)} not counted)" if found.left_out else ""
    if len(found.files) < FEWEST:
        raise InputError(
            f"--against {shown(against)}: holds {len(found.files)} images{also}; at least {FEWEST} are needed to know "
            "how near real images are to each other"
        )
    if found.left_out:
        stage.reporter.message(f"not compared: {', '.join(found.left_out)}")
    for path in stage.reporter.track(found.files, "headers", unit="image"):
        stage.stop_here_if_asked()
        image_size(path)
    return RealImages(against, found.files, found.left_out)
