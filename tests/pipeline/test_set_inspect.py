import json

import pytest
from typer.testing import CliRunner, Result

from pipeline.cli import app
from pipeline.inspection import describe_set
from schemas.calibration_set import (
    MANIFEST,
    AveragePrecision,
    CalibrationSetManifest,
    ImageSource,
    LabelMode,
    LabelStatistics,
)
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin


def inspect(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["set", "inspect", *map(str, arguments)])


def test_it_says_whose_labels_and_which_images_these_are(tmp_path, make_calibration_set):
    manifest = make_calibration_set(tmp_path)
    result = inspect(tmp_path)
    assert result.exit_code == 0, result.stderr
    for expected in (
        "sampled (by the detector itself: nobody's labels were used)",
        "image source   synthesized",
        "6 of 32 x 32 px, seed 7",
        f"sha256 {manifest.teacher.sha256}",
        "3 relabelled, 3 sampled",
        "agreement      none",
        *(shard.sha256 for shard in manifest.shards),
    ):
        assert expected in result.stdout
    assert "cat       4  " + "█" * 40 + "\n" in result.stdout
    assert "dog       2  " + "█" * 20 + "\n" in result.stdout
    assert "10% to 30%        6  " in result.stdout


def test_a_rectangle_says_which_side_is_which(tmp_path, make_calibration_set):
    make_calibration_set(tmp_path, 32, 64)
    assert "images         6 of 32 x 64 px (height x width), seed 7" in inspect(tmp_path).stdout


def test_given_labels_and_real_images_stand_out(tmp_path, make_calibration_set):
    manifest = make_calibration_set(tmp_path)
    text = describe_set(manifest.model_copy(update={"label_mode": LabelMode.GIVEN, "image_source": ImageSource.REAL}))
    assert "SOMEBODY'S LABELS" in text
    assert "image source   real" in text


@pytest.mark.parametrize(("map50", "doubted"), [(0.02, True), (0.9, False)])
def test_images_in_which_the_teacher_sees_nothing_are_doubted(tmp_path, make_calibration_set, map50, doubted):
    agreement = AveragePrecision(map50_95=0.01, map50=map50, map75=0.01, map_small=-1, map_medium=0.01, map_large=0.01)
    manifest = make_calibration_set(tmp_path).model_copy(update={"teacher_agreement": agreement})
    assert (manifest.doubt is not None) == doubted
    assert ("sees few of the labels in these images" in describe_set(manifest)) == doubted


def test_json_is_the_manifest(tmp_path, make_calibration_set):
    manifest = make_calibration_set(tmp_path)
    result = inspect(tmp_path, "--json")
    assert CalibrationSetManifest.model_validate_json(result.stdout) == manifest
    assert json.loads(result.stdout) == json.loads((tmp_path / MANIFEST).read_text())


@pytest.mark.parametrize("arguments", [(), ("--json",)])
def test_a_flipped_byte_exits_3(tmp_path, make_calibration_set, arguments):
    make_calibration_set(tmp_path)
    shard = tmp_path / "calib-000001.tar"
    content = bytearray(shard.read_bytes())
    content[-2000] ^= 1
    shard.write_bytes(content)
    result = inspect(tmp_path, *arguments)
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith("zsq set inspect: ") and result.stderr.count("\n") == 1
    assert "calib-000001.tar" in result.stderr


def test_a_manifest_that_is_no_manifest_exits_3(tmp_path):
    (tmp_path / MANIFEST).write_text("{}")
    assert inspect(tmp_path).exit_code == 3


def test_a_missing_folder_exits_2(tmp_path):
    result = inspect(tmp_path / "none")
    assert result.exit_code == 2
    assert "no finished calibration set here" in result.stderr


def test_class_names_cannot_control_the_terminal(tmp_path, make_calibration_set):
    names = ("\x1b[31mred\n", "dog")
    boxes = (BoxLabel(bbox=(0.0, 0.0, 4.0, 4.0), category_id=0, origin=LabelOrigin.GIVEN),)
    statistics = LabelStatistics.of([ImageLabels(width=8, height=8, boxes=boxes)], names)
    text = describe_set(make_calibration_set(tmp_path).model_copy(update={"statistics": statistics}))
    assert r"\u001b[31mred\u000a" in text and "\x1b" not in text


def test_a_set_without_boxes_is_described_too(tmp_path, make_calibration_set):
    text = describe_set(make_calibration_set(tmp_path).model_copy(update={"statistics": LabelStatistics.of([], ())}))
    assert "0 boxes" in text and "origins        none" in text
