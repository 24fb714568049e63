from pathlib import Path

import pytest

from benchmarks.paper.rows import Detector, Row, chosen_rows
from benchmarks.paper.table import Figures, write_table


def lines_of(path: Path) -> list[list[str]]:
    table = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


def test_the_table_has_the_papers_figures_and_says_what_is_missing(tmp_path: Path) -> None:
    rows = chosen_rows(["yolo11s:w4a8", "maskrcnn:w6a6", "embedded:w8a8"])
    write_table(tmp_path / "table.md", {each: tmp_path / "none" for each in rows})
    yolo, mask, own = lines_of(tmp_path / "table.md")
    assert yolo == ["YOLO11-s", "W4A8", "47.0", "42.6", "90.6%", "not made yet", "", "", "", ""]
    assert mask[2:5] == ["38.1", "no figure at hand", ""]
    assert own[2:5] == ["not in the paper", "", ""]
    assert "†" not in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("trained", "comparable", "cells"),
    [
        (0.45, True, ["50.0", "40.0", "45.0", "90.0%", "so"]),
        (None, True, ["50.0", "40.0", "", "80.0%", "so"]),
        (0.45, False, ["50.0", "40.0", "45.0", "90.0% †", "so"]),
    ],
)
def test_a_row_shows_what_was_kept_and_whether_it_compares(
    trained: float | None, comparable: bool, cells: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Figures(0.5, 0.4, trained, "so", comparable)
    monkeypatch.setattr(Figures, "read", lambda _: found)
    write_table(tmp_path / "table.md", {Row(Detector("embedded", "embedded", None), "w4a8"): tmp_path})
    assert lines_of(tmp_path / "table.md")[0][5:] == cells
    assert ("no statement about accuracy" in (tmp_path / "table.md").read_text()) is not comparable
