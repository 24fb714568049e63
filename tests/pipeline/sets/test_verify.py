import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from schemas.calibration_set import MANIFEST
from tests.pipeline.sets.conftest import zsq_set
from tests.stages.test_shards import members_of, resign, write_tar

SHARD = "calib-000000.tar"


def test_a_whole_set_is_verified(set_folder: Path) -> None:
    result = zsq_set("verify", set_folder)
    assert result.exit_code == 0 and "6 of 32 px in 2 shards" in result.stdout


def test_an_image_that_does_not_decode_is_found(set_folder: Path) -> None:
    members = members_of(set_folder / SHARD)
    broken = [(name, text[: len(text) // 2] if name.endswith("png") else text) for name, text in members]
    write_tar(set_folder / SHARD, broken)
    resign(set_folder)
    record = json.loads((set_folder / MANIFEST).read_text())["shards"][0]
    (set_folder / "calib-000000.json").write_text(json.dumps(record))
    assert zsq_set("inspect", set_folder).exit_code == 0
    result = zsq_set("verify", set_folder)
    assert result.exit_code == 3 and "does not decode" in result.stderr


def test_statistics_that_lie_are_found(set_folder: Path) -> None:
    text = (set_folder / MANIFEST).read_text()
    (set_folder / MANIFEST).write_text(text.replace('"relabelled": 3', '"relabelled": 300'))
    result = zsq_set("verify", set_folder)
    assert result.exit_code == 3 and "statistics" in result.stderr


def test_given_boxes_in_a_set_that_says_sampled_are_found(set_folder: Path) -> None:
    members = members_of(set_folder / SHARD)
    write_tar(set_folder / SHARD, [(name, text.replace(b'"relabelled"', b'"given"')) for name, text in members])
    resign(set_folder)
    (set_folder / "calib-000000.json").unlink()
    result = zsq_set("verify", set_folder)
    assert result.exit_code == 3 and "labels were sampled, but boxes are given" in result.stderr


def test_a_shard_that_the_manifest_does_not_name_is_found(set_folder: Path) -> None:
    shutil.copy(set_folder / SHARD, set_folder / "calib-000009.tar")
    result = zsq_set("verify", set_folder)
    assert result.exit_code == 3 and "calib-000009.tar: not in the manifest" in result.stderr


def test_a_record_that_contradicts_the_manifest_is_found(set_folder: Path) -> None:
    shutil.copy(set_folder / "calib-000001.json", set_folder / "calib-000000.json")
    result = zsq_set("verify", set_folder)
    assert result.exit_code == 3 and "something else than the manifest" in result.stderr


@pytest.mark.parametrize("name", [MANIFEST, SHARD])
def test_a_set_without_its_records_or_with_others_files_beside_it_is_whole(set_folder: Path, name: str) -> None:
    (set_folder / "calib-000000.json").unlink()
    (set_folder / f"{name}.orig").write_text("notes")
    assert zsq_set("verify", set_folder).exit_code == 0


def test_the_tar_is_one_that_every_tar_reads(set_folder: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO((set_folder / SHARD).read_bytes())) as tar:
        assert len(tar.getnames()) == 6
