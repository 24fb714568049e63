"""Checkpoints that Ultralytics publishes, by name."""

from pathlib import Path

from ultralytics.utils.downloads import GITHUB_ASSETS_NAMES, attempt_download_asset

from schemas.errors import InputError


def download(name: str) -> Path:
    """Download a published checkpoint by name (`yolo11n.pt`) into the working folder.

    Raises:
        InputError: no such checkpoint is published, or it cannot be fetched.
    """
    if name not in GITHUB_ASSETS_NAMES:
        raise InputError(
            f"teacher {name}: no such file, and not a published Ultralytics checkpoint; check teacher.path"
        )
    try:
        path = Path(attempt_download_asset(name))
    except Exception as error:  # urllib, ssl and the library's own errors
        raise InputError(f"teacher {name}: not a file here, and the download failed ({error})") from error
    if not path.is_file():
        raise InputError(f"teacher {name}: not a file here, and the download failed; fetch it where there is a network")
    return path
