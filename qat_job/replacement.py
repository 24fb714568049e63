"""A student that replaces another: made in a folder beside it, and moved over it when it is whole."""

import shutil
from pathlib import Path

from qat_job.exported_files import remove_exported
from schemas.errors import InputError
from schemas.sensitivity import SENSITIVITY
from schemas.student import MANIFEST, PTQ_FOLDER, WEIGHTS
from stages.storage import make_folder, remove_file

REPLACEMENT = ".replacement"
"""Sub-folder of a finished student in which another one is made."""


def workplace(folder: Path) -> Path:
    """Where a student for `folder` is made: there, or beside the finished one that it will replace."""
    return folder / REPLACEMENT if (folder / MANIFEST).exists() else folder


def remove_student(folder: Path) -> None:
    """Delete a student's files, and the folder if nothing else is in it."""
    remove_file(folder / MANIFEST)
    remove_exported(folder)
    remove_file(folder / WEIGHTS)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def move_in(place: Path) -> Path:
    """Put the finished student of a `workplace` where it belongs, its manifest last; returns that folder.

    Killed on the way, it goes on when it is called again: the weights move first, so that what lies in the folder is
    the old student's as long as they have not.

    Raises:
        InputError: the storage does not let files be removed or renamed.
    """
    if place.name != REPLACEMENT:
        return place
    folder = place.parent
    if (place / WEIGHTS).exists():
        remove_student(folder)
        remove_student(folder / PTQ_FOLDER)
        remove_file(folder / SENSITIVITY)
    order = {Path(WEIGHTS): 0, Path(MANIFEST): 2}
    try:
        files = [path.relative_to(place) for path in place.rglob("*") if path.is_file()]
        for file in sorted(files, key=lambda file: order.get(file, 1)):
            make_folder((folder / file).parent)
            (place / file).replace(folder / file)
        shutil.rmtree(place)
    except OSError as error:
        raise InputError(f"{place}: the new student cannot be moved out of it ({error.strerror or error})") from error
    return folder


def finish_move(folder: Path) -> None:
    """Go on with a `move_in` that was killed: the old student's manifest is gone, the new one's not there yet."""
    if (folder / REPLACEMENT / MANIFEST).exists() and not (folder / MANIFEST).exists():
        move_in(folder / REPLACEMENT)
