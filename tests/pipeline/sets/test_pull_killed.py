"""`kill -9` while a set is fetched: what lies there is no set, or the whole one, and the next pull goes on."""

import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelStatistics
from schemas.image_size import ImageSize
from schemas.labels import ImageLabels
from stages.shards import open_calibration_set, write_shard
from stages.storage import write_text
from tests.pipeline.sets.conftest import Nginx

SIDE = 256
SHARDS, SAMPLES = 4, 8
KILLS = 20


@pytest.fixture
def large_set(tmp_path: Path, make_calibration_set: Callable[[Path], CalibrationSetManifest]) -> Path:
    """Four shards of 1.6 MB."""
    folder = tmp_path / "large"
    manifest = make_calibration_set(tmp_path / "small")
    noise = np.random.default_rng(0)
    labels = ImageLabels(width=SIDE, height=SIDE, boxes=())
    shards = tuple(
        write_shard(
            folder,
            number,
            [(noise.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8), labels) for _ in range(SAMPLES)],
            first_sample=number * SAMPLES, seed=7, key="k",
        )
        for number in range(SHARDS)
    )  # fmt: skip
    statistics = LabelStatistics.of([labels] * SHARDS * SAMPLES, manifest.teacher.class_names)
    changes = {"shards": shards, "image_size": ImageSize.square(SIDE), "statistics": statistics}
    write_text(folder / MANIFEST, manifest.model_copy(update=changes).to_json())
    return folder


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_twenty_kills_leave_no_half_set_and_lose_no_shard(
    large_set: Path, tmp_path: Path, nginx: Callable[..., Nginx]
) -> None:
    served = nginx(large_set, "limit_rate 1m;")
    chance = random.Random(0)
    whole = {path.name: path.read_bytes() for path in large_set.iterdir()}
    kills = rounds = finished = 0
    while kills < KILLS:
        here = tmp_path / f"here{rounds}"
        rounds += 1
        while True:
            process = subprocess.Popen(
                [sys.executable, "-m", "pipeline.cli", "set", "pull", served.url, str(here)],
                stdout=subprocess.DEVNULL,
            )
            try:
                assert process.wait(chance.uniform(1.0, 4.0)) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                if (here / MANIFEST).exists():
                    open_calibration_set(here)
                time.sleep(0.05)
            else:
                finished += 1
                assert {path.name: path.read_bytes() for path in here.iterdir()} == whole
                break
    requests = served.ranges()
    print(f"{kills} kills, {finished} sets finished, {len(requests)} requests, {requests.count('206')} of them resumed")
    assert "206" in requests
