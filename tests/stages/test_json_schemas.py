import json
import subprocess
import sys
from pathlib import Path

import pytest

import schemas
from stages.json_schemas import EXPORTED, json_schema_files

SCHEMA_FOLDER = Path(__file__).resolve().parents[2] / "docs" / "schemas"
MODULES = sorted(f"schemas.{path.stem}" for path in Path(schemas.__file__).parent.glob("[a-z]*.py"))


def test_json_schema_files_are_in_step_with_the_code():
    expected = json_schema_files()
    found = {path.name: path.read_text() for path in SCHEMA_FOLDER.glob("*.json")}
    assert found == expected, "run `make schemas` and commit docs/schemas"


@pytest.mark.parametrize("model", EXPORTED, ids=lambda model: model.__name__)
def test_json_schemas_forbid_unknown_keys(model):
    assert json.loads(json_schema_files()[f"{model.__name__}.json"])["additionalProperties"] is False


def test_no_contract_imports_torch():
    script = f"import importlib, sys\nfor name in {MODULES}: importlib.import_module(name)\n"
    script += "print([name for name in ('torch', 'torchvision', 'ultralytics', 'webdataset') if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    assert len(MODULES) > 10
