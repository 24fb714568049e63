"""What every test relies on: no network, nothing written to the home folder, two threads, the shared material."""

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

_SCRATCH = tempfile.mkdtemp(prefix="zsq-tests-")
atexit.register(shutil.rmtree, _SCRATCH, ignore_errors=True)

# Read once, when ultralytics and matplotlib are imported, so set before any test module is; stages that a test starts
# as processes inherit them.
os.environ["YOLO_CONFIG_DIR"] = _SCRATCH
os.environ["MPLCONFIGDIR"] = _SCRATCH
os.environ["MPLBACKEND"] = "Agg"
os.environ["YOLO_OFFLINE"] = "true"  # no update check, no telemetry
os.environ["YOLO_AUTOINSTALL"] = "false"  # no pip at run time
os.environ.setdefault("OMP_NUM_THREADS", "2")  # ultralytics would set 1

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

from schemas.calibration_set import MANIFEST, CalibrationSetManifest, LabelMode, LabelStatistics  # noqa: E402
from schemas.labels import BoxLabel, ImageLabels, LabelOrigin  # noqa: E402
from schemas.provenance import Provenance  # noqa: E402
from schemas.shards import write_shard  # noqa: E402
from schemas.storage import write_text  # noqa: E402
from schemas.synth_config import SynthConfig  # noqa: E402
from schemas.teacher import TeacherIdentity  # noqa: E402

torch.set_num_threads(2)

# On a busy machine the time of one example says nothing, and a suite that draws new examples each run fails for others.
settings.register_profile("zsq", deadline=None, derandomize=True)
settings.load_profile("zsq")

_SHARED = Path(__file__).resolve().parents[2] / "shared"


def _existing(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"needs {path.relative_to(_SHARED.parent)} beside the repository, which is not there")
    return path


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
def make_calibration_set() -> Callable[[Path], CalibrationSetManifest]:
    """Writes a small set without a teacher: two shards of three 32 px noise images, one box each, cat or dog."""

    def make(folder: Path) -> CalibrationSetManifest:
        config = SynthConfig(image_size=32, images=6, shard_size=3, seed=7)
        provenance = Provenance.of("synth", config.keyed(), {"teacher": "a" * 64})
        labels = [
            ImageLabels(
                width=32,
                height=32,
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
        images = np.random.default_rng(7).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
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
            image_size=32,
            seed=7,
            shards=tuple(shards),
            statistics=LabelStatistics.of(labels, ("cat", "dog")),
            teacher_agreement=None,
            provenance=provenance,
        )
        write_text(folder / MANIFEST, manifest.to_json())
        return manifest

    return make
