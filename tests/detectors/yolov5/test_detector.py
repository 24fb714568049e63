"""The anchor-based YOLOv5 computes what the original computes, and serves every stage."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detectors.detections import Detections
from detectors.protocol import Suppression
from detectors.registry import build_detector, load_teacher
from detectors.yolov5.detector import Yolov5Detector, joint_logits
from detectors.yolov5.loss import Gains
from detectors.yolov5.network import Yolov5Network
from schemas.errors import ConfigError, InputError, VerificationError
from schemas.teacher import TeacherSource
from stages.storage import file_digest
from tests.detectors.yolov5.conftest import BACKBONE, HEAD, NAMES, architecture, identity

Save = Callable[..., Path]
LABELS = [Detections.of([[8.0, 8.0, 50.0, 40.0]], [2]), Detections.of([[20.0, 10.0, 60.0, 60.0]], [0])]
P6_BACKBONE = [*BACKBONE[:7], [-1, 1, "Conv", [768, 3, 2]], [-1, 3, "C3", [768]], *BACKBONE[7:]]
P6_HEAD = [
    [-1, 1, "Conv", [768, 1, 1]], [-1, 1, "nn.Upsample", ["None", 2, "nearest"]], [[-1, 8], 1, "Concat", [1]],
    [-1, 3, "C3", [768, False]],
    *HEAD[:8],
    [-1, 1, "Conv", [256, 3, 2]], [[-1, 20], 1, "Concat", [1]], [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [512, 3, 2]], [[-1, 16], 1, "Concat", [1]], [-1, 3, "C3", [768, False]],
    [-1, 1, "Conv", [768, 3, 2]], [[-1, 12], 1, "Concat", [1]], [-1, 3, "C3", [1024, False]],
    [[23, 26, 29, 32], 1, "Detect", ["nc", "anchors"]],
]  # fmt: skip
P6_ANCHORS = [[19, 27, 44, 40, 38, 94], [96, 68, 86, 152, 180, 137], [140, 301, 303, 264, 238, 542],
              [436, 615, 739, 380, 925, 792]]  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_the_original_outputs_are_met(shared_path: Path) -> None:
    """`decoded` is every 16th row of the original's output, `raw2` the coarsest level, `raw1` a part of the middle."""
    weights = shared_path / "weights" / "yolov5n-ppe.pt"
    if not weights.exists():
        pytest.skip(f"needs {weights.name} in shared/weights, which is not there")
    expected = np.load(weights.with_name("yolov5n-ppe-expected.npz"))
    detector = load_teacher(TeacherSource(path=str(weights), family="yolov5"), torch.device("cpu"))
    images = torch.rand(2, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        outputs = detector.head_outputs(images)
        decoded = detector.decoded(images).transpose(1, 2)[:, ::16]

    def off(mine: Tensor, theirs: np.ndarray) -> float:
        return float(np.linalg.norm(mine.numpy() - theirs) / np.linalg.norm(theirs))

    assert off(outputs.raw[2], expected["raw2"]) < 1e-3
    assert off(outputs.raw[1][:, :, ::4, ::4], expected["raw1"]) < 1e-3
    np.testing.assert_allclose(decoded[..., :4], expected["decoded"][..., :4], rtol=1e-3)
    scores = expected["decoded"][..., 4:5] * expected["decoded"][..., 5:]
    np.testing.assert_allclose(decoded[..., 4:], scores, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(outputs.class_logits[0].sigmoid().transpose(1, 2)[:, ::16], scores, rtol=1e-3, atol=1e-7)

    assert detector.identity.class_names == ("helmet", "vest")
    assert (detector.identity.input_size, detector.identity.stride) == (640, 32)
    assert detector.gains == Gains(box=0.05, objectness=0.81, classes=pytest.approx(0.0125))  # type: ignore[attr-defined]


def test_a_pickled_network_is_read_as_it_was(save: Save, tiny: Yolov5Detector, images: Tensor) -> None:
    described = tiny.identity.architecture
    options = {"imgsz": 100, "save_dir": Path("runs/train"), "anchors": np.ones(2)}
    hyp = {"box": 0.1, "obj": 0.2, "cls": 0.3, "anchor_t": 3.5, "label_smoothing": 0.1}
    path = save(
        copy.deepcopy(tiny.network).half(),
        described,
        options=options,
        hyp=hyp,
    )
    loaded = Yolov5Detector.load(path)

    assert loaded.identity.class_names == NAMES
    assert loaded.identity.sha256 == file_digest(path)
    assert loaded.identity.input_size == 128, "100 px, rounded to the stride"
    assert loaded.gains == Gains(0.1, 0.2, 0.3, anchor_ratio=3.5, smoothing=0.1)
    expected = Yolov5Detector.load(save(copy.deepcopy(tiny.network), described, hyp={})).gains
    absurd = save(copy.deepcopy(tiny.network), described, hyp={"box": 1e308, "cls": 10**400, "obj": -1})
    assert Yolov5Detector.load(absurd).gains == replace(expected, box=1e4, classes=1e4)
    twin = copy.deepcopy(tiny.network).half().float()
    assert torch.equal(loaded.decoded(images), twin.head.decode(twin(images)))
    again = build_detector(loaded.identity)
    again.network.load_state_dict(loaded.network.state_dict())
    assert torch.equal(again.decoded(images), loaded.decoded(images))


def test_the_averaged_weights_are_preferred(save: Save, tiny: Yolov5Detector) -> None:
    averaged = copy.deepcopy(tiny.network)
    nn.init.constant_(averaged.head.m[0].bias, 0.25)
    path = save(tiny.network, tiny.identity.architecture, averaged=averaged, names=dict(enumerate(NAMES)))
    assert bool((Yolov5Detector.load(path).network.head.m[0].bias == 0.25).all())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda n: setattr(n.model[9].m, "kernel_size", 7), "kernel_size is 7"),
        (lambda n: setattr(n.model[1].conv, "stride", (1, 1)), "stride"),
        (lambda n: setattr(n.model[2].m[0], "add", False), "add is False"),
        (lambda n: setattr(n.model[0].bn, "eps", 1e-5), "eps"),
        (lambda n: setattr(n.model[0], "act", nn.LeakyReLU(0.1)), "LeakyReLU"),
        (lambda n: setattr(n.model[0].conv, "bias", nn.Parameter(torch.zeros(8))), "do not fit"),
        (lambda n: setattr(n.model[0].conv, "weight", nn.Parameter(torch.zeros(1).expand(2**40))), "more than a file"),
        (lambda n: n.head.anchors.zero_(), "not positive"),
    ],
)
def test_a_network_that_would_be_built_otherwise_is_refused(
    save: Save, tiny: Yolov5Detector, change: Callable[[Yolov5Network], object], named: str
) -> None:
    network = copy.deepcopy(tiny.network)
    change(network)
    with pytest.raises(InputError, match=named) as caught:
        Yolov5Detector.load(save(network, tiny.identity.architecture))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"backbone": [[-1, 1, "C3Ghost", [64]]]}, "C3Ghost is not supported"),
        ({"backbone": [[-1, 1, "nn.Conv2d", [3, 64]]]}, "nn.Conv2d is not supported"),
        ({"head": HEAD[:-1]}, "not an anchor head"),
        ({"anchors": [[1, 2, 3]]}, "does not build"),
        ({"width_multiple": 1000}, "scaled by"),
        ({"backbone": "everything"}, "where a list belongs"),
    ],
)
def test_an_architecture_that_is_no_yolov5_fails_verification(changed: dict[str, object], named: str) -> None:
    with pytest.raises(VerificationError, match=named):
        Yolov5Detector.build(identity(architecture(**changed)))


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [
        (0.33, 0.25, 1_872_157),
        (0.33, 0.50, 7_235_389),
        pytest.param(0.67, 0.75, 21_190_557, marks=pytest.mark.slow),
        pytest.param(1.00, 1.00, 46_563_709, marks=pytest.mark.slow),
        pytest.param(1.33, 1.25, 86_749_405, marks=pytest.mark.slow),
    ],
    ids="nsmlx",
)
def test_every_size_has_as_many_parameters_as_published(depth: float, width: float, parameters: int) -> None:
    network = Yolov5Network(architecture(depth, width), 80)
    assert sum(p.numel() for p in network.parameters()) == parameters


