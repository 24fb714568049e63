import json
from pathlib import Path

import pytest
from PIL import Image

from pipeline.plan import ReportFolders, describe_plan, plan_stages, report_folders, write_stage_config
from pipeline.settings import check_inputs, embedded_values, read_run_config
from schemas.base import read_config_values, validate_config
from schemas.errors import InputError
from schemas.run_config import RunConfig


def test_each_stage_reads_what_the_one_before_it_wrote(tmp_path):
    synth, qat, evaluation = plan_stages(RunConfig(storage=str(tmp_path)))
    assert synth.output == tmp_path / "calibration"
    assert qat.arguments[2:4] == ("--calibration-set", str(synth.output))
    assert evaluation.arguments[2:6] == ("--student", str(qat.output), "--calibration-set", str(synth.output))
    assert [command.module for command in (synth, qat, evaluation)] == ["synth_job", "qat_job", "eval_job"]


def test_a_report_of_a_run_takes_what_is_there(tmp_path):
    assert report_folders(tmp_path, None, (), None) == ReportFolders(tmp_path / "eval", (), None)
    for manifest in ("student/student.json", "calibration/manifest.json"):
        (tmp_path / manifest).parent.mkdir()
        (tmp_path / manifest).write_text("")
    everything = ReportFolders(tmp_path / "eval", (tmp_path / "student",), tmp_path / "calibration")
    assert report_folders(tmp_path, None, (), None) == everything
    assert report_folders(tmp_path, None, [Path("other")], None).students == (Path("other"),)


def test_a_stage_can_be_run_again_alone_with_exactly_its_file(tmp_path):
    config = read_run_config(None, ["seed=9", "qat.learning_rate=1e-5"], tmp_path / "my runs")
    commands = plan_stages(config)
    for command in commands:
        write_stage_config(command)
        values = read_config_values(command.config_path)
        assert validate_config(type(command.config), values, "x") == command.config
        assert command.by_hand in command.config_path.read_text().splitlines()[0]
        assert f"'{command.output}'" in command.by_hand  # quoted: the folder has a space


def test_the_described_plan_is_a_configuration_of_the_same_run(tmp_path):
    config = read_run_config(None, ["image_size=96"], tmp_path)
    (tmp_path / "plan.yaml").write_text(describe_plan(config, plan_stages(config)))
    assert read_run_config(tmp_path / "plan.yaml") == config


def test_shared_settings_are_pushed_down_and_image_size_of_eval_can_follow_the_set():
    config = read_run_config(None, ["image_size=null", "device=cpu"])
    assert (config.synth.image_size, config.eval.image_size) == (None, None)
    assert config.synth.device == config.qat.device == config.eval.device == "cpu"


def test_settings_apply_in_order_and_storage_wins(tmp_path):
    config = read_run_config(None, ["seed=1", "seed=2", "storage=a"], tmp_path)
    assert (config.seed, config.storage) == (2, str(tmp_path))


def test_the_embedded_default_is_valid_and_needs_no_file():
    config = validate_config(RunConfig, embedded_values(), "embedded")
    check_inputs(config)
    assert config.teacher.path == config.eval.labelled_data == "embedded"


def test_paths_that_exist_and_published_names_pass(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("val").mkdir()
    Path("val/best.pt").write_text("")
    Image.new("RGB", (32, 32)).save("val/a.png")
    annotation = {"image_id": 1, "category_id": 1, "bbox": [0, 0, 5, 5]}
    coco = {"images": [{"id": 1, "file_name": "a.png"}], "categories": [{"id": 1, "name": "cat"}]}
    Path("val/instances.json").write_text(json.dumps(coco | {"annotations": [annotation]}))
    check_inputs(read_run_config(None, ["eval.data=val", "eval.images=val", "teacher.path=val/best.pt"]))
    check_inputs(read_run_config(None, ["teacher.path=yolo11n.pt"]))


def test_a_path_only_the_last_stage_reads_is_missed_before_the_first():
    with pytest.raises(InputError, match=r"eval\.images: none does not exist"):
        check_inputs(read_run_config(None, ["eval.images=none"]))
