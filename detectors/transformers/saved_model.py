"""The folder that `save_pretrained` writes, as files: which hold the weights, and what tells two of them apart.

Nothing here imports torch or transformers.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from schemas.errors import InputError
from schemas.files import regular_file
from stages.storage import file_digest

WEIGHTS, CONFIGURATION, PREPROCESSING = "model.safetensors", "config.json", "preprocessor_config.json"
"""The files that are read; the last may be absent."""
SHARDS = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MAX_JSON_BYTES = 4 * 2**20
"""Most that is read of a description; that of a detector of 365 classes has 30 kB."""


def weights_in(folder: Path) -> Path:
    """The weights file of a saved model.

    Raises:
        InputError: there is none that is read, or it has no description beside it.
    """
    where = f"teacher {folder}"
    if not (folder / CONFIGURATION).is_file():
        raise InputError(
            f"{where}: is a folder without {CONFIGURATION}, so that it is no saved model; name a checkpoint file, or "
            "the folder that save_pretrained wrote"
        )
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if (folder / SHARDS).is_file():
        raise InputError(
            f"{where}: its weights are split over several files; save it again with "
            "save_pretrained(folder, max_shard_size='50GB')"
        )
    if any((folder / name).is_file() for name in PICKLED):
        raise InputError(
            f"{where}: its weights are a pickle ({PICKLED[0]}), which can run code and is not read; load it where you "
            "trust it, and save it again with save_pretrained(folder), which writes safetensors"
        )
    raise InputError(f"{where}: holds no {WEIGHTS}; save the model again with save_pretrained(folder)")


def is_saved_model(path: Path) -> bool:
    """Whether a folder is one that `save_pretrained` wrote, or a file is the weights in one."""
    if path.is_dir():
        return any((path / name).is_file() for name in (CONFIGURATION, WEIGHTS, SHARDS, *PICKLED))
    return path.suffix == ".safetensors" and (path.parent / CONFIGURATION).is_file()


def digest(weights: Path) -> str:
    """sha256 (hex) of a saved model: of the digests of its weights and of the descriptions beside them, by name.

    Raises:
        InputError: a file cannot be read.
    """
    files = [weights, weights.parent / CONFIGURATION, weights.parent / PREPROCESSING]
    lines = [f"{file_digest(file)}  {file.name}\n" for file in files if file.is_file()]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The description in a JSON file.

    Raises:
        InputError: it cannot be read, is too large, or is no JSON object.
    """
    try:
        with regular_file(path) as stream:
            content = stream.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise InputError(f"{path}: is larger than {MAX_JSON_BYTES:,} bytes, which no description of a detector is")
        found = json.loads(content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is no JSON ({str(error)[:100]}); copy the folder again") from error
    if not isinstance(found, dict):
        raise InputError(f"{path}: holds no JSON object; copy the folder again")
    return found
