"""What every test relies on: no network, nothing written to the home folder, two threads, the shared material."""

import atexit
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import stages  # noqa: F401  # chooses how threads wait, before torch loads below

_SCRATCH = tempfile.mkdtemp(prefix="zsq-tests-")
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)

# Read once, when ultralytics and matplotlib are imported, so set before any test module is; stages that a test starts
# as processes inherit them.
os.environ["YOLO_CONFIG_DIR"] = _SCRATCH
os.environ["MPLCONFIGDIR"] = _SCRATCH
os.environ["MPLBACKEND"] = "Agg"
os.environ["YOLO_OFFLINE"] = "true"  # no update check, no telemetry
os.environ["YOLO_AUTOINSTALL"] = "false"  # no pip at run time
# A worker of pytest-xdist has one thread, since each core has a worker; it would inherit what its controller chose.
# Without workers there are two. Stages that a test starts as processes inherit this, and ultralytics would set 1.
_THREADS = 1 if "PYTEST_XDIST_WORKER" in os.environ else 2
os.environ["OMP_NUM_THREADS"] = str(_THREADS)

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics  # noqa: E402
from schemas.image_size import ImageSize  # noqa: E402
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin  # noqa: E402
from schemas.provenance import Provenance  # noqa: E402
from schemas.synth_config import SynthConfig  # noqa: E402
from schemas.teacher import TeacherIdentity  # noqa: E402
from stages.shards import write_shard  # noqa: E402
from stages.storage import write_text  # noqa: E402

torch.set_num_threads(_THREADS)

