"""How to install what only some people need. zsq is on no package index, so that its extras have no name there."""

import re
from importlib.metadata import PackageNotFoundError, requires

EXTRA = re.compile(r"""^\s*([^;]+?)\s*;.*\bextra == ['"]([\w-]+)['"]""")


def how_to_install(extra: str) -> str:
    """The command that installs the packages of one of zsq's extras, or the package of that name."""
    try:
        found = [match for match in map(EXTRA.match, requires("zsq") or ()) if match]
    except PackageNotFoundError:
        found = []
    packages = [match[1].replace(" ", "") for match in found if match[2] == extra]
    return "pip install " + " ".join(f"'{package}'" for package in packages or [extra])
