"""Results as JSON and as a page."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.budget import Outcome

BAR = 3.0
"""How many times the images per second of eager float32 the quickest synthesis is to make."""
BASELINE = "synthesis, fp32, eager"
SYNTHESIS = "synthesis, "


def write(folder: Path, facts: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Write `gpu.json` and `gpu.md`; the text of the latter."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {"name": one.name, "reason": one.reason, "seconds": one.seconds} | {"values": one.values} for one in outcomes
    ]
    document = facts | {"bar": verdict(outcomes), "rows": rows}
    (folder / "gpu.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    text = page(facts, outcomes)
    (folder / "gpu.md").write_text(text, encoding="utf-8")
    return text


def page(facts: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Markdown: the machine, a row for each variant, the sets, the bar."""
    lines = [f"{name}: {value}" for name, value in facts.items()]
    lines += [
        "",
        "| step | ms | images/s | GB | of operations | of bytes | of the floor |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    timed = [one for one in outcomes if "step_seconds" in one.values]
    lines += [row(one.name, one.values) for one in timed]
    lines += ["", *(said(one) for one in outcomes if one not in timed), "", verdict(outcomes)["text"], ""]
    return "\n".join(lines)


def row(name: str, values: dict[str, Any]) -> str:
    """One variant in the table; shares are those of the least time that its step can take."""
    shares = [values.get(f"share_of_{kind}") for kind in ("operations", "bytes", "floor")]
    cells = [f"{values['step_seconds'] * 1e3:.1f}", f"{values['images_per_second']:.2f}"]
    cells.append("" if values["peak_gb"] is None else f"{values['peak_gb']:.2f}")
    cells += ["" if share is None else f"{share:.0%}" for share in shares]
    return f"| {name} | {' | '.join(cells)} |"


def said(outcome: Outcome) -> str:
    """What is no row of the table: other values, or why there are none."""
    if outcome.reason is not None:
        return f"- {outcome.name}: {outcome.reason}"
    return f"- {outcome.name}: " + ", ".join(f"{name} {value}" for name, value in outcome.values.items())


def verdict(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Whether the quickest synthesis meets the bar, and by how much."""
    speeds = {
        one.name: one.values["images_per_second"]
        for one in outcomes
        if one.name.startswith(SYNTHESIS) and one.reason is None
    }
    if BASELINE not in speeds:
        return {"met": None, "text": f"The bar cannot be judged: {BASELINE} was not measured."}
    best = max(speeds, key=lambda name: speeds[name])
    factor = speeds[best] / speeds[BASELINE]
    text = f"The quickest, {best}, makes {factor:.2f} times the images of eager fp32; the bar is {BAR:g}"
    return {
        "met": factor >= BAR,
        "factor": factor,
        "best": best,
        "text": f"{text}: {'met' if factor >= BAR else 'missed'}.",
    }
