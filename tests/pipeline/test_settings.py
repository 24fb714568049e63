import json
from pathlib import Path

import pytest

from pipeline.plan import describe_plan
from pipeline.settings import RunOptions, check_inputs, is_configuration, read_run_config
from schemas.errors import ConfigError, InputError
from schemas.image_size import ImageSize
from schemas.synth_config import HELD_BACK, SynthConfig


def test_a_detector_of_one_s_own_gets_none_of_the_embedded_defaults():
    for config in (read_run_config("weights/best.pt"), read_run_config(None, ["teacher.path=weights/best.pt"])):
        assert config.qat.bits.name == "W8A8 deploy"
        assert config.image_size is None and config.synth.image_size is None, "the checkpoint's own"
        assert config.synth.images == SynthConfig().images
        assert config.qat.steps == "auto"
        assert config.eval.labelled_data is None, "no rendered scenes"
        assert config.storage == "runs/best"
        assert config.synth.teacher.path == config.eval.teacher.path == "weights/best.pt"


def test_the_embedded_detector_keeps_its_defaults():
    for config in (read_run_config(None), read_run_config("embedded"), read_run_config(None, ["seed=3"])):
        assert (config.image_size, config.synth.images, config.qat.bits.weight_bits) == (ImageSize.square(160), 48, 3)
        assert config.eval.labelled_data == "embedded"


def test_options_are_settings(tmp_path):
    options = RunOptions("W4a6", images=8, size=320, data="val #1", targets=("onnxruntime", "openvino"))
    assert options.assignments() == [
        "qat.bits.weight_bits=4", "qat.bits.activation_bits=6", "synth.images=8", "image_size=320",
        "synth.image_size=320", "eval.image_size=320", 'eval.data="val #1"', 'qat.targets=["onnxruntime", "openvino"]',
    ]  # fmt: skip
    config = read_run_config("best.pt", RunOptions("w4a6", 8, 320, "val #1").assignments(), tmp_path)
    assert (config.qat.bits.weight_bits, config.qat.bits.activation_bits) == (4, 6)
    assert (config.synth.images, config.synth.image_size, config.eval.image_size) == (
        8,
        ImageSize.square(320),
        ImageSize.square(320),
    )
    assert config.eval.labelled_data == "val #1"
    assert config.storage == str(tmp_path)


def test_an_option_wins_over_a_section_of_the_file(tmp_path):
    (tmp_path / "run.yaml").write_text("teacher: {path: best.pt}\nsynth: {image_size: 640}\n")
    config = read_run_config(tmp_path / "run.yaml", RunOptions(size=320).assignments())
    assert config.synth.image_size == ImageSize.square(320)


@pytest.mark.parametrize("size", ["384x640", ImageSize(384, 640)])
def test_a_rectangle_is_height_and_width_for_every_stage_and_survives_the_plan(size, tmp_path):
    config = read_run_config("best.pt", RunOptions(size=size).assignments(), tmp_path)
    assert config.image_size == config.synth.image_size == config.eval.image_size == ImageSize(384, 640)
    (tmp_path / "plan.yaml").write_text(describe_plan(config, ()))
    assert read_run_config(tmp_path / "plan.yaml") == config


@pytest.mark.parametrize("size", ["384x", "384,640", "wide", "-640"])
def test_a_size_that_is_none_is_one_clear_line(size):
    with pytest.raises(ConfigError, match=f"^size: got '{size}'; write the side .* or height x width, as in 384x640$"):
        RunOptions(size=size).assignments()


@pytest.mark.parametrize("bits", ["int8", "w8", "w9a8", "w4a1", "8", "w4a8 "])
def test_bits_are_written_in_one_way(bits):
    with pytest.raises(ConfigError, match="as in w8a8 or w4a8"):
        RunOptions(bits=bits).assignments()


def test_a_budget_plans_with_the_widths_that_engines_store(tmp_path: Path) -> None:
    options = RunOptions(budget=4.5)
    qat = read_run_config("best.pt", options.assignments(), tmp_path).qat
    assert qat.plans_bits and qat.sensitivity is not None and qat.sensitivity.budget == 4.5
    assert qat.planned_widths == (4, 8)
    assert qat.keyed()["sensitivity"]["candidates"] == [4, 8]
    anywhere = read_run_config("best.pt", [*options.assignments(), "qat.targets=[]"], tmp_path).qat
    assert anywhere.planned_widths == (2, 3, 4, 6, 8), "no engine is named"
    own = read_run_config("best.pt", [*options.assignments(), "qat.sensitivity.candidates=[8, 3]"], tmp_path).qat
    assert own.planned_widths == (3, 8)


