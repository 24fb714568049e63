"""Merged and partial sets are ordinary sets that say where their images came from."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schemas.calibration_set import MANIFEST, CalibrationSetManifest, ImageSource, LabelMode
from schemas.image_size import ImageSize
from stages.shards import open_calibration_set, read_shard, write_shard
from tests.pipeline.sets.conftest import zsq_set


@pytest.fixture
def other(tmp_path: Path, set_folder: Path) -> Path:
    """Two images with the labels of 4 and 5 of the set."""
    inverted = tmp_path / "inverted"
    shutil.copytree(set_folder, inverted)
    shards = []
    for number, record in enumerate(CalibrationSetManifest.read(set_folder / MANIFEST).shards):
        samples = read_shard(set_folder / record.file, record.samples)
        pairs = [(255 - sample.image(), sample.labels) for sample in samples]
        shard = write_shard(inverted, number, pairs, first_sample=record.first_sample, seed=7, key=record.key)
        shards.append(shard.model_dump(mode="json"))
    edit(inverted, shards=shards)
    assert zsq_set("subset", inverted, "--samples", "4:", "--output", tmp_path / "other").exit_code == 0
    return tmp_path / "other"


def edit(folder: Path, **changes: Any) -> None:
    """Change fields of a manifest; `a__b` names b below a."""
    manifest = json.loads((folder / MANIFEST).read_text())
    for name, value in changes.items():
        *sections, last = name.split("__")
        below = manifest
        for section in sections:
            below = below[section]
        below[last] = value
    (folder / MANIFEST).write_text(json.dumps(manifest))


def lefts(folder: Path) -> list[float]:
    """Left edge of each image's box: 0, 2, 4 … in the whole set."""
    return [sample.labels.boxes[0].bbox[0] for sample in open_calibration_set(folder).samples]


def test_a_merged_set_holds_all_images_in_order_numbered_anew(set_folder: Path, other: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    result = zsq_set("merge", other, set_folder, "--output", merged)
    assert result.exit_code == 0, result.output
    assert zsq_set("verify", merged).exit_code == 0
    assert lefts(merged) == [8, 10, 0, 2, 4, 6, 8, 10]
    manifest = open_calibration_set(merged).manifest
    assert [(shard.first_sample, shard.samples, shard.seed) for shard in manifest.shards] == [
        (0, 2, 7), (2, 3, 7), (5, 3, 7),
    ]  # fmt: skip
    assert manifest.statistics.images == 8
    whole = open_calibration_set(set_folder)
    for sample, original in zip(open_calibration_set(merged).samples[2:], whole.samples, strict=True):
        np.testing.assert_array_equal(sample.image(), original.image())


def test_a_merged_set_keeps_both_provenances(set_folder: Path, other: Path, tmp_path: Path) -> None:
    assert zsq_set("merge", set_folder, other, "--output", tmp_path / "merged").exit_code == 0
    manifest = CalibrationSetManifest.read(tmp_path / "merged" / MANIFEST)
    one, two = CalibrationSetManifest.read(set_folder / MANIFEST), CalibrationSetManifest.read(other / MANIFEST)
    assert [source.digest for source in manifest.sources] == [one.digest, two.digest]
    assert [source.provenance for source in manifest.sources] == [one.provenance, two.provenance]
    assert [(source.first_sample, source.samples) for source in manifest.sources] == [(0, 6), (6, 2)]
    assert manifest.sources[0].synth == one.synth
    assert manifest.sources[1].sources == two.sources
    inspected = zsq_set("inspect", tmp_path / "merged").stdout
    assert one.digest in inspected and two.digest in inspected


def test_an_image_of_two_sets_is_taken_once(set_folder: Path, other: Path, tmp_path: Path) -> None:
    part, merged = tmp_path / "part", tmp_path / "merged"
    assert zsq_set("subset", set_folder, "--samples", "1:3", "--output", part).exit_code == 0
    result = zsq_set("merge", set_folder, part, other, "--output", merged)
    assert result.exit_code == 0, result.output
    assert "part: 2 images are in an earlier set; left out" in result.output
    assert lefts(merged) == [0, 2, 4, 6, 8, 10, 8, 10]
    assert [source.samples for source in open_calibration_set(merged).manifest.sources] == [6, 0, 2]
    assert zsq_set("verify", merged).exit_code == 0
    assert zsq_set("merge", part, set_folder, "--output", tmp_path / "again").exit_code == 0
    assert lefts(tmp_path / "again") == [2, 4, 0, 6, 8, 10]


def test_merging_again_is_up_to_date_and_other_sets_are_refused(set_folder: Path, other: Path, tmp_path: Path) -> None:
    merged = tmp_path / "merged"
    assert zsq_set("merge", set_folder, other, "--output", merged).exit_code == 0
    assert "up to date" in zsq_set("merge", set_folder, other, "--output", merged).stdout
    assert zsq_set("merge", other, set_folder, "--output", merged).exit_code == 2
    assert zsq_set("merge", other, set_folder, "--output", merged, "--overwrite").exit_code == 0
    assert lefts(merged)[:2] == [8, 10]
    assert zsq_set("verify", merged).exit_code == 0


@pytest.mark.parametrize(
    ("changes", "allow"),
    [
        ({"teacher__sha256": "b" * 64}, "teacher"),
        ({"teacher__class_names": ["dog", "cat"]}, "classes"),
        ({"label_mode": "given"}, "labels"),
        ({"image_source": "real"}, "images"),
    ],
)
def test_sets_that_differ_are_merged_only_when_told(
    set_folder: Path, other: Path, tmp_path: Path, changes: dict[str, Any], allow: str
) -> None:
    edit(other, **changes)
    result = zsq_set("merge", set_folder, other, "--output", tmp_path / "merged")
    assert result.exit_code == 2
    assert f"--allow {allow}" in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "merged").exists()
    assert zsq_set("merge", set_folder, other, "--output", tmp_path / "merged", "--allow", allow).exit_code == 0


