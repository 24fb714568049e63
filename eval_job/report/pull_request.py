"""`summary.md`: the verdict and its table in Markdown, to paste into a pull request or a job's summary."""

from eval_job.report import advice, gap, headline, sizes, thresholds
from eval_job.report.facts import facts
from eval_job.report.verdict_words import sentence_of
from schemas.evaluation import EvalReport, Measure

SPACE = "\u202f"


def summary(report: EvalReport) -> str:
    """The page's first screen as GitHub shows it; equal reports give equal bytes."""
    title, sentences = headline.verdict(report)
    parts = [f"## zsq: {_escaped(title)}", *_requirements(report), _escaped(sentences), _models(report)]
    notes = [f"{fact.term}: {fact.text}" for fact in facts(report)]
    about = headline.headline_model(report)
    notes += [note for note in (thresholds.sentence(about), sizes.chance(report, about.name)) if note]
    notes += [advice.sentence(report.parts)] if report.parts else []
    notes += [f"{each.model}: {each.sentence}" for each in gap.gaps(report)[-1:]]
    parts.append("\n".join(f"- {_escaped(note)}" for note in notes))
    made = report.provenance
    parts.append(
        f"<sub>zsq {_escaped(made.code_version)}, evaluated {made.created.strftime('%Y-%m-%d %H:%M %Z').strip()}, "
        f"key <code>{made.key[:12]}</code></sub>"
    )
    return "\n\n".join(part for part in parts if part) + "\n"


def _requirements(report: EvalReport) -> list[str]:
    verdict = report.verdict
    if verdict is None:
        return []
    rows = ["| requirement | required | found | |", "| --- | ---: | ---: | --- |"]
    for each in verdict.judged:
        sentence = sentence_of(each)
        cells = (sentence.name, sentence.required, sentence.found, sentence.outcome)
        rows.append(f"| {' | '.join(cell.replace(SPACE, ' ') for cell in cells)} |")
    judged = f"of `{verdict.model}`" if verdict.model else ""
    outcome = ":white_check_mark: **Pass**" if verdict.met else ":x: **Fail**"
    return [f"{outcome} {judged}".strip(), "\n".join(rows)]


def _models(report: EvalReport) -> str:
    agreement = report.measure is Measure.AGREEMENT
    about = headline.headline_model(report).name
    rows = [
        f"| model | {'agreement, ' if agreement else ''}mAP50-95 | share | 95 % | file | latency |",
        "| --- | ---: | ---: | --- | ---: | ---: |",
    ]
    for row in headline.rows(report.models):
        name = f"**{_escaped(row.name)}**" if row.name == about else _escaped(row.name)
        cells = (name, row.map50_95, row.share or "reference", row.share_interval, row.size, row.latency)
        rows.append(f"| {' | '.join(cell.replace(SPACE, ' ') for cell in cells)} |")
    return "\n".join(rows)


def _escaped(text: str) -> str:
    """Text that Markdown takes as it stands: a class, a file or a folder may be called anything."""
    text = " ".join(text.replace(SPACE, " ").split())
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "|`*_[]\\" else character for character in text)
