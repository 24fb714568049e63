"""JSON, YAML and label files made to harm: one line of a typed error, within time and memory."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval_job.data import find_validation_data
from schemas.base import read_config_values, set_by_dotted_key, validate_config
from schemas.calibration_set import MANIFEST
from schemas.errors import ConfigError, InputError
from schemas.run_config import RunConfig
from stages.shards import open_calibration_set
from synth_job.given_labels import read_given_labels
from tests.hostile.conftest import LABELS, SHARD, one_sample, refused, sign

DEEP = 100_000
NUMBERS = [
    "NaN",
    "Infinity",
    "-Infinity",
    "1e999",
    "-1e999",
    "1" + "0" * 400,
    "9" * 5000,
    "1e-400e3",
    "0x10",
    "1_0",
    "+1",
]


def put(folder: Path, **changes: str) -> str:
    """Put JSON text in place of fields of the manifest (`a__b`: b below a) and open the set."""
    manifest = json.loads((folder / MANIFEST).read_text())
    text = {}
    for place, (name, value) in enumerate(changes.items()):
        *sections, last = name.split("__")
        below: Any = manifest
        for section in sections:
            below = below[int(section) if section.isdigit() else section]
        below[last] = f"@{place}@"
        text[f'"@{place}@"'] = value
    whole = json.dumps(manifest)
    for mark, value in text.items():
        whole = whole.replace(mark, value)
    (folder / MANIFEST).write_text(whole)
    return refused(lambda: open_calibration_set(folder))


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize(
    "field", ["seed", "shards__0__bytes", "statistics__boxes_per_image", "teacher__architecture__nc", "extra"]
)
def test_numbers_that_are_none_or_too_large_are_refused_in_manifests(
    hostile_set: Path, field: str, number: str
) -> None:
    put(hostile_set, **{field: number})


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("field", [b'"width": 32', b'"boxes": []'])
def test_numbers_that_are_none_or_too_large_are_refused_in_labels(hostile_set: Path, field: bytes, number: str) -> None:
    name = field.partition(b":")[0]
    (hostile_set / SHARD).write_bytes(one_sample(labels=LABELS.replace(field, name + b": " + number.encode())))
    sign(hostile_set)
    refused(lambda: open_calibration_set(hostile_set))


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("field", ["seed", "teacher__architecture", "provenance__config", "sources"])
def test_deep_nesting_is_refused(hostile_set: Path, field: str, opening: str) -> None:
    put(hostile_set, **{field: opening * DEEP})
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    (hostile_set / MANIFEST).write_text(opening * DEEP + "1" + closing * DEEP)
    refused(lambda: open_calibration_set(hostile_set))


@pytest.mark.parametrize("depth", [100, 900, 5000])
def test_nesting_that_parses_is_still_no_crash(hostile_set: Path, depth: int) -> None:
    put(hostile_set, teacher__architecture='{"a":' * depth + "1" + "}" * depth, seed="-1")


def test_sets_made_of_sets_of_sets_are_bounded(hostile_set: Path) -> None:
    put(hostile_set, sources='[{"sources":' * 400 + "[]" + "}]" * 400)


def test_a_key_given_twice_is_refused_wherever_it_is(hostile_set: Path) -> None:
    text = (hostile_set / MANIFEST).read_text()
    (hostile_set / MANIFEST).write_text(text.replace('"seed": 7,', '"seed": 7, "seed": 8,', 1))
    assert "is there twice" in refused(lambda: open_calibration_set(hostile_set))
    (hostile_set / MANIFEST).write_text(text)
    (hostile_set / SHARD).write_bytes(one_sample(labels=LABELS.replace(b'"width": 32,', b'"width": 32, "width": 32,')))
    sign(hostile_set)
    assert "is there twice" in refused(lambda: open_calibration_set(hostile_set))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema_version": '"2.0"'}, "newer zsq"),
        ({"schema_version": '"999999999999999999999999.0"'}, "newer zsq"),
        ({"schema_version": '"\u00b2.0"'}, "not a version"),
        ({"schema_version": '"one"'}, "not a version"),
        ({"shards__0__schema_version": '"2.0"'}, "newer zsq"),
        ({"surprise": "1"}, "unknown key 'surprise'"),
        ({"shards__0__sha256": f'"{"0" * 64}"'}, "does not match its digest"),
        ({"shards__0__bytes": "1"}, "does not match its digest"),
        ({"shards__0__samples": "2"}, "its record says 2"),
        ({"shards__0__samples": "1000000000000"}, "its record says 1000000000000"),
        ({"shards__0__file": '"../calib-000000.tar"'}, "shards.0.file"),
        ({"shards__0__file": '"/etc/passwd"'}, "shards.0.file"),
        ({"shards__0__file": '"calib-000000.tar\\n"'}, "shards.0.file"),
        ({"shards__0__file": '"pipe:cat /etc/passwd"'}, "shards.0.file"),
        ({"shards": "[]"}, "shards"),
        ({"image_size": "64"}, "another size"),
        ({"image_size": "1e9"}, "image_size"),
        ({"teacher__class_names": "[]"}, "class_names"),
    ],
)
def test_manifests_that_lie_are_refused(hostile_set: Path, changes: dict[str, str], message: str) -> None:
    assert message in put(hostile_set, **changes)


@pytest.mark.parametrize(
    "box",
    ["[-1, 0, 4, 4]", "[30, 0, 4, 4]", "[0, 0, 1e5, 1]", "[0, 0, 0, 4]", "[0, 0, -4, 4]", "[0, 0, 1e-400, 4]",
     "[0, 0, 4]",     "[0, 0, 4, 4, 4]", '["0", 0, 4, 4]', "[true, 0, 4, 4]", "[1e308, 0, 1e308, 4]", "null"],
)  # fmt: skip
def test_boxes_outside_the_image_or_without_area_are_refused(hostile_set: Path, box: str) -> None:
    refuse_boxes(hostile_set, f'[{{"bbox": {box}, "category_id": 0, "origin": "sampled"}}]')


@pytest.mark.parametrize("category", ["2", "-1", "100000", "1.5", "1e999", "true", '"0"', "null", "9" * 400])
def test_classes_out_of_range_are_refused(hostile_set: Path, category: str) -> None:
    refuse_boxes(hostile_set, f'[{{"bbox": [0, 0, 4, 4], "category_id": {category}, "origin": "sampled"}}]')


def test_too_many_boxes_are_refused(hostile_set: Path) -> None:
    box = '{"bbox": [0, 0, 4, 4], "category_id": 0, "origin": "sampled"}'
    refuse_boxes(hostile_set, f"[{', '.join([box] * 10_001)}]")


def refuse_boxes(folder: Path, boxes: str) -> None:
    (folder / SHARD).write_bytes(one_sample(labels=LABELS.replace(b"[]", boxes.encode())))
    sign(folder)
    refused(lambda: open_calibration_set(folder))


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"null", b"[]", b'"a"', b"{}{}", b'{"a": "\\ud800"}'],
)
def test_manifests_that_are_no_json_object_are_refused(hostile_set: Path, content: bytes) -> None:
    (hostile_set / MANIFEST).write_bytes(content)
    refused(lambda: open_calibration_set(hostile_set))


def test_a_manifest_that_never_ends_is_read_no_further_than_its_bound(hostile_set: Path) -> None:
    (hostile_set / MANIFEST).unlink()
    (hostile_set / MANIFEST).symlink_to("/dev/zero")
    assert "no regular file" in refused(lambda: open_calibration_set(hostile_set))
    (hostile_set / MANIFEST).unlink()
    with (hostile_set / MANIFEST).open("wb") as stream:
        stream.truncate(2**40)
    assert "larger than" in refused(lambda: open_calibration_set(hostile_set))


ALIAS_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    "content",
    [
        ALIAS_BOMB,
        MERGE_BOMB,
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "&a [*a]: 1\n",
        "seed: !!python/object/apply:os.system ['touch ran']\n",
        "seed: !!python/name:os.system\n",
        "seed: !!int abc\n",
        "seed: !!float abc\n",
        "seed: !!bool abc\n",
        "seed: !!timestamp abc\n",
        "seed: !!binary '%%%'\n",
        "seed: !!set {a, b}\n",
        "seed: !mine 1\n",
        "seed: 2026-99-99\n",
        "seed: " + "9" * 5000 + "\n",
        "seed: 1e999\n",
        "seed: .nan\n",
        "seed: .inf\n",
        "seed: " + "[" * DEEP + "\n",
        "seed: " + "{a: " * DEEP + "\n",
        "- " * 5000 + "a\n",
        "seed: 1\nseed: 2\n",
        "? [a, b]\n: 1\n",
        "1: 2\n",
        "%YAML 3.0\n---\nseed: 1\n",
        "seed: 1\n---\nseed: 2\n",
        "seed: \x00\n",
        "seed: *missing\n",
        "a" * 2**21,
    ],
    ids=lambda content: content[:30],
)
def test_yaml_that_is_not_a_plain_configuration_is_refused(
    tmp_path: Path, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "run.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        validate_config(RunConfig, read_config_values(path), str(path))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_yaml_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for content in (b"\xff\xff", b"seed: \x80", "seed: 1".encode("utf-16")):
        path.write_bytes(content)
        refused(lambda: read_config_values(path))


def test_anchors_that_spare_typing_are_still_read(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]\n")
    assert read_config_values(path) == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize("value", [ALIAS_BOMB, "!!int x", "2026-99-99", "[" * DEEP, "&a [*a]", "9" * 5000, "1e999"])
def test_assignments_are_no_way_around(value: str) -> None:
    def apply() -> None:
        validate_config(RunConfig, set_by_dotted_key({}, f"seed={value}"), "--set")

    with pytest.raises(ConfigError):
        apply()


COCO = {
    "images": [{"id": 1, "file_name": "a.png", "width": 8, "height": 8}],
    "categories": [{"id": 1, "name": "cat"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 4, 4]}],
}


COCO_CASES = [
    (number, reader, old)
    for number in ("NaN", "1e999", "1" + "0" * 400, "9" * 5000, "[1]", "null", "{}")
    for reader in ("given", "validation")
    for old in ('"width": 8', "[0, 0, 4, 4]", '"image_id": 1', '"category_id": 1')
    # An image that is measured on says itself how large it is.
    if (reader, old) != ("validation", '"width": 8') or number not in ("null", "1" + "0" * 400)
]


@pytest.mark.parametrize(("number", "reader", "old"), COCO_CASES)
def test_numbers_in_coco_files_that_are_none_are_refused(tmp_path: Path, number: str, reader: str, old: str) -> None:
    path = tmp_path / "instances.json"
    new = f"[0, 0, {number}, 4]" if old.startswith("[") else f"{old.partition(':')[0]}: {number}"
    path.write_text(json.dumps(COCO).replace(old, new))
    (tmp_path / "images").mkdir()
    readers: dict[str, Callable[[], object]] = {
        "given": lambda: read_given_labels(path, ("cat",)),
        "validation": lambda: find_validation_data(str(path), None).read(("cat",)),
    }
    with pytest.raises(InputError) as caught:
        readers[reader]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "../../x.png", "a/../../secret.png"])
def test_coco_files_name_no_image_outside_their_folder(tmp_path: Path, name: str) -> None:
    path = tmp_path / "instances.json"
    path.write_text(json.dumps(COCO).replace("a.png", name))
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    with pytest.raises(InputError, match="below the image folder"):
        find_validation_data(str(path), None).digest()


@pytest.mark.parametrize(
    "line",
    ["0 nan 0.5 0.1 0.1", "0 inf 0.5 0.1 0.1", "nan 0.5 0.5 0.1 0.1", "inf 0.5 0.5 0.1 0.1", "1e999 0.5 0.5 0.1 0.1",
     "-1 0.5 0.5 0.1 0.1", "7 0.5 0.5 0.1 0.1", "0 5 5 1 1", "0", "0 0.5", "0.5 0.5 0.5 0.1 0.1", "x 0 0 0 0"],
)  # fmt: skip
def test_yolo_lines_out_of_range_are_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.txt").write_text(line)
    with pytest.raises(InputError):
        read_given_labels(tmp_path, ("cat", "dog"))
