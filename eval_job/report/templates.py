"""The templates of the pages."""

from importlib.resources import files

from jinja2 import Environment, FunctionLoader, StrictUndefined

from eval_job.report.wording import number, percent, quantity, short


def environment() -> Environment:
    """Jinja with everything escaped that is not markup of our own."""
    made = Environment(
        loader=FunctionLoader(resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"number": number, "percent": percent, "quantity": quantity, "short": short}
    return made


def resource(name: str) -> str:
    """A file of this package as text."""
    return (files("eval_job.report") / name).read_text(encoding="utf-8")
