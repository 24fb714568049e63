"""What messages say inside a container, where paths, options and users are not those of the person who reads them."""

import os
from pathlib import Path

CONTAINER_VARIABLE = "ZSQ_CONTAINER"
"""Set in the images: `docker`; by docker-compose.yml: `compose`; empty where paths and options are the host's own."""
MODELS, VALIDATION = Path("/models"), Path("/validation")


def in_container() -> bool:
    """Whether this process's paths are a container's own."""
    return os.environ.get(CONTAINER_VARIABLE, "") != ""


def by_compose() -> bool:
    """Whether docker-compose.yml configures this process, through its variables."""
    return os.environ.get(CONTAINER_VARIABLE) == "compose"


def where_checkpoints_lie() -> str:
    """For a checkpoint that is not there: "; in a container, checkpoints lie ...", or nothing outside of one."""
    return _where("checkpoints", MODELS, "ZSQ_MODELS")


def where_images_lie() -> str:
    """The same for validation images."""
    return _where("validation images", VALIDATION, "ZSQ_VALIDATION")


def _where(what: str, folder: Path, variable: str) -> str:
    if not in_container():
        return ""
    try:
        there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        there = []
    listed = f"there are: {', '.join(there[:8])}{', ...' if len(there) > 8 else ''}" if there else "there are none"
    source = variable if by_compose() else f"-v FOLDER:{folder}:ro"
    return f"; in a container, {what} lie under {folder}, which {source} fills; {listed}"


def other_output(stage: str) -> str:
    """What to do where another run's output is in the way, after a semicolon."""
    if not by_compose():
        return "choose another folder, or replace it with --overwrite"
    if stage == "synth":
        other = (
            "to use it as it is, name its folder in ZSQ_SET_DIR; else give the run another project (-p) or ZSQ_STORAGE"
        )
    else:
        other = "keep both by a name in ZSQ_STUDENT"
    return f"{other}, or replace it with ZSQ_OVERWRITE=1"


def start_anew() -> str:
    """How to leave behind what an earlier run left unfinished."""
    return "start anew with ZSQ_OVERWRITE=1" if by_compose() else "start anew with --overwrite"


def unwritable(error: OSError) -> str:
    """What to do about a folder that cannot be written, after a semicolon."""
    if not in_container() or not isinstance(error, PermissionError):
        return "choose another one"
    user, group = os.getuid(), os.getgid()
    run_as = "ZSQ_USER" if by_compose() else "--user"
    return (
        f"the container runs as {user}:{group}: chown {user}:{group} the folder on the host, or set {run_as} to the "
        "user and group of its owner"
    )
