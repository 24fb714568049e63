"""The detections of each model as a file in the COCO results format."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from detectors.average_precision import coco_results
from detectors.detections import Detections
from label_formats.images import ValidationSet
from schemas.evaluation import DETECTIONS
from stages.storage import write_text


def detections_file(model: str) -> str:
    """Name of the COCO results file of a model: `detections-qat-w4a8-deploy.json`."""
    slug = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
    return DETECTIONS.replace(".", f"-{slug}.")


def write_detections(path: Path, validation: ValidationSet, detections: Sequence[Detections]) -> None:
    """COCO results, in the ids of the validation data; classes without an id there cannot be written."""
    known = torch.tensor(sorted(validation.category_ids))
    results: list[dict[str, Any]] = coco_results(
        [found.select(torch.isin(found.classes, known)) for found in detections],
        [image.id for image in validation.images],
        [validation.category_ids.get(index, -1) for index in range(int(known.max()) + 1)],
    )
    write_text(path, json.dumps(results) + "\n")
