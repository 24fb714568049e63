"""The `zsq` command, also `python -m zsq`. Needs nothing before it has looked whose packages Python would load."""

import os
import sys
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

PACKAGES = (
    "schemas",
    "stages",
    "label_formats",
    "detectors",
    "quantization",
    "synth_job",
    "qat_job",
    "eval_job",
    "pipeline",
)
"""Top-level packages that zsq installs beside this one; their names are common ones, which others may use too."""
REMEDY = "take its folder off PYTHONPATH, or install zsq into an environment of its own"
BAD_INPUT = 2


def main() -> None:
    """Run the command line, or say in one line what stands in its way: other packages, a folder that is gone."""
    try:
        os.getcwd()
    except OSError as error:  # torch's libraries cannot be loaded there, nor can a path be read
        sys.exit(_refused(f"the working folder cannot be read ({error.strerror}); change into one that is there"))
    if found := shadowed(Path(__file__).resolve().parents[1]):
        sys.exit(_refused(f"Python takes {found}, which is not zsq's; {REMEDY}"))
    try:
        from pipeline.cli import app
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in PACKAGES:
            raise
        sys.exit(_refused(broken(error)))
    app(prog_name="zsq")


def shadowed(root: Path) -> str | None:
    """The first of zsq's packages that Python would take from elsewhere than `root`, as `name from folder`."""
    for name in PACKAGES:
        spec = find_spec(name)
        places = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec else []
        if places and Path(places[0]).resolve() != root / name:
            return f"the package {name} from {places[0]}"
    return None


def broken(error: ImportError) -> str:
    """What an import that fails inside zsq's packages means."""
    package = (error.name or "").partition(".")[0]
    others = sorted(set(packages_distributions().get(package, ())) - {"zsq"})
    if others:
        return f"{', '.join(others)} has installed a package {package} over zsq's ({error}); {REMEDY}"
    return f"a part of its package {package} is missing ({error}); install zsq again, in an environment of its own"


def _refused(message: str) -> int:
    print(f"zsq: {message}", file=sys.stderr)
    return BAD_INPUT


if __name__ == "__main__":
    main()
