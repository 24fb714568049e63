"""What every test relies on: no network, nothing written to the home folder, two threads, the shared material."""

import atexit
import os
import shutil
import tempfile
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

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402

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
