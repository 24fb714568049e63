"""Every detector of every family goes through all stages. `docs/families.md` is made of the same checks."""

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.cases import CASES, Case
from tests.conformance.checks import CHECKS, Subject, outcome
from tests.conformance.table import DOCUMENT, FAILED, HEADER, rows

SLOW = {"ONNX"}
"""Checks that take long for the smallest network."""


@pytest.fixture(scope="module")
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    case: Case = request.param
    return Subject(case, tmp_path_factory.mktemp("case"))


@pytest.mark.parametrize(
    ("subject", "check"),
    [
        pytest.param(
            case, check, id=f"{case.name}-{check}",
            marks=() if case.quick and check not in SLOW else pytest.mark.slow,
        )
        for case in CASES
        for check in CHECKS
    ],
    indirect=["subject"],
)  # fmt: skip
def test_a_detector_passes_or_fails_for_the_reason_given(subject: Subject, check: str) -> None:
    assert outcome(subject, check)


def test_a_reason_that_no_longer_holds_must_go(tmp_path: Path) -> None:
    case = replace(CASES[0], reasons=(("load", "the moon is full"),))
    with pytest.raises(AssertionError, match="load passes; remove the reason"):
        outcome(Subject(case, tmp_path), "load")

    def unwritable(path: Path) -> None:
        raise OSError("no space left")

    with pytest.raises(AssertionError, match="fails for another reason than 'the moon is full': no space left"):
        outcome(Subject(replace(case, write=unwritable), tmp_path), "load")
    assert outcome(Subject(replace(case, write=unwritable, reasons=(("load", "no space"),)), tmp_path), "load") == (
        "no: no space"
    )


def test_the_published_table_has_every_case_and_every_check() -> None:
    header, *body = rows((Path(__file__).parents[2] / DOCUMENT).read_text(encoding="utf-8"))
    assert header == HEADER
    assert [row[:2] for row in body] == [[case.name, f"`{case.family}`"] for case in CASES]
    assert all(len(row) == len(header) and all(row) and FAILED not in row for row in body)