def test_four_levels_work_and_are_those_of_the_original() -> None:
    described = architecture(0.33, 0.25, backbone=P6_BACKBONE, head=P6_HEAD, anchors=P6_ANCHORS)
    assert sum(p.numel() for p in Yolov5Network(described, 80).parameters()) / 1e6 == pytest.approx(3.2, abs=0.05)
    detector = Yolov5Detector.build(identity(described, stride=64))
    images = torch.rand(1, 3, 128, 128)
    outputs = detector.head_outputs(images)
    assert [tuple(level.shape) for level in outputs.raw] == [(1, 3, side, side, 8) for side in (16, 8, 4, 2)]
    assert bool(detector.task_loss(outputs, LABELS[:1]).isfinite())


def test_layers_sites_and_outputs_have_their_names_and_shapes(tiny: Yolov5Detector, images: Tensor) -> None:
    outputs = tiny.head_outputs(images)
    cells = 3 * (8 * 12 + 4 * 6 + 2 * 3)
    assert [tuple(logits.shape) for logits in outputs.class_logits] == [(2, 3, cells)]
    assert [tuple(logits.shape) for logits in outputs.box_logits] == [(2, 4, 1, cells)]
    assert tuple(tiny.decoded(images).shape) == (2, 7, cells)
    assert tiny.first_layer() == "model.0.conv"
    assert tiny.output_layers() == tiny.head_layers() == [f"model.24.m.{level}" for level in range(3)]
    assert len(tiny.statistics_sites()) == 57
    assert tiny.statistics_sites()[0] is tiny.network.model[0].bn
    assert tiny.distillation_sites()[0] == "model.0"
    assert "model.24" not in tiny.distillation_sites()
    assert not tiny.end_to_end


