"""`zsq export`: what it writes, when it is up to date, what it refuses."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from detectors.protocol import Detector
from pipeline.cli import app
from quantization.convert import make_student
from quantization.onnx.export import verify_onnx
from quantization.student import save_student
from schemas.calibration_set import ImageSource, LabelMode
from schemas.image_size import ImageSize
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, Policy, QatConfig
from schemas.student import CalibrationSetReference, StudentManifest, TrainingMethod, TrainingSummary


@pytest.fixture(scope="module")
def student(small_teacher: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student, not calibrated; exports go elsewhere."""
    folder, bits = tmp_path_factory.mktemp("student"), BitPolicy(policy=Policy.PAPER, weight_bits=4)
    config = QatConfig(bits=bits, ptq_only=True)
    save_student(
        make_student(small_teacher, bits), folder,
        method=TrainingMethod.PTQ, config=config,
        calibration_set=CalibrationSetReference(
            digest="of another set", samples=4, image_size=128,
            label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED,
        ),
        training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
        provenance=Provenance.of("qat", config.keyed(), {"teacher": "t"}),
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def exported(student: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model file; tests must not change it."""
    path = tmp_path_factory.mktemp("exported") / "detector.onnx"
    result = export(student, "--output", path, "--target", "generic")
    assert result.exit_code == 0, result.output
    return path


def export(folder: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["export", "--student", str(folder), *(str(argument) for argument in arguments)])


def test_a_student_becomes_a_model_file_with_its_manifest(student: Path, exported: Path) -> None:
    described = verify_onnx(exported, StudentManifest.read(student / "student.json"))
    assert (described.file, described.image_size, described.int4) == ("detector.onnx", ImageSize.square(128), False)
    assert described.parity.image_source == "noise"
    assert described.weight_tensors.keys() == {"4"}
    assert len(described.float_layers) > 10
    assert sorted(path.name for path in exported.parent.iterdir()) == ["detector.onnx", "detector.onnx.json"]


def test_a_second_export_is_up_to_date_and_loads_no_torch(student: Path, exported: Path) -> None:
    before = exported.stat().st_mtime_ns
    script = (
        "import sys\nfrom pipeline.cli import app\n"
        f"app(['export', '--student', {str(student)!r}, '--output', {str(exported)!r}, '--target', 'generic'], "
        "standalone_mode=False)\n"
        "print([name for name in ('torch', 'onnx', 'onnxruntime', 'numpy') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "up to date" in found.stdout
    assert found.stdout.splitlines()[-1] == "[]"
    assert exported.stat().st_mtime_ns == before


def test_another_export_in_its_place_is_refused_and_named(student: Path, exported: Path) -> None:
    result = export(student, "--output", exported, "--target", "generic", "--int4")
    assert result.exit_code == 2
    assert "int4: False → True" in result.stderr
    assert "--overwrite" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image-size", "100"), "--image-size: got 100, this detector takes multiples of 32"),
        (("--image-size", "8192"), "--image-size: got 8192, at most 4096 pixels are compared"),
        (("--calibration-set", "/none"), "/none: no finished calibration set here"),
        (("--target", "onnxruntime"), "target onnxruntime: takes calibration images to place quantizers by"),
    ],
)
def test_bad_input_is_one_line(student: Path, arguments: tuple[str, ...], message: str) -> None:
    result = export(student, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stderr.startswith("zsq export: ") and result.stderr.count("\n") == 1


def test_without_its_environment_litert_is_refused_in_one_line(student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZSQ_LITERT_PYTHON", raising=False)
    result = export(student, "--target", "litert")
    assert result.exit_code == 2
    assert "target litert: its files are made in an environment of their own: set ZSQ_LITERT_PYTHON" in result.stderr
    assert result.stderr.count("\n") == 1


def test_targets_are_listed_with_what_they_need() -> None:
    result = CliRunner().invoke(app, ["targets"])
    assert result.exit_code == 0
    assert "LiteRT (TFLite), CPU" in result.output
    assert "calibration images; ZSQ_LITERT_PYTHON: an environment of its own" in result.output


def test_a_file_that_is_no_export_is_left_alone(student: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.onnx").write_bytes(b"mine")
    result = export(student, "--output", tmp_path / "mine.onnx")
    assert result.exit_code == 2
    assert "is no export of zsq" in result.stderr
    assert (tmp_path / "mine.onnx").read_bytes() == b"mine"


def test_a_folder_without_a_student_is_bad_input(tmp_path: Path) -> None:
    result = export(tmp_path)
    assert result.exit_code == 2
    assert "no finished student here" in result.stderr


@pytest.mark.parametrize(
    ("target", "name", "better"),
    [("generic", "phone.tflite", "phone.onnx"), ("litert", "detector.ONNX", "detector.tflite")],
)
def test_a_file_is_not_named_like_one_of_another_engine(
    student: Path, tmp_path: Path, target: str, name: str, better: str
) -> None:
    refused = export(student, "--output", tmp_path / name, "--target", target)
    assert refused.exit_code == 2 and refused.stderr.count("\n") == 1
    assert f"name it {better}, or choose another --target" in refused.stderr
    assert list(tmp_path.iterdir()) == []
