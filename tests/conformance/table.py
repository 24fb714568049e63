"""The table of docs/families.md: where it stands, and how it is read again."""

from pathlib import Path

from tests.conformance.checks import CHECKS

DOCUMENT = Path("docs") / "families.md"
END = "<!-- the command writes everything above this line -->"
HEADER = ["detector", "family", *CHECKS]
FAILED = "**fails**"


def rows(text: str) -> list[list[str]]:
    """The rows of the generated table, header first; empty where there is none."""
    lines = [line for line in text.partition(END)[0].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]
    return [row for row in cells if set(row[0]) != {"-"}]
