"""How an extra is installed that no index knows by our name."""

import importlib.metadata

import pytest

from stages.extras import how_to_install


def test_an_extra_is_named_by_its_packages() -> None:
    command = how_to_install("remote")
    assert command.startswith("pip install ") and "'aiohttp>=" in command and "'s3fs>=" in command
    assert "zsq" not in command


def test_what_is_no_extra_is_a_package_of_that_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert how_to_install("onnxruntime") == "pip install 'onnxruntime'"

    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr("stages.extras.requires", missing)
    assert how_to_install("remote") == "pip install 'remote'"