def test_what_a_merged_set_is_marked_as_is_the_least_innocent_of_its_parts(
    set_folder: Path, other: Path, tmp_path: Path
) -> None:
    edit(other, label_mode="given", image_source="noise", licence="Ask us first.")
    allow = ("--allow", "labels", "--allow", "images")
    assert zsq_set("merge", set_folder, other, "--output", tmp_path / "merged", *allow).exit_code == 0
    manifest = open_calibration_set(tmp_path / "merged").manifest
    assert (manifest.label_mode, manifest.image_source) == (LabelMode.GIVEN, ImageSource.NOISE)
    assert manifest.licence.endswith("Ask us first.")


def test_classes_are_matched_by_name(set_folder: Path, other: Path, tmp_path: Path) -> None:
    edit(other, teacher__class_names=["bird", "cow", "cat", "dog"])
    manifest = json.loads((other / MANIFEST).read_text())
    assert zsq_set("merge", set_folder, other, "--output", tmp_path / "m", "--allow", "classes").exit_code == 2
    edit(other, teacher__class_names=["dog", "cat"])  # its labels: image 4 is class 0, image 5 class 1
    assert manifest["shards"]
    assert zsq_set("merge", set_folder, other, "--output", tmp_path / "m", "--allow", "classes").exit_code == 0
    classes = [sample.labels.boxes[0].category_id for sample in open_calibration_set(tmp_path / "m").samples]
    whole = [sample.labels.boxes[0].category_id for sample in open_calibration_set(set_folder).samples]
    assert classes == [*whole, *(1 - category for category in whole[4:])]


def test_rectangles_merge_with_their_like_and_never_with_others(
    set_folder: Path, tmp_path: Path, make_calibration_set: Callable[..., CalibrationSetManifest]
) -> None:
    for name, sides in {"wide": (32, 64), "tall": (64, 32)}.items():
        make_calibration_set(tmp_path / name, *sides)
    for other in (set_folder, tmp_path / "tall"):
        result = zsq_set("merge", tmp_path / "wide", other, "--output", tmp_path / "merged")
        assert result.exit_code == 2 and "no batch can hold both" in result.stderr
    assert "those of" in result.stderr and "32x64" in result.stderr and "64x32" in result.stderr
    half = zsq_set("subset", tmp_path / "wide", "--count", "2", "--output", tmp_path / "half")
    assert half.exit_code == 0, half.output
    assert open_calibration_set(tmp_path / "half").manifest.image_size == ImageSize(32, 64)


def test_sizes_that_differ_are_never_merged(set_folder: Path, tmp_path: Path) -> None:
    from pipeline.sets.merge import _check_fit
    from schemas.errors import ConfigError
    from stages.shards import CalibrationSet

    one = open_calibration_set(set_folder)
    larger = CalibrationSet(tmp_path, one.manifest.model_copy(update={"image_size": ImageSize.square(64)}), [])
    with pytest.raises(ConfigError, match="no batch can hold both"):
        _check_fit(one, larger, ())


@pytest.mark.parametrize("names", [("set",), ("set", "set"), ("set", "merged")])
def test_too_few_the_same_or_missing_sets_are_refused(set_folder: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    result = zsq_set("merge", *(tmp_path / name for name in names), "--output", tmp_path / "merged")
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert not (tmp_path / "merged").exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--count", 2), [0, 2]),
        (("--samples", "1:4"), [2, 4, 6]),
        (("--samples", ":2"), [0, 2]),
        (("--class", "dog"), [4, 10]),
        (("--class", "dog", "--class", "cat"), [0, 2, 4, 6, 8, 10]),
        (("--samples", "1:", "--class", "cat", "--count", 2), [2, 6]),
    ],
)
def test_a_subset_takes_what_was_asked_for(
    set_folder: Path, tmp_path: Path, options: tuple[object, ...], expected: list[float]
) -> None:
    result = zsq_set("subset", set_folder, *options, "--output", tmp_path / "part")
    assert result.exit_code == 0, result.output
    assert lefts(tmp_path / "part") == expected
    assert zsq_set("verify", tmp_path / "part").exit_code == 0
    manifest = open_calibration_set(tmp_path / "part").manifest
    assert manifest.sources[0].digest == open_calibration_set(set_folder).manifest.digest
    assert manifest.sources[0].samples == manifest.samples == len(expected)


@pytest.mark.parametrize(
    "options",
    [
        ("--samples", "6:"),
        ("--samples", "2"),
        ("--samples", "-1:3"),
        ("--samples", "0:" + "9" * 5000),
        ("--class", "bird"),
        ("--count", 0),
    ],
)
def test_an_empty_or_unreadable_wish_is_refused(set_folder: Path, tmp_path: Path, options: tuple[object, ...]) -> None:
    assert zsq_set("subset", set_folder, *options, "--output", tmp_path / "part").exit_code == 2
    assert not (tmp_path / "part").exists()


def test_a_set_is_not_replaced_by_its_own_part(set_folder: Path) -> None:
    assert zsq_set("subset", set_folder, "--count", 1, "--output", set_folder, "--overwrite").exit_code == 2
    assert lefts(set_folder) == [0, 2, 4, 6, 8, 10]
