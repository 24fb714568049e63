"""The strict base model of all contracts, and how their errors read."""

import difflib
import hashlib
import json
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Self, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from schemas.errors import ConfigError, InputError, VerificationError

SCHEMA_VERSION = "1.0"
"""Version of the contracts in this package, `major.minor`. A reader refuses a newer major version."""

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Largest JSON document that is read, in bytes."""


class Contract(BaseModel):
    """Strict, frozen base: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def to_json(self) -> str:
        """Indented JSON text, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"


C = TypeVar("C", bound=Contract)


class Document(Contract):
    """A contract stored as a file of its own; carries the version of the schema it was written with."""

    schema_version: str = SCHEMA_VERSION

    @field_validator("schema_version")
    @classmethod
    def _readable(cls, value: str) -> str:
        major = value.partition(".")[0]
        if not major.isdigit():
            raise ValueError(f"not a version of the form 'major.minor': {value!r}")
        if int(major) > int(SCHEMA_VERSION.partition(".")[0]):
            raise ValueError(
                f"written by a newer zsq (schema {value}); this one reads up to {SCHEMA_VERSION}: upgrade zsq"
            )
        return value

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and validate a JSON document.

        Raises:
            InputError: the file does not exist or cannot be read.
            VerificationError: the content is not a valid document of this kind.
        """
        try:
            if path.stat().st_size > MAX_DOCUMENT_BYTES:
                raise VerificationError(f"{path}: larger than {MAX_DOCUMENT_BYTES} bytes, not a {cls.__name__}")
            text = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise VerificationError(f"{path}: not a valid {cls.__name__}: {describe(error, cls)}") from error


def validate_config(model: type[C], values: dict[str, Any], where: str) -> C:
    """Validate plain values (from YAML or the command line) as configuration `model`.

    Args:
        model: the configuration contract.
        values: nested plain values, as `yaml.safe_load` returns them.
        where: what the values came from; the error starts with it.

    Raises:
        ConfigError: with every offending field in one line: its name, what it got, what it takes.
    """
    try:
        return model.model_validate_json(json.dumps(values))
    except ValidationError as error:
        raise ConfigError(f"{where}: {describe(error, model)}") from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: holds a value that JSON cannot express ({error})") from error


class PlainLoader(yaml.SafeLoader):
    """Safe YAML in which `1e-4` is a number, as in YAML 1.2, and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key.value!r} is there twice", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def _load_yaml(text: str) -> Any:
    return yaml.load(text, PlainLoader)  # a SafeLoader: plain values only


def read_config_values(path: Path) -> dict[str, Any]:
    """The nested plain values of a YAML configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, carries tags, or is not a mapping.
    """
    try:
        values = _load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"configuration file {path}: cannot be read ({error}); check the path") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"configuration file {path}: not plain YAML ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"configuration file {path}: must hold `key: value` lines, got {type(values).__name__}")
    return values


def set_by_dotted_key(values: dict[str, Any], assignment: str) -> dict[str, Any]:
    """A copy of `values` with one `section.key=value` assignment applied (the value is read as YAML).

    Raises:
        ConfigError: the assignment has no `=` or names a key below a plain value.
    """
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {assignment!r}: write it as key=value, for example labels.source=random")
    try:
        value = _load_yaml(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--set {assignment!r}: the value is not plain YAML") from error
    *sections, last = key.split(".")
    if not all((*sections, last)):
        raise ConfigError(f"--set {assignment!r}: the key has an empty part")
    changed = section = dict(values)
    for name in sections:
        below = section.get(name)
        if below is not None and not isinstance(below, dict):
            raise ConfigError(f"--set {assignment!r}: {name} is a plain value, it has no keys")
        section[name] = section = dict(below or {})
    section[last] = value
    return changed


def canonical_digest(value: Any) -> str:
    """sha256 (hex) of a JSON-able value in canonical form: sorted keys, no white space."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """A validation error as one line: each field, what it got and what it takes."""
    lines: list[str] = []
    seen: list[tuple[tuple[int | str, ...], str, Any]] = []
    for item in error.errors(include_url=False):
        if (item["loc"][1:], item["type"], item["input"]) in seen:
            continue  # a run's shared setting reaches its stages too: once is enough
        seen.append((item["loc"], item["type"], item["input"]))
        lines.append(_describe_one(dict(item), model))
    return "; ".join(lines)


def _describe_one(item: dict[str, Any], model: type[BaseModel]) -> str:
    location = [str(part) for part in item["loc"]]
    field = ".".join(location) or "the document"
    if item["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        return f"unknown key {field!r}; {hint}"
    if item["type"] == "missing":
        return f"{field}: missing"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = repr(item["input"])
    if not location or isinstance(item["input"], dict) or len(got) > 80:
        return f"{field}: {message}" if location else message
    return f"{field}: got {got}, {message}"


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        below = field.annotation if field else None
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            return []
        model = below
    return list(model.model_fields)
