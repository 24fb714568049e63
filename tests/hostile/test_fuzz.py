"""Mutated shards and manifests: read, or refused with a typed error; nothing else, whatever the bytes are.

A few hundred cases in every run; `pytest tests/hostile/test_fuzz.py -m slow` runs 20,000, and ZSQ_FUZZ_CASES and
ZSQ_FUZZ_SEED set others.
"""

import os
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from schemas.base import read_config_values
from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ShardRecord
from schemas.errors import ConfigError, VerificationError
from schemas.labels import ImageLabels
from stages.shards import open_calibration_set, read_shard
from tests.hostile.conftest import LABELS, SHARD, one_sample, sign
from tests.hostile.mutation import mutated

QUICK = 400
MANY = int(os.environ.get("ZSQ_FUZZ_CASES", "20000"))
SEED = int(os.environ.get("ZSQ_FUZZ_SEED", "0"))
CONFIGURATION = b"""\
teacher: {path: embedded}
seed: 3
synth: &s
  images: 64
  labels: {source: adaptive, iterations: 200}
qat:
  bits: {weight_bits: 4, activation_bits: 8}
"""
BOXES = b'[{"bbox": [1.5, 2, 8, 9], "category_id": 1, "score": 0.5, "origin": "sampled"}]'
BOXED = LABELS.replace(b"[]", BOXES)


@pytest.fixture
def targets(hostile_set: Path) -> dict[str, tuple[bytes, Callable[[bytes], object]]]:
    """What is mutated, and what reads it."""
    shard, manifest = hostile_set / SHARD, (hostile_set / MANIFEST).read_bytes()
    configuration = hostile_set.parent / "run.yaml"

    def shard_without_digest(content: bytes) -> None:
        shard.write_bytes(content)
        for sample in read_shard(shard, 1):
            sample.image()

    def set_with_digest(content: bytes) -> None:
        shard.write_bytes(content)
        (hostile_set / MANIFEST).write_bytes(manifest)
        sign(hostile_set)
        for sample in open_calibration_set(hostile_set).samples:
            sample.image()

    def yaml_file(content: bytes) -> None:
        configuration.write_bytes(content)
        read_config_values(configuration)

    return {
        "shard": (one_sample(labels=BOXED), shard_without_digest),
        "set": (one_sample(labels=BOXED), set_with_digest),
        "manifest": (manifest, lambda content: CalibrationSetManifest.parse(content, MANIFEST)),
        "record": (
            (hostile_set / "calib-000000.json").read_bytes(),
            lambda content: ShardRecord.parse(content, "record"),
        ),
        "labels": (BOXED, lambda content: ImageLabels.parse(content, "labels")),
        "configuration": (CONFIGURATION, yaml_file),
    }


def fuzz(targets: dict[str, tuple[bytes, Callable[[bytes], object]]], cases: int) -> Counter[str]:
    """Run that many cases, spread over the targets; how many were read and how many refused."""
    outcomes: Counter[str] = Counter()
    for case in range(cases):
        name = list(targets)[case % len(targets)]
        content, read = targets[name]
        hostile = mutated(content, random.Random(f"{SEED}/{case}"))
        try:
            read(hostile)
            outcomes["read"] += 1
        except (VerificationError, ConfigError) as error:
            assert "\n" not in str(error), f"case {case} of {name}"
            outcomes["refused"] += 1
        except Exception as error:
            raise AssertionError(f"case {case} of {name}, seed {SEED}: {error!r} from {hostile!r}") from error
    return outcomes


def test_every_target_reads_what_is_not_mutated(targets: dict[str, tuple[bytes, Callable[[bytes], object]]]) -> None:
    for content, read in targets.values():
        read(content)


def test_a_few_mutations_are_read_or_refused(targets: dict[str, tuple[bytes, Callable[[bytes], object]]]) -> None:
    outcomes = fuzz(targets, QUICK)
    assert outcomes["refused"] > QUICK // 2


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_mutations_are_read_or_refused(
    targets: dict[str, tuple[bytes, Callable[[bytes], object]]], no_time_limit: None
) -> None:
    outcomes = fuzz(targets, MANY)
    print(f"{MANY} cases, seed {SEED}: {outcomes['read']} read, {outcomes['refused']} refused")
    assert outcomes["refused"] > MANY // 2