# On a busy machine the time of one example says nothing, and a suite that draws new examples each run fails for others.
settings.register_profile("zsq", deadline=None, derandomize=True)
settings.load_profile("zsq")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(_SHARED.parent)} beside the repository, which is not there")
    return path


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """A stage that was stopped ignores further signals until its process ends, which in tests it does not."""
    before = {signum: signal.getsignal(signum) for signum in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for signum, handler in before.items():
        signal.signal(signum, handler)


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    """Some entry points set PyTorch's threads for their process, and a sum of floats depends on how many there are."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks for a connection fails the test, also where the library would catch an error."""

    def refuse(*arguments: object, **_: object) -> None:
        pytest.fail(f"the network was asked: {arguments}", pytrace=False)

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture
def cut_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Processes that the test starts reach no network; one that asks for it fails the test, also where it goes on.

    They find no variable here that keeps a library from asking: the program itself must.
    """
    log = tmp_path / "network.log"
    monkeypatch.delenv("YOLO_OFFLINE")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "cut_network"))
    monkeypatch.setenv("ZSQ_TEST_NETWORK_LOG", str(log))
    yield
    assert not log.exists(), log.read_text()


@pytest.fixture(scope="session")
def shared_path() -> Path:
    """The folder `shared` beside the repository: public weights and images too large or not free to commit."""
    return _existing(_SHARED)


@pytest.fixture(scope="session")
def real_teacher(shared_path: Path) -> Path:
    """YOLO11n trained on COCO (80 classes, 640 px), an Ultralytics checkpoint."""
    return _existing(shared_path / "weights" / "yolo11n-coco.pt")


@pytest.fixture(scope="session")
def coco_val(shared_path: Path) -> Path:
    """128 images of COCO val2017: `images/`, YOLO `labels/` and COCO `instances.json`."""
    return _existing(shared_path / "data" / "coco-val128")


@pytest.fixture(scope="session")
def each_trace_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Exports of a network that any worker has traced before take that trace."""
    from tests.traces import traced_once

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    with traced_once(folder):
        yield


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector of `tests.small_detector` as an Ultralytics checkpoint."""
    from tests.small_detector import small_detector

    detector = small_detector()
    path = tmp_path_factory.mktemp("small_detector") / "small.pt"
    torch.save({"model": detector.network, "train_args": {"imgsz": detector.identity.input_size}}, path)
    return path


@pytest.fixture(scope="session")
def small_teacher(small_checkpoint: Path) -> Any:
    """The detector of `small_checkpoint`; tests must not change it."""
    from detectors.registry import load_teacher
    from schemas.teacher import TeacherSource

    return load_teacher(TeacherSource(path=str(small_checkpoint)), torch.device("cpu"))


@pytest.fixture(scope="session")
def make_calibration_set() -> Callable[[Path], CalibrationSetManifest]:
    """Writes a small set without a teacher: two shards of three 32 px noise images, one box each, cat or dog."""

    def make(folder: Path, height: int = 32, width: int = 32) -> CalibrationSetManifest:
        size = ImageSize(height, width)
        config = SynthConfig(image_size=size, images=6, shard_size=3, seed=7)
        provenance = Provenance.of("synth", config.keyed(), {"teacher": "a" * 64})
        labels = [
            ImageLabels(
                width=width,
                height=height,
                boxes=(
                    BoxLabel(
                        bbox=(2.0 * index, 4.0, 16.0, 8.0),
                        category_id=index % 3 // 2,
                        score=0.5,
                        origin=LabelOrigin.RELABELLED if index % 2 else LabelOrigin.SAMPLED,
                    ),
                ),
            )
            for index in range(6)
        ]
        images = np.random.default_rng(7).integers(0, 256, (6, height, width, 3), dtype=np.uint8)
        shards = [
            write_shard(
                folder,
                number,
                zip(images[first : first + 3], labels[first : first + 3], strict=True),
                first_sample=first,
                seed=7,
                key=provenance.key,
            )
            for number, first in enumerate((0, 3))
        ]
        manifest = CalibrationSetManifest(
            teacher=TeacherIdentity(
                family="ultralytics",
                architecture={},
                sha256="a" * 64,
                class_names=("cat", "dog"),
                input_size=32,
                stride=32,
            ),
            label_mode=LabelMode.SAMPLED,
            synth=config,
            image_size=size,
            seed=7,
            shards=tuple(shards),
            statistics=LabelStatistics.of(labels, ("cat", "dog")),
            teacher_agreement=None,
            provenance=provenance,
        )
        write_text(folder / MANIFEST, manifest.to_json())
        return manifest

    return make


SMALL_BACKBONE = {"kind": "resnet", "blocks": [1, 1, 1, 1], "channels": 32, "representation": 64, "proposals": 40}
SMALL_SWIN = SMALL_BACKBONE | {"kind": "swin", "width": 16, "heads": [1, 1, 2, 2], "blocks": [2, 1, 1, 1]}
SMALL_ANCHORS = {"anchors": [16, 32, 64, 128, 256]}


@pytest.fixture(scope="session")
def torchvision_identity() -> Callable[..., TeacherIdentity]:
    """A torchvision detector of four classes by the name of its model; those that are not published are small.

    `batch_norm` and other fields of the architecture can be changed.
    """

    def identity(model: str, **changed: Any) -> TeacherIdentity:
        architecture: dict[str, Any] = {"model": model, "outputs": 5, "labels": [1, 2, 3, 4]}
        if "_" not in model:
            small = SMALL_BACKBONE if model == "fasterrcnn" else SMALL_SWIN  # a ResNet cannot be narrow
            architecture["backbone"] = small | SMALL_ANCHORS
        return TeacherIdentity(
            family="torchvision", architecture=architecture | changed, sha256="0" * 64,
            class_names=("a", "b", "c", "d"), input_size=96, stride=1 if model.startswith("ssd") else 32,
        )  # fmt: skip

    return identity


@pytest.fixture(scope="session")
def torchvision_detector(torchvision_identity: Callable[..., TeacherIdentity]) -> Callable[..., Any]:
    """The detector of such an identity with random weights, its batch norms with statistics of random images."""
    from torch import nn

    from detectors.registry import build_detector

    def detector(model: str, **changed: Any) -> Any:
        torch.manual_seed(0)
        built = build_detector(torchvision_identity(model, **changed))
        for module in built.network.backbone.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        norms = [module for module in built.network.modules() if isinstance(module, nn.BatchNorm2d)]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches that it saw
            norm.train()
        with torch.no_grad():
            built.head_outputs(torch.rand(4, 3, 96, 96))
        for norm in norms:
            norm.eval()
        return built

    return detector
