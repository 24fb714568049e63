"""The strict base model of all contracts, and how their errors read."""

import difflib
import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from schemas.errors import ConfigError, InputError, VerificationError
from schemas.files import regular_file
from schemas.plain_yaml import load_yaml, plain_value
from schemas.text import redacted

SCHEMA_VERSION = "1.0"
"""Version of the contracts in this package, `major.minor`. A reader refuses a newer major version."""

MAX_DOCUMENT_BYTES = 64 * 2**20
"""Largest JSON document that is read, in bytes."""
LARGEST = 1e39
"""Largest number of a document: more than single precision holds. Sums and means of such are finite."""
MAX_TEXT = 10_000
"""Most characters of a text field."""
MOST_ERRORS = 10
"""Most fields that one line says something of."""
MOST_CHARACTERS = 1000
"""Of such a line, after which no other field begins."""
MOST_SHOWN = 80
"""Most characters of a foreign key or value that a line shows."""
MAX_YAML_BYTES = 2**20
"""Largest configuration that is read, bytes."""


class Contract(BaseModel):
    """Strict, frozen base: unknown keys, wrong types, NaN and infinity are errors."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, str_max_length=MAX_TEXT, defer_build=True
    )

    def to_json(self) -> str:
        """Indented JSON text, ending in a newline."""
        return self.model_dump_json(indent=2) + "\n"

    def shareable(self) -> Self:
        """A copy for whoever receives an artifact: of paths from somebody's root or home, and of URLs, the last name.

        Where things lie on their maker's machine says nothing to others, and may say what is nobody's business.
        """
        return self.model_copy(update={name: _shareable(getattr(self, name)) for name in type(self).model_fields})


def _shareable(value: Any) -> Any:
    if isinstance(value, Contract):
        return value.shareable()
    if isinstance(value, tuple):
        return tuple(_shareable(each) for each in value)
    if isinstance(value, str) and (value.startswith(("/", "~")) or "://" in value):
        return redacted(value).rstrip("/").rpartition("/")[2] or value
    return value


C = TypeVar("C", bound=Contract)


def _check_unambiguous(text: bytes) -> None:
    """Raise `ValueError` on what parsers read differently: keys given twice, NaN, numbers beyond 64 bits."""

    def each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = dict(pairs)
        if len(keys) < len(pairs):
            twice = next(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
            raise ValueError(f"key {twice[:80]!r} is there twice")
        return keys

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"{number[:80]} is not a finite number")
        if abs(value) > LARGEST:
            raise ValueError(f"{number[:80]} is no number that is ever measured")
        return value

    def in_64_bits(number: str) -> int:
        if len(number) > 20 or not -(2**63) <= int(number) < 2**63:
            raise ValueError(f"{number[:80]} has more than 64 bits")
        return int(number)

    json.loads(text, object_pairs_hook=each_key_once, parse_constant=finite, parse_float=finite, parse_int=in_64_bits)


class Document(Contract):
    """A contract stored as a file of its own; carries the version of the schema it was written with."""

    schema_version: str = SCHEMA_VERSION

    @field_validator("schema_version")
    @classmethod
    def _readable(cls, value: str) -> str:
        major = value.partition(".")[0]
        if not (major.isascii() and major.isdigit()):
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
            with regular_file(path) as stream:
                text = stream.read(MAX_DOCUMENT_BYTES + 1)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: bytes, where: str) -> Self:
        """Validate the bytes of a JSON document that came from `where`.

        Raises:
            VerificationError: they are not a valid document of this kind, or say something twice.
        """
        if len(text) > MAX_DOCUMENT_BYTES:
            raise VerificationError(f"{where}: larger than {MAX_DOCUMENT_BYTES} bytes, not a {cls.__name__}")
        try:
            _check_unambiguous(text)
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise VerificationError(f"{where}: not a valid {cls.__name__}: {describe(error, cls)}") from error
        except (ValueError, RecursionError) as error:
            raise VerificationError(f"{where}: not a valid {cls.__name__}: {error}") from error


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


def read_config_values(path: Path) -> dict[str, Any]:
    """The nested plain values of a YAML configuration file.

    Raises:
        ConfigError: the file is missing, is not YAML, carries tags, or is not a mapping.
    """
    try:
        with regular_file(path) as stream:
            text = stream.read(MAX_YAML_BYTES + 1)
        if len(text) > MAX_YAML_BYTES:
            raise ConfigError(f"configuration file {path}: larger than {MAX_YAML_BYTES} bytes; check the path")
        values = load_yaml(text.decode("utf-8"))
    except OSError as error:
        hint = "let everybody read it (chmod a+r)" if isinstance(error, PermissionError) else "check the path"
        raise ConfigError(f"configuration file {path}: cannot be read ({error.strerror or error}); {hint}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"configuration file {path}: not text in UTF-8; check the path") from error
    except ValueError as error:
        raise ConfigError(f"configuration file {path}: not plain YAML ({error})") from error
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
        value = plain_value(text)
    except ValueError as error:
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
    """A validation error as one line: each field, what it got and what it takes; of very many, the first ones."""
    lines: list[str] = []
    seen: list[tuple[tuple[int | str, ...], str, Any]] = []
    listed: set[tuple[str, ...]] = set()
    items = error.errors(include_url=False)
    for number, item in enumerate(items):
        if len(lines) == MOST_ERRORS or sum(map(len, lines)) > MOST_CHARACTERS:
            lines.append(f"and {len(items) - number} more")
            break
        if (item["loc"][1:], item["type"], item["input"]) in seen:
            continue  # a run's shared setting reaches its stages too: once is enough
        seen.append((item["loc"], item["type"], item["input"]))
        lines.append(_describe_one(dict(item), model, listed))
    return "; ".join(lines)


def _describe_one(item: dict[str, Any], model: type[BaseModel], listed: set[tuple[str, ...]]) -> str:
    """What is wrong with one field; the keys of a section are said once, and it is `listed` then."""
    location = [_cut(str(part)) for part in item["loc"]]
    field = ".".join(location) or "the document"
    if item["type"] == "extra_forbidden":
        section = tuple(location[:-1])
        known = _known_keys(model, location[:-1])
        close = difflib.get_close_matches(location[-1], known, n=1)
        if close:
            return f"unknown key {field!r}; did you mean {close[0]!r}?"
        hint = "" if section in listed else f"; known keys: {', '.join(known)}"
        listed.add(section)
        return f"unknown key {field!r}{hint}"
    if item["type"] == "missing":
        return f"{field}: missing"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = repr(item["input"])
    if not location or isinstance(item["input"], dict) or len(got) > MOST_SHOWN:
        return f"{field}: {message}" if location else message
    return f"{field}: got {got}, {message}"


def _cut(text: str) -> str:
    """The beginning of a key that is no key of ours and may be of any length."""
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"


def _known_keys(model: type[BaseModel], location: list[str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(part)
        below = field.annotation if field else None
        if not (isinstance(below, type) and issubclass(below, BaseModel)):
            return []
        model = below
    return list(model.model_fields)
