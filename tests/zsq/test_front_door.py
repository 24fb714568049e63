"""`zsq` notices in one line that other packages carry the names of its own."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from zsq import __main__ as door

ROOT = Path(__file__).resolve().parents[2]


def zsq(path: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(path)}
    command = [sys.executable, "-P", "-m", "zsq", "--version"]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=path, check=False)


@pytest.mark.parametrize("name", ["schemas", "pipeline"])
def test_a_package_of_the_same_name_is_one_line(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").touch()
    refused = zsq(tmp_path)
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert f"the package {name} from {tmp_path / name}, which is not zsq's" in refused.stderr


def test_a_module_of_the_same_name_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "stages.py").touch()
    refused = zsq(tmp_path)
    assert refused.returncode == 2 and f"the package stages from {tmp_path / 'stages.py'}" in refused.stderr


def test_without_strangers_it_runs(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert zsq(tmp_path).stdout.startswith("zsq ")


@pytest.mark.parametrize("arguments", ["run --dry-run", "set pull x y", "synth --output {elsewhere}"])
def test_a_working_folder_that_is_gone_is_one_line(tmp_path: Path, arguments: str) -> None:
    (gone := tmp_path / "gone").mkdir()
    command = f'rmdir ../gone; exec "$0" -P -m zsq {arguments.format(elsewhere=tmp_path / "set")}'
    refused = subprocess.run(
        ["bash", "-c", command, sys.executable], cwd=gone, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2 and refused.stderr.count("\n") == 1
    assert "the working folder cannot be read (No such file or directory); change into" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_package_that_was_written_over_names_who_did_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "packages_distributions", lambda: {"schemas": ["zsq", "other-tool"]})
    error = ImportError("cannot import name 'Contract'", name="schemas.base")
    assert door.broken(error).startswith("other-tool has installed a package schemas over zsq's")
    monkeypatch.setattr(door, "packages_distributions", lambda: {"schemas": ["zsq"]})
    assert "install zsq again" in door.broken(error)


def test_the_names_are_those_that_the_wheel_installs() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    installed = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {*installed} == {*door.PACKAGES, "zsq"}
