"""Classes of labels and classes of the teacher, which meet by name."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from label_formats.files import shown, some
from schemas.errors import InputError


def index_by_name(class_names: Sequence[str]) -> dict[str, int]:
    """The teacher's class index of each name.

    Raises:
        InputError: two classes have one name: labels, and the numbers of a report, could mean either.
    """
    if repeated := repeated_names(class_names):
        raise InputError(
            f"the teacher: has more than one class of one name ({some(repeated)}); give each a name of its own"
        )
    return {name: index for index, name in enumerate(class_names)}


def repeated_names(names: Iterable[str]) -> list[str]:
    """The names that occur more than once, in order."""
    return [name for name, times in Counter(names).items() if times > 1]


def check_known(where: Path, found: str, unknown: Sequence[str], class_names: Sequence[str]) -> None:
    """Refuse labels of classes that the teacher does not know.

    Args:
        where: the labels' file or folder.
        found: what they are labels of, for example `boxes of categories`.
        unknown: names of classes with labels.
        class_names: the teacher's.

    Raises:
        InputError: there are such.
    """
    if unknown:
        raise InputError(
            f"{shown(where)}: has {found} that the teacher does not know ({some(unknown)}; the teacher knows "
            f"{some(class_names)}); rename or remove them, or take a teacher of these classes"
        )
