"""How numbers are written on the page."""

from datetime import datetime

PERCENT = "\u202f%"
"""The sign after a narrow space that does not break."""


def number(value: float) -> str:
    """A precision: three decimals; a dash where there is none (−1 in COCO)."""
    return f"{value:.3f}" if value >= 0 else "–"


def percent(value: float) -> str:
    """A share as percent, one decimal."""
    return f"{100 * value:.1f}{PERCENT}"


def quantity(value: int, of: str = "") -> str:
    """A count with thousands separators, and what it counts."""
    return f"{value:,} {of}".rstrip()


def short(value: float) -> str:
    """Three significant digits."""
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds below two minutes, else minutes or hours."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def moment(time: datetime) -> str:
    """A time as stored, to the minute."""
    return time.strftime("%Y-%m-%d %H:%M %Z").strip()