def test_box_logits_are_edges_around_the_middle_of_the_cell(tiny: Yolov5Detector, images: Tensor) -> None:
    left, top, right, bottom = tiny.head_outputs(images).box_logits[0][0, :, 0, :]
    x, y, w, h = tiny.decoded(images)[0, :4]
    size = 3 * 8 * 12  # the finest level: 8 pixels a cell
    torch.testing.assert_close((right + left)[:size] * 8, w[:size])
    torch.testing.assert_close((bottom + top)[:size] * 8, h[:size])
    columns = torch.arange(12.0).repeat(3 * 8)
    torch.testing.assert_close((columns + 0.5 + (right - left)[:size] / 2) * 8, x[:size])
    rows = torch.arange(8.0).repeat_interleave(12).repeat(3)
    torch.testing.assert_close((rows + 0.5 + (bottom - top)[:size] / 2) * 8, y[:size])


def test_joint_logits_are_those_of_the_product_and_stay_finite() -> None:
    a, b = torch.linspace(-6, 6, 25).double(), torch.linspace(6, -6, 25).double()[:, None]
    torch.testing.assert_close(joint_logits(a, b).sigmoid(), a.sigmoid() * b.sigmoid())
    extreme = torch.tensor([-80.0, -1e-3, 80.0], requires_grad=True)
    joint = joint_logits(extreme[:, None], extreme)
    joint.sum().backward()
    assert bool(joint.isfinite().all())
    assert extreme.grad is not None and bool(extreme.grad.isfinite().all())
    assert float(joint[2, 2].detach()) == pytest.approx(80 - np.log(2), abs=0.01)


def test_predictions_are_scored_by_object_and_class(tiny: Yolov5Detector, images: Tensor) -> None:
    decoded = tiny.decoded(images)
    for n, found in enumerate(tiny.predict(images, Suppression(1e-6, 0.7, 5, multi_label=False))):
        assert 0 < len(found) <= 5
        assert float(found.scores[0]) == pytest.approx(float(decoded[n, 4:].max()))
        assert set(found.classes.tolist()) <= {0, 1, 2}


def test_folding_and_the_deployed_form_keep_the_outputs(tiny: Yolov5Detector, images: Tensor) -> None:
    deployed = tiny.deployed()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in deployed.modules())
    torch.testing.assert_close(deployed(images), tiny.decoded(images), rtol=1e-3, atol=1e-4)
    assert tiny.statistics_sites(), "the original is untouched"
    assert isinstance(tiny.network(images), list)


def test_the_loss_reaches_the_images_through_a_network_in_eval_mode(tiny: Yolov5Detector, images: Tensor) -> None:
    before = {name: buffer.clone() for name, buffer in tiny.network.named_buffers()}
    start = images.clone(memory_format=torch.channels_last).requires_grad_()
    tiny.task_loss(tiny.head_outputs(start), LABELS).backward()
    assert start.grad is not None
    assert bool(start.grad.isfinite().all()) and float(start.grad.abs().sum()) > 0
    assert all(torch.equal(before[name], buffer) for name, buffer in tiny.network.named_buffers())


def test_there_is_no_embedded_teacher_of_this_family() -> None:
    with pytest.raises(ConfigError, match="name a checkpoint"):
        load_teacher(TeacherSource(family="yolov5"), torch.device("cpu"))


def test_an_ultralytics_checkpoint_is_refused_naming_the_family(real_teacher: Path) -> None:
    with pytest.raises(InputError, match=r"check teacher\.family"):
        Yolov5Detector.load(real_teacher)
