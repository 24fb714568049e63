"""torchvision weights load from checkpoints, state dictionaries and by name, and nothing in a file is run."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import detection
from torchvision.ops import FrozenBatchNorm2d

from detectors.registry import load_teacher
from detectors.source import checkpoint_path
from detectors.torchvision import checkpoints as torchvision_checkpoints
from detectors.torchvision.checkpoints import download, numbered
from schemas.errors import InputError
from schemas.teacher import TeacherSource

CPU = torch.device("cpu")
SSDLITE = "ssdlite320_mobilenet_v3_large"
Save = Callable[[Any], Path]


def source(path: Path, **settings: Any) -> TeacherSource:
    return TeacherSource(path=str(path), family="torchvision", **settings)


@pytest.fixture(scope="module")
def network() -> Any:
    """The smallest published network, as the library makes it for COCO."""
    torch.manual_seed(0)
    return detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=91).eval()


def test_a_state_dictionary_of_the_library_is_its_network_with_cocos_classes(
    network: Any, save_checkpoint: Save
) -> None:
    teacher = load_teacher(source(save_checkpoint(network.state_dict()), architecture=SSDLITE), CPU)
    assert len(teacher.identity.class_names) == 80
    assert teacher.identity.class_names[79] == "toothbrush"
    assert teacher.identity.architecture["labels"][79] == 90
    images = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network.head(list(network.backbone((images - 0.5) / 0.5).values()))["cls_logits"]
        torch.testing.assert_close(teacher.head_outputs(images).class_logits[0], expected.transpose(1, 2))


def test_a_training_scripts_checkpoint_says_what_it_is(network: Any, save_checkpoint: Save) -> None:
    content = {"model": network.state_dict(), "args": argparse.Namespace(model=SSDLITE, lr=0.1), "epoch": 3}
    assert load_teacher(source(save_checkpoint(content)), CPU).identity.architecture["model"] == SSDLITE


def test_a_file_called_like_a_published_one_is_taken_for_it(network: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{SSDLITE}_coco-a79551df.pth"
    torch.save(network.state_dict(), path)
    assert load_teacher(source(path), CPU).identity.input_size == 320


def test_safetensors_load_too(network: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{SSDLITE}.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, path)
    assert load_teacher(source(path), CPU).identity.architecture["outputs"] == 91


def test_a_small_detector_of_our_own_is_reloaded_as_it_was(
    torchvision_detector: Callable[..., Any], save_checkpoint: Save
) -> None:
    built = torchvision_detector("fcos")
    path = save_checkpoint(
        {
            "model": built.network.state_dict(),
            "architecture": built.identity.architecture,
            "class_names": list(built.identity.class_names),
            "input_size": 96,
        }
    )
    teacher = load_teacher(source(path), CPU)
    assert teacher.identity.class_names == built.identity.class_names
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(teacher.decoded(images), built.decoded(images))


@pytest.mark.parametrize("frozen", [True, False])
def test_weights_of_frozen_batch_norms_are_told_from_others(frozen: bool, save_checkpoint: Save) -> None:
    network = detection.fasterrcnn_mobilenet_v3_large_320_fpn(weights=None, weights_backbone=None, num_classes=3)
    state = {k: v for k, v in network.state_dict().items() if not frozen or not k.endswith("num_batches_tracked")}
    teacher = load_teacher(
        source(
            save_checkpoint(state), architecture="fasterrcnn_mobilenet_v3_large_320_fpn", class_names=("cat", "dog")
        ),
        CPU,
    )
    sites = teacher.statistics_sites()
    assert len(sites) == 46
    assert {isinstance(site, FrozenBatchNorm2d) for site in sites} == {frozen}


def test_published_frozen_batch_norms_add_nothing_to_variances(torchvision_detector: Callable[..., Any]) -> None:
    published = torchvision_detector("fasterrcnn_resnet50_fpn", batch_norm="frozen")
    assert {site.eps for site in published.statistics_sites()} == {0.0}


@pytest.mark.parametrize(
    ("outputs", "names", "labels"),
    [(3, ("a", "b"), [1, 2]), (2, ("a", "b"), [0, 1]), (81, (), list(range(1, 81)))],
    ids=["background first", "no background", "COCO without gaps"],
)
def test_classes_are_numbered_as_the_network_does(outputs: int, names: tuple[str, ...], labels: list[int]) -> None:
    assert numbered(outputs, names)[0] == labels


def test_what_does_not_fit_is_refused_in_words(network: Any, save_checkpoint: Save) -> None:
    with pytest.raises(InputError, match=r"set teacher\.architecture to one of fasterrcnn_resnet50_fpn,"):
        load_teacher(source(save_checkpoint(network.state_dict())), CPU)
    with pytest.raises(InputError, match="'yolo' is none of"):
        load_teacher(source(save_checkpoint(network.state_dict()), architecture="yolo"), CPU)
    with pytest.raises(InputError, match="weights are not those of ssd300_vgg16"):
        load_teacher(source(save_checkpoint(network.state_dict()), architecture="ssd300_vgg16"), CPU)
    with pytest.raises(InputError, match=r"tells 91 classes apart .* and has 3 names; set teacher\.class_names"):
        path = save_checkpoint(network.state_dict())
        load_teacher(source(path, architecture=SSDLITE, class_names=("a", "b", "c")), CPU)
    with pytest.raises(InputError, match="no weights of a torchvision detector"):
        load_teacher(source(save_checkpoint({"weight": torch.ones(1)}), architecture=SSDLITE), CPU)


class Harmful:
    """Unpickling it would leave a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("trust_pickle", [True, False])
def test_code_in_a_checkpoint_is_never_run(save_checkpoint: Save, tmp_path: Path, trust_pickle: bool) -> None:
    path = save_checkpoint({"model": Harmful(tmp_path / "harm")})
    with pytest.raises(InputError, match="not a torchvision checkpoint that loads safely"):
        load_teacher(source(path, trust_pickle=trust_pickle), CPU)
    assert not (tmp_path / "harm").exists()


def test_a_published_name_is_downloaded_once_and_checked(
    network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        fetched.append(url)
        assert hash_prefix == "a79551df"
        torch.save(network.state_dict(), path)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision_checkpoints.torch.hub, "download_url_to_file", fetch)
    named = TeacherSource(path=SSDLITE, family="torchvision")
    assert load_teacher(named, CPU).identity.architecture["model"] == SSDLITE
    assert checkpoint_path(named) == Path(f"{SSDLITE}_coco-a79551df.pth")
    assert len(fetched) == 1


@pytest.mark.parametrize("name", ["fasterrcnn_resnet51_fpn", "maskrcnn_swin_t_fpn"])
def test_a_name_that_torchvision_does_not_publish_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="no detector that torchvision publishes"):
        download(name)


def test_a_download_without_a_network_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torchvision_checkpoints.torch.hub, "download_url_to_file", fetch)
    with pytest.raises(InputError, match="not a file here, and the download failed"):
        download(SSDLITE)


def test_an_architecture_that_its_file_cannot_hold_is_not_built(
    torchvision_detector: Callable[..., Any], save_checkpoint: Save
) -> None:
    built = torchvision_detector("fcos")
    architecture = built.identity.architecture
    wide = architecture | {"backbone": architecture["backbone"] | {"width": 2048}}
    content = {"model": built.network.state_dict(), "class_names": list("abcd"), "architecture": architecture}
    assert load_teacher(source(save_checkpoint(content)), CPU).identity.class_names == tuple("abcd")
    with pytest.raises(InputError, match="numbers, more than a file of"):
        load_teacher(source(save_checkpoint(content | {"architecture": wide})), CPU)
