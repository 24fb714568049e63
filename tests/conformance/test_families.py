"""Every detector of every family goes through all stages. `docs/families.md` is made of the same checks."""

from pathlib import Path

import pytest

from benchmarks.families import DOCUMENT, rows
from tests.conformance.cases import CASES, Case
from tests.conformance.checks import CHECKS, Subject, outcome

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


def test_the_published_table_has_every_case_and_every_check() -> None:
    header, *body = rows((Path(__file__).parents[2] / DOCUMENT).read_text(encoding="utf-8"))
    assert header == ["detector", "family", *CHECKS]
    assert [row[:2] for row in body] == [[case.name, f"`{case.family}`"] for case in CASES]
    assert all(all(cell for cell in row) and len(row) == len(header) for row in body)
