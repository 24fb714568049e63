"""Write the JSON Schema of every stored document and configuration: `python -m stages.json_schemas docs/schemas`."""

import json
from pathlib import Path

import typer

from schemas.base import Contract
from schemas.calibration_set import CalibrationSetManifest, ShardRecord
from schemas.eval_config import EvalConfig
from schemas.evaluation import EvalReport
from schemas.labels import ImageLabels
from schemas.privacy import PrivacyReport
from schemas.qat_config import QatConfig
from schemas.run_config import RunConfig
from schemas.search import SearchReport
from schemas.sensitivity import SensitivityReport
from schemas.student import OnnxManifest, StudentManifest
from schemas.synth_config import SynthConfig
from stages.storage import write_text

EXPORTED: tuple[type[Contract], ...] = (
    CalibrationSetManifest,
    EvalConfig,
    EvalReport,
    ImageLabels,
    OnnxManifest,
    PrivacyReport,
    QatConfig,
    RunConfig,
    SearchReport,
    SensitivityReport,
    ShardRecord,
    StudentManifest,
    SynthConfig,
)


def json_schema_files() -> dict[str, str]:
    """File name → text of each JSON Schema (draft 2020-12)."""
    return {
        f"{model.__name__}.json": json.dumps(model.model_json_schema(mode="serialization"), indent=2) + "\n"
        for model in EXPORTED
    }


def main(folder: Path) -> None:
    """Write one file per contract into `folder`."""
    for name, text in json_schema_files().items():
        write_text(folder / name, text)


if __name__ == "__main__":
    typer.run(main)