@pytest.mark.parametrize(
    ("given", "reduced"),
    [
        ([], True),
        (["qat.targets=[]"], True),
        (["qat.targets=[tensorrt]"], False),
        (["qat.targets=[litert, tensorrt]"], False),
        (["qat.targets=[litert, openvino]"], True),
        (["qat.targets=[tensorrt]", "qat.bits.reduce_range=true"], True),
        (["qat.bits.reduce_range=false"], False),
        (["qat.bits.policy=paper"], False),
    ],
)
def test_ranges_are_reduced_where_an_engine_may_need_it(given: list[str], reduced: bool) -> None:
    qat = read_run_config("best.pt", given).qat
    assert qat.bits.reduces_range is reduced
    assert qat.keyed()["bits"].get("reduce_range", False) is reduced, "no key: as before there was the setting"


def test_without_labels_synth_holds_images_back_and_with_labels_it_does_not():
    assert read_run_config("best.pt").for_stage("synth").held_back == HELD_BACK
    assert read_run_config("best.pt", ["synth.held_back=3"]).for_stage("synth").held_back == 3
    assert read_run_config("best.pt", ["eval.data=val"]).for_stage("synth").held_back is None
    assert read_run_config(None).for_stage("synth").held_back is None
    assert read_run_config(None, ["eval.photos=p"]).for_stage("synth").held_back == HELD_BACK


def test_what_is_held_back_has_another_seed_and_the_set_itself_does_not_depend_on_it():
    config = SynthConfig(seed=7, images=32, held_back=4, tensorboard=True)
    held_back = config.for_held_back()
    assert held_back is not None
    assert held_back.seed != config.seed and held_back.images == 4 and held_back.held_back is None
    assert config.keyed() == config.model_copy(update={"held_back": None}).keyed()
    assert SynthConfig().for_held_back() is None


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("run.yaml", b"", True),
        ("run.YML", b"\0", True),
        ("run.conf", b"seed: 1\n", True),
        ("best.pt", b"version https://git-lfs", False),
        ("weights", b"PK\x03\x04\0\0", False),
    ],
)
def test_a_configuration_is_told_from_a_detector(tmp_path, name, content, expected):
    (tmp_path / name).write_bytes(content)
    assert is_configuration(tmp_path / name) == expected


def test_what_is_not_there_is_a_published_name_unless_it_is_called_a_configuration(tmp_path):
    assert not is_configuration(Path("fasterrcnn_resnet50_fpn_v2"))
    assert is_configuration(tmp_path / "none.yaml")
    assert is_configuration(tmp_path), "a folder is refused as a configuration that cannot be read"


def test_missing_photographs_are_found_missing_before_anything_starts(tmp_path):
    with pytest.raises(InputError, match=r"eval\.photos: .*none does not exist"):
        check_inputs(read_run_config("yolo11n.pt", RunOptions(photos=tmp_path / "none").assignments()))


def test_the_settings_of_a_detector_survive_json():
    config = read_run_config("best.pt")
    assert json.loads(config.to_json())["qat"]["steps"] == "auto"
    assert type(config).model_validate_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RunOptions(bits="w4a8", budget=4.5), "bits: w4a8 asks for 4 weight bits, but budget 4.5 plans"),
        (RunOptions(bits="W6A6", max_drop=1), "bits: W6A6 asks for 6 weight bits, but max-drop 1 plans"),
    ],
)
def test_weight_bits_beside_what_plans_them_are_refused(options: RunOptions, said: str) -> None:
    with pytest.raises(ConfigError, match="leave one of the two out") as refused:
        options.assignments()
    assert said in str(refused.value)


def test_eight_weight_bits_beside_a_budget_set_the_activations() -> None:
    qat = read_run_config("best.pt", RunOptions(bits="w8a6", budget=4.5).assignments()).qat
    assert qat.bits.activation_bits == 6 and qat.sensitivity is not None and qat.sensitivity.budget == 4.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("synth.images=16", "synth.images: is set to 16, but the command asks for 8"),
        ("synth={images: 16}", "synth.images: is set to 16, but the command asks for 8"),
        ("teacher.path=other.pt", 'teacher.path: is set to "other.pt", but the command asks for "best.pt"'),
        ("storage=2026-01-01", 'storage: is set to "2026-01-01", but the command asks for "here"'),
        ("storage=elsewhere", 'storage: is set to "elsewhere", but the command asks for "here"'),
    ],
)
def test_a_setting_that_says_something_else_than_an_option_is_refused(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match="leave one of the two out") as refused:
        RunOptions(images=8).check_against([given], "best.pt", Path("here"))
    assert said in str(refused.value)


def test_settings_beside_options_may_say_the_same_or_something_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("teacher: {path: best.pt}\n")
    given = ["synth.images=8", "synth.seed=3", "storage=here"]
    RunOptions(images=8).check_against([*given, "teacher.path=best.pt"], "best.pt", Path("here"))
    RunOptions(images=8).check_against([*given, "teacher.path=other.pt"], tmp_path / "run.yaml", Path("here"))
