"""Folders that save_pretrained wrote: which are read, and in what words the others are refused."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from detectors.registry import build_detector, load_teacher
from detectors.source import checkpoint_digest, checkpoint_family, checkpoint_path
from detectors.transformers import library
from detectors.transformers.detector import TransformersDetector
from pipeline.settings import is_configuration, stage_inputs
from schemas.errors import ConfigError, InputError, VerificationError
from schemas.synth_config import SynthConfig
from schemas.teacher import TeacherIdentity, TeacherSource
from tests.conformance.cases import NAMES, saved_network

CPU = torch.device("cpu")
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RT-DETR, saved by the library."""
    folder = tmp_path_factory.mktemp("saved") / "rt-detr"
    saved_network("RTDetr", folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change."""
    return Path(shutil.copytree(saved, tmp_path / "model.v1"))


def load(path: Path, **source: Any) -> TransformersDetector:
    teacher = load_teacher(TeacherSource(path=str(path), **source), CPU)
    assert isinstance(teacher, TransformersDetector)
    return teacher


def rewrite(folder: Path, change: Change, name: str = "config.json") -> None:
    path = folder / name
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def refusal(path: Path, **source: Any) -> str:
    with pytest.raises(InputError) as refused:
        load(path, **source)
    text = str(refused.value)
    assert "\n" not in text
    return text


def test_a_folder_and_the_weights_in_it_are_the_same_teacher(folder: Path) -> None:
    weights = folder / "model.safetensors"
    of_folder, of_file = TeacherSource(path=str(folder)), TeacherSource(path=str(weights))
    assert checkpoint_path(of_folder) == checkpoint_path(of_file) == weights
    assert checkpoint_family(of_folder, weights) == "transformers"
    teacher = load(folder)
    assert teacher.identity.class_names == NAMES and teacher.identity.stride == 32
    assert teacher.identity.sha256 == checkpoint_digest(of_folder) == checkpoint_digest(of_file)
    assert not is_configuration(folder)
    for path in (folder, weights):  # what a container has to see
        assert stage_inputs(SynthConfig(teacher=TeacherSource(path=str(path))))["teacher.path"] == folder


def test_the_digest_is_of_the_weights_and_of_what_decides_the_network(folder: Path) -> None:
    source = TeacherSource(path=str(folder))
    before = checkpoint_digest(source)
    rewrite(folder, lambda values: values.update(layer_norm_eps=1e-3))
    changed = checkpoint_digest(source)
    (folder / "preprocessor_config.json").write_text("{}")
    assert len({before, changed, checkpoint_digest(source)}) == 3


def test_the_network_is_built_from_its_identity_alone(folder: Path) -> None:
    rewrite(
        folder, lambda values: values.update(_name_or_path="/home/somebody/secret", auto_map={"AutoModel": "own.py"})
    )
    teacher = load(folder)
    stored = teacher.identity.model_dump_json()
    assert "somebody" not in stored and "own.py" not in stored
    again = build_detector(TeacherIdentity.model_validate_json(stored), (folder / "model.safetensors").stat().st_size)
    again.network.load_state_dict(teacher.network.state_dict())
    images = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        torch.testing.assert_close(again.decoded(images), teacher.decoded(images), rtol=0, atol=0)


def test_frozen_norms_fold_and_count_no_batches(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    of_backbone = [name for name in state if name.startswith("model.backbone") and name.endswith("batches_tracked")]
    assert of_backbone
    for name in of_backbone:
        del state[name]
    save_file(state, folder / "model.safetensors")
    teacher = load(folder)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = teacher.decoded(images)
        teacher.fold_batch_norm()
        torch.testing.assert_close(teacher.decoded(images), before, rtol=1e-3, atol=1e-2)
    assert not teacher.layers.statistics


def test_half_precision_is_read_as_single(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: value.half() if value.is_floating_point() else value for name, value in state.items()},
              folder / "model.safetensors")  # fmt: skip
    rewrite(folder, lambda values: values.update(dtype="float16"))
    assert {p.dtype for p in load(folder).network.parameters()} == {torch.float32}


def test_names_of_every_release_are_read(folder: Path) -> None:
    before = load(folder)  # saved by the names of the first release, as the library does to this day
    assert load_file(folder / "model.safetensors").keys() != before.network.state_dict().keys()
    save_file(before.network.state_dict(), folder / "model.safetensors")
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(load(folder).decoded(images), before.decoded(images), rtol=0, atol=0)


def test_pixels_are_normalised_as_the_preprocessor_says(folder: Path) -> None:
    plain = load(folder)
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    described = {"do_normalize": True, "image_mean": mean, "image_std": std, "size": {"height": 100, "width": 90}}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    teacher = load(folder)
    assert teacher.identity.input_size == 128  # a multiple of the stride
    images = torch.rand(1, 3, 64, 64)
    scaled = (images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(teacher.decoded(images), plain.decoded(scaled))
    again = build_detector(teacher.identity)
    again.network.load_state_dict(teacher.network.state_dict())
    with torch.no_grad():
        torch.testing.assert_close(again.decoded(images), teacher.decoded(images), rtol=0, atol=0)


def test_class_names_can_be_given(folder: Path) -> None:
    rewrite(folder, lambda values: values.pop("id2label"))
    assert load(folder, class_names=("a", "b", "c")).identity.class_names == ("a", "b", "c")
    assert "has 2 names" in refusal(folder, class_names=("a", "b"))


def set_field(name: str, value: Any) -> Change:
    return lambda values: values.update({name: value})


def set_backbone(name: str, value: Any) -> Change:
    return lambda values: values["backbone_config"].update({name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (set_field("architectures", ["DetrForObjectDetection"]), "DFineForObjectDetection, RTDetrForObjectDetection"),
        (set_field("model_type", "rf_detr"), "those that can be quantized are"),
        (set_field("id2label", {"0": "cat", "2": "dog"}), "numbered 0, 2"),
        (set_field("id2label", {"0": "cat", "1": "dog", "2": "cat"}), "more than one class of one name (cat)"),
        (set_field("id2label", {"0": "cat", "1": "dog"}), "tells 3 classes apart and has 2 names"),
        (set_field("id2label", None), "no list of class names"),
        (set_field("d_model", 10**9), "d_model is 1000000000"),
        (set_field("d_model", 16_000), "more than a file of"),
        (set_field("decoder_layers", 4000), "decoder_layers is 4000"),
        (set_field("decoder_layers", 0), "has no layers of prediction"),
        (set_field("d_model", -1), "does not build"),
        (set_field("decoder_layers", 1), "unexpected keys"),
        (set_field("decoder_layers", 3), "missing keys"),
        (set_field("layer_norm_eps", float("nan")), "layer_norm_eps is nan"),
        (set_field("feat_strides", [4, 8, 16]), "the backbone's are (8, 16, 32)"),
        (set_field("feat_strides", 8), "feat_strides"),
        (set_field("activation_function", "os.system"), "activation_function is 'os.system'"),
        (set_field("use_timm_backbone", True), "is of another package (timm)"),
        (set_backbone("model_type", "swin"), "its backbone is 'swin'"),
        (set_backbone("num_channels", 1), "takes no colour images"),
        (set_field("backbone_config", "microsoft/resnet-50"), "its backbone is None"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder: Path, change: Change, said: str) -> None:
    rewrite(folder, change)
    assert said in refusal(folder)


@pytest.mark.parametrize(
    ("described", "said"),
    [
        ({"do_rescale": False}, "pixels are not scaled from 0…255 to 0…1"),
        ({"rescale_factor": 1.0}, "pixels are not scaled"),
        ({"do_normalize": True}, "without an image_mean"),
        ({"do_normalize": True, "image_mean": [0.5], "image_std": [0.5]}, "not a number for each of three channels"),
    ],
)
def test_pixels_of_another_scale_are_refused(folder: Path, described: dict[str, Any], said: str) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
    assert said in refusal(folder)


def test_weights_that_are_not_numbers_are_refused(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    state["model.enc_output.0.weight"][0, 0] = float("nan")
    save_file(state, folder / "model.safetensors")
    assert "enc_output.0.weight holds values that are not finite" in refusal(folder)


def test_files_that_are_missing_or_broken_are_named(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert "its weights are a pickle (pytorch_model.bin)" in refusal(folder)
    assert "holds model.safetensors" in refusal(folder / "pytorch_model.bin")
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors.index.json")
    assert "max_shard_size" in refusal(folder)
    (folder / "model.safetensors.index.json").rename(folder / "x.safetensors")
    assert "holds no model.safetensors" in refusal(folder)
    (folder / "model.safetensors").write_bytes(b"\0" * 100)
    assert "is no safetensors file" in refusal(folder)
    (folder / "config.json").write_text("{")
    assert "config.json: is no JSON" in refusal(folder)
    (folder / "config.json").write_text("[]")
    assert "holds no JSON object" in refusal(folder)
    (folder / "config.json").unlink()
    assert "is a folder without config.json" in refusal(folder)
    assert "no saved model" in refusal(folder / "model.safetensors", family="transformers")


def test_without_the_package_a_line_says_how_to_install_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    library.library.cache_clear()
    with pytest.raises(ConfigError, match=r"which is not installed; pip install .*'transformers>="):
        load(folder)
    library.library.cache_clear()


def test_a_release_that_is_too_old_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.6")
    library.library.cache_clear()
    with pytest.raises(ConfigError, match=r"of version 4\.57\.6"):
        load(folder)
    library.library.cache_clear()


def test_an_identity_of_somebody_else_is_refused() -> None:
    identity = TeacherIdentity(
        family="transformers", architecture={"model_type": "rt_detr", "decoder_layers": 10**6}, sha256="0" * 64,
        class_names=NAMES, input_size=64, stride=32,
    )  # fmt: skip
    with pytest.raises(VerificationError, match="decoder_layers is 1000000"):
        build_detector(identity)
