"""What is published is there for readers when its last byte is, and nobody's other set is replaced unasked."""

from pathlib import Path

import pytest

from schemas.calibration_set import MANIFEST
from tests.pipeline.sets.conftest import zsq_set

SHARD = "calib-000000.tar"


def stored(url: str) -> dict[str, bytes]:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    place = url.removeprefix("s3://")
    return {path.rpartition("/")[2]: filesystem.cat_file(path) for path in filesystem.find(place)}


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def change(url: str, name: str, to: bytes | None) -> None:
    import s3fs

    filesystem = s3fs.S3FileSystem(skip_instance_cache=True, use_listings_cache=False)
    if to is None:
        filesystem.rm_file(f"{url}/{name}")
    else:
        filesystem.pipe_file(f"{url}/{name}", to)


def test_a_pushed_set_is_the_set_and_again_is_up_to_date(set_folder: Path, s3: str) -> None:
    result = zsq_set("push", set_folder, s3)
    assert result.exit_code == 0, result.output
    assert stored(s3) == content(set_folder)
    again = zsq_set("push", set_folder, s3 + "/")
    assert again.exit_code == 0 and "up to date" in again.stdout


def test_an_interrupted_push_is_no_set_and_goes_on(
    set_folder: Path, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.sets.locations import Store, TransferError

    put, names = Store.put, []

    def fail_at_the_second(self: Store, path: Path, name: str) -> None:
        names.append(name)
        if len(names) == 2:
            raise TransferError(f"{name}: broken off")
        put(self, path, name)

    monkeypatch.setattr(Store, "put", fail_at_the_second)
    assert zsq_set("push", set_folder, s3).exit_code == 2
    assert MANIFEST not in stored(s3)
    assert zsq_set("pull", s3, tmp_path / "here").exit_code == 2
    assert zsq_set("push", set_folder, s3).exit_code == 0
    assert names == [SHARD, "calib-000001.tar", "calib-000001.tar"]
    assert stored(s3) == content(set_folder)


@pytest.mark.parametrize("to", [None, b"short"])
def test_a_shard_that_is_lost_or_cut_there_is_stored_again(set_folder: Path, s3: str, to: bytes | None) -> None:
    assert zsq_set("push", set_folder, s3).exit_code == 0
    change(s3, SHARD, to)
    assert zsq_set("push", set_folder, s3).exit_code == 0
    assert stored(s3) == content(set_folder)


def test_what_reads_back_differently_never_becomes_a_set(
    set_folder: Path, s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from pipeline.sets.locations import Store

    put = Store.put
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"x" * (set_folder / SHARD).stat().st_size)
    monkeypatch.setattr(Store, "put", lambda self, path, name: put(self, damaged, name))
    result = zsq_set("push", set_folder, s3)
    assert result.exit_code == 3 and "reads back differently" in result.stderr
    assert MANIFEST not in stored(s3)


def test_another_set_is_replaced_only_when_told(set_folder: Path, s3: str, tmp_path: Path) -> None:
    assert zsq_set("subset", set_folder, "--count", 2, "--output", tmp_path / "other").exit_code == 0
    assert zsq_set("push", tmp_path / "other", s3).exit_code == 0
    before = stored(s3)
    result = zsq_set("push", set_folder, s3)
    assert result.exit_code == 2 and "--overwrite" in result.stderr and result.stderr.count("\n") == 1
    assert stored(s3) == before
    assert zsq_set("push", set_folder, s3, "--overwrite").exit_code == 0
    assert stored(s3) == content(set_folder)
    assert zsq_set("push", tmp_path / "other", s3, "--overwrite").exit_code == 0
    assert stored(s3) == before, "nothing of the larger set is left"


def test_a_folder_is_a_target_too(set_folder: Path, tmp_path: Path) -> None:
    result = zsq_set("push", set_folder, f"file://{tmp_path}/there")
    assert result.exit_code == 0 and '"task": "push"' in result.stdout
    assert content(tmp_path / "there") == content(set_folder)


def test_a_damaged_set_is_not_published(set_folder: Path, s3: str) -> None:
    (set_folder / SHARD).write_bytes(b"x")
    assert zsq_set("push", set_folder, s3).exit_code == 3
    assert stored(s3) == {}


def test_http_is_only_read(set_folder: Path) -> None:
    result = zsq_set("push", set_folder, "https://host/set")
    assert result.exit_code == 2 and "only be read" in result.stderr


def test_a_bucket_that_is_not_there_or_not_ours_is_one_line(
    set_folder: Path, s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = zsq_set("push", set_folder, "s3://no-such-bucket/set")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    result = zsq_set("push", set_folder, "s3://other/set")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
