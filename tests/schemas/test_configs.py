import json
from typing import Any

import pytest
from pydantic import ValidationError

from schemas.base import validate_config
from schemas.errors import ConfigError
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy, Policy, QatConfig, Quantizer
from schemas.run_config import SHARED, RunConfig
from schemas.synth_config import SynthConfig
from schemas.teacher import PixelFormat


@pytest.mark.parametrize("model", [SynthConfig, QatConfig, RunConfig])
def test_defaults_are_valid(model):
    assert validate_config(model, {}, "x") == model()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"labels": {"source": "given"}}, "path is not set"),
        ({"labels": {"path": "a.json"}}, "path is set but source is 'adaptive'"),
        ({"labels": {"min_area": 0.9}}, "min_area 0.9 must be below max_area"),
        ({"labels": {"iterations": 50}}, "warm_up 100 or interval 50 exceeds iterations 50"),
        (
            {"labels": {"source": "random"}, "inversion": {"initialisation": "sampled"}},
            "inversion.initialisation is 'sampled'",
        ),
        ({"inversion": {"levels": [1, 0.5]}}, r"inversion.levels: .* rise to 1"),
        ({"inversion": {"levels": [0.5]}}, r"inversion.levels: .* rise to 1"),
        (
            {"inversion": {"levels": [0.5, 1], "iterations": 1}},
            "iterations 1 is less than one for each of the 2 levels",
        ),
        ({"labels": {"source": "adaptativ"}}, "labels.source: got 'adaptativ'"),
    ],
)
def test_synth_settings_that_contradict_each_other_are_named(values, message):
    with pytest.raises(ConfigError, match=message):
        validate_config(SynthConfig, values, "x")


def test_warm_up_only_matters_where_labels_are_adapted():
    validate_config(SynthConfig, {"labels": {"source": "random", "iterations": 50}}, "x")


def test_training_without_any_loss_is_refused():
    nothing = {"task": 0, "outputs": 0, "features": 0}
    with pytest.raises(ConfigError, match="nothing to train on; set ptq_only"):
        validate_config(QatConfig, {"weights": nothing}, "x")
    validate_config(QatConfig, {"weights": nothing, "ptq_only": True}, "x")


@pytest.mark.parametrize("target", ["tensorrt", "litert"])
def test_targets_of_8_bit_activations_refuse_others(target):
    with pytest.raises(ConfigError, match=f"targets: {target} takes activations of 8 bits, .* is 6: set it to 8"):
        validate_config(QatConfig, {"targets": [target], "bits": {"activation_bits": 6}}, "x")
    config = validate_config(QatConfig, {"targets": [target], "bits": {"weight_bits": 4}}, "x")
    assert (config.bits.activation_quantizer is Quantizer.LSQ) == (target == "tensorrt")


@pytest.mark.parametrize("bits", [1, 9, 0, -4])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(ConfigError, match=f"bits.activation_bits: got {bits}"):
        validate_config(QatConfig, {"bits": {"activation_bits": bits}}, "x")


def test_activation_quantizer_follows_the_policy_unless_set():
    assert BitPolicy(policy=Policy.PAPER).activation_quantizer is Quantizer.LSQ
    assert BitPolicy(policy=Policy.DEPLOY).activation_quantizer is Quantizer.LSQ_PLUS
    assert BitPolicy(policy=Policy.PAPER, quantizer=Quantizer.LSQ_PLUS).activation_quantizer is Quantizer.LSQ_PLUS
    assert BitPolicy(weight_bits=4).name == "W4A8 deploy"


def test_a_mixed_policy_is_named_by_its_mean_bits_where_they_are_known():
    mixed = BitPolicy(weight_bits=4, layers={"a": 2, "b": 8})
    assert mixed.name == "W?A8 deploy mixed"
    assert mixed.model_copy(update={"mean_weight_bits": 4.049}).name == "W4.05A8 deploy mixed"


def test_shared_settings_reach_every_stage_that_takes_them():
    shared = {"teacher": {"path": "a.pt"}, "device": "cpu", "image_size": 96, "seed": 5}
    run = validate_config(RunConfig, shared, "x")
    for name, stages in SHARED.items():
        for stage in stages:
            assert getattr(getattr(run, stage), name) == getattr(run, name), (stage, name)


def test_a_stage_keeps_its_own_setting():
    run = validate_config(
        RunConfig, {"seed": 5, "image_size": 96, "qat": {"seed": 6}, "eval": {"image_size": None}}, "x"
    )
    assert (run.synth.seed, run.qat.seed) == (5, 6)
    assert (run.synth.image_size, run.eval.image_size) == (ImageSize.square(96), None)


def test_a_heading_without_content_means_defaults():
    assert validate_config(RunConfig, {"synth": None, "seed": 3}, "x").synth.seed == 3


def test_a_bad_shared_setting_is_reported_once():
    with pytest.raises(ConfigError) as caught:
        validate_config(RunConfig, {"seed": -1}, "x")
    assert str(caught.value).count("-1") == 1


def test_a_run_has_one_teacher():
    with pytest.raises(ConfigError, match=r"eval.teacher is 'b.pt' but synth.teacher is 'embedded'"):
        validate_config(RunConfig, {"eval": {"teacher": {"path": "b.pt"}}}, "x")


@pytest.mark.parametrize("section", [[], "text", 3])
def test_a_section_that_is_no_mapping_is_refused(section):
    with pytest.raises(ConfigError, match="synth: "):
        validate_config(RunConfig, {"synth": section, "seed": 1}, "x")


def test_location_and_device_do_not_decide_the_content():
    here = validate_config(SynthConfig, {"device": "cpu", "teacher": {"path": "a.pt"}}, "x")
    there = validate_config(SynthConfig, {"device": "cuda", "teacher": {"path": "b.pt"}}, "x")
    assert here.keyed() == there.keyed()
    assert here.keyed() != validate_config(SynthConfig, {"seed": 1}, "x").keyed()


@pytest.mark.parametrize(
    "format_", [{"channels": "BGR"}, {"scale": 1.0}, {"mean": [0.5, 0.5, 0.5]}, {"std": [0.2, 0.2, 0.2]}]
)
def test_a_pixel_format_that_no_stage_gives_a_network_is_refused(format_: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PixelFormat.model_validate_json(json.dumps(format_))
    assert PixelFormat.model_validate_json("{}").padding == 114
