"""What a stage was made from: the key that decides between "up to date", "different" and "not there yet"."""

from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import Field

from schemas.base import Contract, canonical_digest
from schemas.version import code_version

StageName = Literal["synth", "qat", "sensitivity", "export", "eval", "set"]
"""`set`: made of finished sets, by `zsq set merge` or `zsq set subset`."""
Plain = None | bool | int | float | str | list[Any] | dict[str, Any]


class Provenance(Contract):
    """How an artifact came to be. Equal keys mean equal configuration and equal inputs."""

    stage: StageName
    key: str = Field(description="sha256 of the stage, its configuration and its inputs' digests")
    config: dict[str, Any] = Field(description="the stage's configuration without locations and device")
    inputs: dict[str, str] = Field(description="digest of each input by role, for example teacher")
    code_version: str
    created: datetime

    @classmethod
    def of(cls, stage: StageName, config: dict[str, Any], inputs: dict[str, str]) -> "Provenance":
        """The provenance of a stage that is about to run."""
        key = canonical_digest({"stage": stage, "config": config, "inputs": inputs})
        created = datetime.now(UTC).replace(microsecond=0)
        return cls(stage=stage, key=key, config=config, inputs=inputs, code_version=code_version(), created=created)

    def differences(self, other: "Provenance") -> list[str]:
        """Each setting or input in which the two differ, as `name: mine → theirs`."""
        mine = flat_settings({"config": self.config, "inputs": self.inputs})
        theirs = flat_settings({"config": other.config, "inputs": other.inputs})
        names = sorted(mine.keys() | theirs.keys())
        return [
            f"{name.partition('.')[2]}: {mine.get(name)!r} → {theirs.get(name)!r}"
            for name in names
            if mine.get(name) != theirs.get(name)
        ]


def flat_settings(value: Plain, prefix: str = "") -> dict[str, Plain]:
    """Nested settings by their dotted keys."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Plain] = {}
    for key, below in value.items():
        flat |= flat_settings(below, f"{prefix}.{key}" if prefix else key)
    return flat
