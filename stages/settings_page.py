"""Write docs/settings.md, the page of all settings, from their types and descriptions."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from schemas.run_config import SHARED, RunConfig
from stages.storage import write_text

INTRODUCTION = f"""# Settings

These are all settings of a run. `zsq run` takes them in a YAML file or by `--set section.key=value`. A stage that runs
alone takes its own section without the heading: `qat.bits.weight_bits` of a run is `bits.weight_bits` of `zsq qat`.
The settings {", ".join(f"`{name}`" for name in SHARED)} are given once for a run; a stage may have its own.

This page is written by `make pages` from `schemas/`.
"""
LIMITS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "more than {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "less than {}",
}
LARGEST_SHOWN = 1e12
"""Larger limits are those of the storage, and say nothing to a user."""


def settings_page() -> str:
    """The whole page, as Markdown."""
    schema = RunConfig.model_json_schema(mode="serialization")
    return "\n".join([INTRODUCTION, *_section("", schema, schema["$defs"])])


def _section(path: str, section: dict[str, Any], named: dict[str, Any]) -> Iterator[str]:
    """The lines of a section and of those within it; shared ones are listed at the top alone."""
    inner: list[tuple[str, dict[str, Any]]] = []
    rows = []
    for key, field in section["properties"].items():
        if path in SHARED.get(key, ()):
            continue
        known = _named(field, named)
        if known is not None and "properties" in known:
            inner.append((f"{path}.{key}".lstrip("."), known))
            if "anyOf" not in field:
                continue
        default = json.dumps(field.get("default"), ensure_ascii=False)
        what = field.get("description", "").replace("|", "\\|")
        rows.append(f"| `{key}` | {_takes(field, named)} | `{default}` | {what} |")
    title = f"## `{path}`" if path else "## A run"
    yield from [title, "", " ".join(section.get("description", "").split("\n\n")[0].split()), ""]
    if rows:
        yield from ["| setting | takes | default | what it is |", "| --- | --- | --- | --- |", *rows, ""]
    for name, found in inner:
        yield from _section(name, found, named)


def _named(field: dict[str, Any], named: dict[str, Any]) -> dict[str, Any] | None:
    """The type that a field names, directly or beside null."""
    for choice in (field, *field.get("anyOf", ())):
        if "$ref" in choice:
            found: dict[str, Any] = named[choice["$ref"].rpartition("/")[2]]
            return found
    return None


def _takes(field: dict[str, Any], named: dict[str, Any]) -> str:
    if "anyOf" in field:
        return ", or ".join(_takes(choice, named) for choice in field["anyOf"])
    if "$ref" in field:
        known = named[field["$ref"].rpartition("/")[2]]
        return _choices(known["enum"]) if "enum" in known else "a section"
    if "enum" in field:
        return _choices(field["enum"])
    if "const" in field:
        return f"`{field['const']}`"
    if field.get("type") == "array":
        items = field.get("items", {})
        return f"list of {_takes(items, named)}" if items else "list"
    limits = [
        text.format(field[key]) for key, text in LIMITS.items() if key in field and abs(field[key]) < LARGEST_SHOWN
    ]
    kind = {"object": "mapping", "string": "text", "boolean": "true or false"}.get(
        field.get("type", ""), field.get("type", "any")
    )
    return ", ".join([kind, *limits])


def _choices(values: list[Any]) -> str:
    return " · ".join(f"`{value}`" for value in values)


def main(path: Annotated[Path, typer.Argument(help="Markdown file to write")]) -> None:
    """Write the page."""
    write_text(path, settings_page())


if __name__ == "__main__":
    typer.run(main)
