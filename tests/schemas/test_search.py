"""The record of a search for the smallest student."""

import pytest
from pydantic import ValidationError

from schemas.evaluation import Measure
from schemas.search import SearchReport, Tried


def tried(mean_bits: float, drop: float, digit: str) -> Tried:
    return Tried(mean_weight_bits=mean_bits, student_sha256=digit * 64, map50_95=0.4, drop=drop, holds=drop <= 1)


def test_it_reads_back_as_it_was_written() -> None:
    report = SearchReport(
        measure=Measure.ACCURACY, data_digest="d", max_drop=1.0, full_precision=0.41,
        tried=(tried(8, 0.2, "a"), tried(4.5, 1.8, "b")), kept="a" * 64,
    )  # fmt: skip
    assert SearchReport.model_validate_json(report.to_json()) == report


def test_no_loss_at_all_cannot_be_asked_for() -> None:
    with pytest.raises(ValidationError, match="greater than 0"):
        SearchReport(
            measure=Measure.ACCURACY, data_digest="d", max_drop=0, full_precision=0.4, tried=(tried(8, 0.2, "a"),),
            kept="a" * 64,
        )  # fmt: skip
