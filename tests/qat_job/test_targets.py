"""Targets are checked before the student is made."""

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from schemas.student import MANIFEST

Qat = Callable[..., Result]


def test_a_target_that_cannot_be_exported_for_is_refused_before_the_student_is_made(
    qat: Qat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZSQ_LITERT_PYTHON", raising=False)
    result = qat(tmp_path, ptq_only=True, targets=["litert"])
    assert result.exit_code == 2
    assert "target litert: its files are made in an environment of their own" in result.output
    assert not (tmp_path / MANIFEST).exists()
