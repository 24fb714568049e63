"""Pages are in step with the code, and their links lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stages.settings_page import settings_page

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
LONGEST_README = 900
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = (re.sub(r"[^\w\- ]", "", title.lower()) for title in HEADING.findall(page.read_text()))
    return {title.strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text()):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_page_of_settings_is_in_step_with_the_schemas() -> None:
    found = (ROOT / "docs" / "settings.md").read_text()
    assert found == settings_page(), "run `make pages` and commit docs/settings.md"


def test_the_page_of_commands_is_in_step_with_the_command_line(tmp_path: Path) -> None:
    written = tmp_path / "cli.md"
    command = [sys.executable, "-m", "typer", "pipeline.cli", "utils", "docs", "--name", "zsq"]
    subprocess.run([*command, "--title", "Command line", "--output", str(written)], check=True, cwd=ROOT)
    found = (ROOT / "docs" / "cli.md").read_text()
    assert found == written.read_text(), "run `make pages` and commit docs/cli.md"


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= LONGEST_README
