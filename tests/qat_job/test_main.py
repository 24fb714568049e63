"""The stage as a user and a conductor see it: what it writes, that training helps, what it refuses."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import Result

from detectors.protocol import Detector
from qat_job import job
from qat_job.distillation import FeatureTap, feature_error
from qat_job.images import ImageBatches
from quantization.convert import quantized_layers
from quantization.layers import QuantizedLayer
from quantization.onnx.export import verify_onnx
from quantization.student import load_student
from schemas.calibration_set import MANIFEST as SET_MANIFEST
from schemas.errors import ExitCode
from schemas.image_size import ImageSize
from schemas.sensitivity import SENSITIVITY
from schemas.student import MANIFEST, PTQ_FOLDER, WEIGHTS, StudentManifest, TrainingMethod, onnx_manifest_path
from schemas.target import Target, exported_path
from stages.shards import open_calibration_set
from stages.storage import file_digest
from tests.traces import traced_once

CPU = torch.device("cpu")
Qat = Callable[..., Result]


def one_line(result: Result, code: ExitCode) -> str:
    """The one line with which the stage failed."""
    assert result.exit_code == code, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("zsq qat: ")
    return line


def test_training_lowers_the_loss(trained: Path) -> None:
    training = StudentManifest.read(trained / MANIFEST).training
    assert (training.steps, len(training.losses)) == (30, 30)
    assert fmean(training.losses[-5:]) < 0.8 * fmean(training.losses[:5])
    assert training.first_loss == training.losses[0]
    assert training.last_loss == pytest.approx(fmean(training.losses[-3:]))


def test_a_set_of_other_weights_takes_leave(write_set: Callable[..., Path], qat: Qat, tmp_path: Path) -> None:
    folder = write_set(tmp_path / "set", sha256="b" * 64)
    line = one_line(qat(tmp_path / "out", folder=folder), ExitCode.BAD_INPUT)
    assert "made from another teacher (sha256 bbbbbbbbbbbb" in line and "allow_other_teacher" in line
    assert not (tmp_path / "out").exists()
    result = qat(tmp_path / "out", folder=folder, allow_other_teacher=True, ptq_only=True)
    assert result.exit_code == 0, result.output
    manifest = StudentManifest.read(tmp_path / "out" / MANIFEST)
    assert manifest.calibration_set.teacher_sha256 == "b" * 64 != manifest.teacher.sha256


def test_training_brings_the_student_closer_to_its_teacher(
    trained: Path, calibration_set: Path, teacher: Detector
) -> None:
    (images,) = ImageBatches(open_calibration_set(calibration_set), CPU).in_order(4, 4)
    sites = teacher.distillation_sites()
    errors = []
    with torch.no_grad(), FeatureTap(teacher.network, sites) as teacher_tap:
        teacher.head_outputs(images)
        expected = teacher_tap.features()
        for folder in (trained / PTQ_FOLDER, trained):
            student, _ = load_student(folder, CPU)
            with FeatureTap(student.network, sites) as tap:
                student.head_outputs(images)
                errors.append(float(feature_error(tap.features(), expected)))
    assert errors[1] < 0.8 * errors[0]


def test_the_student_is_kept_after_training_and_before(trained: Path, calibration_set: Path, teacher: Detector) -> None:
    after, before = (StudentManifest.read(folder / MANIFEST) for folder in (trained, trained / PTQ_FOLDER))
    assert (after.method, before.method) == (TrainingMethod.QAT, TrainingMethod.PTQ)
    assert (before.training.steps, before.training.losses) == (0, ())
    assert after.bits.name == before.bits.name == "W4A8 deploy"
    assert after.quantizers == before.quantizers
    assert after.teacher == teacher.identity
    assert after.weights_sha256 == file_digest(trained / WEIGHTS) != before.weights_sha256
    set_manifest = open_calibration_set(calibration_set).manifest
    assert after.calibration_set.digest == set_manifest.digest
    assert (after.calibration_set.samples, after.calibration_set.image_size) == (4, ImageSize.square(96))
    assert sorted(path.name for path in trained.iterdir()) == sorted([MANIFEST, WEIGHTS, PTQ_FOLDER])


def test_what_learns_has_moved_and_what_is_fixed_has_not(trained: Path) -> None:
    (before, _), (after, _) = (load_student(folder, CPU) for folder in (trained / PTQ_FOLDER, trained))
    old, new = quantized_layers(before.network), quantized_layers(after.network)
    assert all(torch.equal(integers(old[name]), integers(new[name])) for name in old)
    assert all(
        not torch.equal(old[name].weight_quantizer.step_size, new[name].weight_quantizer.step_size) for name in old
    )
    assert all(not torch.equal(layer.bias, new[name].bias) for name, layer in old.items() if layer.bias is not None)
    moved = [not torch.equal(old[name].input_quantizer.step_size, new[name].input_quantizer.step_size) for name in old]
    assert sum(moved) / len(moved) > 0.9
    (decoding,) = (name for name in after.float_layers() if name.endswith(".conv"))
    one, other = (network.get_submodule(decoding).weight for network in (before.network, after.network))
    assert torch.equal(one, other)  # type: ignore[arg-type]


@pytest.mark.parametrize("compensated", [None, True, False])
def test_weights_of_the_student_that_is_not_trained_lie_on_their_grid_unless_asked_otherwise(
    qat: Qat, tmp_path: Path, compensated: bool | None
) -> None:
    still = {"steps": 1, "learning_rate": 1e-12, "bias_learning_rate": 0, "step_size_learning_rate": 0}
    still |= {"learn_weights": True}
    result = qat(tmp_path, bits__weight_bits=4, compensated_rounding=compensated, correction_images=4, **still)
    assert result.exit_code == 0, result.output
    rounded = []
    for folder in (tmp_path / PTQ_FOLDER, tmp_path):
        student, _ = load_student(folder, CPU)
        layers = [x for x in quantized_layers(student.network).values() if x.weight_quantizer.spec.bits == 4]
        rounded.append(all(is_rounded(layer) for layer in layers))
    assert rounded == {None: [True, False], True: [True, True], False: [False, False]}[compensated]


def integers(layer: QuantizedLayer) -> Tensor:
    """What a layer's weights are stored as."""
    step_size = layer.weight_quantizer.step_size.reshape(-1, *[1] * (layer.weight.dim() - 1))
    return (layer.weight_quantizer(layer.weight) / step_size).round()


def test_weights_learn_where_they_are_asked_to(qat: Qat, tmp_path: Path) -> None:
    result = qat(tmp_path, learn_weights=True)
    assert result.exit_code == 0, result.output
    (before, _), (after, _) = (load_student(folder, CPU) for folder in (tmp_path / PTQ_FOLDER, tmp_path))
    old, new = quantized_layers(before.network), quantized_layers(after.network)
    assert all(not torch.equal(old[name].weight, new[name].weight) for name in old)


def is_rounded(layer: QuantizedLayer) -> bool:
    """Whether weights are step sizes times integers."""
    step_size = layer.weight_quantizer.step_size.reshape(-1, *[1] * (layer.weight.dim() - 1))
    integers = layer.weight / step_size
    return bool((integers - integers.round()).abs().max() < 1e-3)


@pytest.mark.parametrize("policy", ["paper", "deploy"])
def test_without_training_there_is_one_student(qat: Qat, tmp_path: Path, policy: str) -> None:
    result = qat(tmp_path, ptq_only=True, bits__policy=policy)
    assert result.exit_code == 0, result.output
    manifest = StudentManifest.read(tmp_path / MANIFEST)
    assert (manifest.method, manifest.training.steps) == (TrainingMethod.PTQ, 0)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([MANIFEST, WEIGHTS])
    load_student(tmp_path, CPU)


def test_a_student_is_exported_and_a_lost_export_is_made_again_without_training(
    qat: Qat, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    traces = tmp_path_factory.mktemp("traces")
    with traced_once(traces):
        assert qat(tmp_path, ptq_only=True, targets=["generic"]).exit_code == 0
    path, manifest = exported_path(tmp_path, Target.GENERIC), StudentManifest.read(tmp_path / MANIFEST)
    described = verify_onnx(path, manifest)
    assert (described.image_size, described.parity.images, described.parity.image_source) == (
        ImageSize.square(96),
        4,
        "calibration set",
    )
    assert described.weight_tensors == {"4": 33, "8": 5}
    result = qat(tmp_path, ptq_only=True, targets=["generic"])
    assert "up to date" in result.stdout

    weights, digest = (tmp_path / WEIGHTS).stat().st_mtime_ns, described.sha256
    path.unlink()
    assert "up to date" not in qat(tmp_path, ptq_only=True, targets=["generic"]).stdout
    assert verify_onnx(path, manifest).sha256 == digest, "traced again"
    for file in (path, onnx_manifest_path(path)):
        file.unlink()
    assert qat(tmp_path, ptq_only=True).exit_code == 0
    assert not path.exists()
    with traced_once(traces):
        result = qat(tmp_path, ptq_only=True, targets=["generic"])
    assert result.exit_code == 0, result.output
    assert verify_onnx(path, manifest).sha256 == digest
    assert (tmp_path / WEIGHTS).stat().st_mtime_ns == weights

    assert qat(tmp_path, "--overwrite", ptq_only=True, bits__weight_bits=5).exit_code == 0
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([MANIFEST, WEIGHTS])


def test_the_paper_policy_trains_and_leaves_batch_norm_statistics_alone(
    qat: Qat, tmp_path: Path, teacher: Detector
) -> None:
    result = qat(tmp_path, bits__policy="paper", steps=3)
    assert result.exit_code == 0, result.output
    student, _ = load_student(tmp_path, CPU)
    for mine, theirs in zip(student.statistics_sites(), teacher.statistics_sites(), strict=True):
        assert torch.equal(mine.running_mean, theirs.running_mean)  # type: ignore[arg-type]
        assert torch.equal(mine.running_var, theirs.running_var)  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_student_and_another_one_another(qat: Qat, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("again", 0), ("other", 1)):
        torch.rand(3)  # what ran before in the process must not matter
        assert qat(tmp_path / name, steps=4, seed=seed).exit_code == 0
    one, again, other = (StudentManifest.read(tmp_path / name / MANIFEST) for name in ("one", "again", "other"))
    assert one.training.losses == again.training.losses != other.training.losses
    assert one.weights_sha256 == again.weights_sha256 != other.weights_sha256


def test_a_finished_student_is_up_to_date_and_stays_untouched(
    qat: Qat, trained: Path, trained_with: dict[str, Any]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    result = qat(trained, **trained_with)
    assert result.exit_code == 0
    assert "up to date" in result.stdout
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


def test_other_settings_in_the_same_folder_are_refused_and_named(qat: Qat, trained: Path) -> None:
    before = file_digest(trained / WEIGHTS)
    line = one_line(qat(trained, steps=31), ExitCode.BAD_INPUT)
    assert "steps: 30 → 31" in line
    assert "--overwrite" in line
    assert file_digest(trained / WEIGHTS) == before


def test_overwriting_replaces_the_student(qat: Qat, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "student"
    shutil.copytree(trained, folder)
    (folder / SENSITIVITY).write_text("of the old student")
    assert qat(folder, "--overwrite", ptq_only=True, bits__weight_bits=6).exit_code == 0
    assert not (folder / SENSITIVITY).exists()
    manifest = StudentManifest.read(folder / MANIFEST)
    assert (manifest.method, manifest.bits.weight_bits) == (TrainingMethod.PTQ, 6)
    assert not (folder / PTQ_FOLDER).exists(), "evaluation would show the old student as this one before training"


def test_another_set_is_another_student(
    qat: Qat, trained: Path, trained_with: dict[str, Any], write_set: Callable[..., Path], tmp_path: Path
) -> None:
    other = write_set(tmp_path / "set", size=64)
    assert "calibration_set" in one_line(qat(trained, folder=other, **trained_with), ExitCode.BAD_INPUT)


def test_sigterm_stops_and_leaves_no_half_student(qat: Qat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def train_and_terminate(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return train(*arguments)

    train = job.train
    monkeypatch.setattr(job, "train", train_and_terminate)
    one_line(qat(tmp_path), ExitCode.STOPPED)
    assert not (tmp_path / MANIFEST).exists()
    monkeypatch.setattr(job, "train", train)
    assert qat(tmp_path).exit_code == 0
    assert StudentManifest.read(tmp_path / MANIFEST).method is TrainingMethod.QAT


def test_a_set_of_a_teacher_with_other_classes_is_refused_naming_both(
    qat: Qat, write_set: Callable[..., Path], tmp_path: Path
) -> None:
    names = ("cat", "dog", *(f"animal {k}" for k in range(7)))
    line = one_line(
        qat(tmp_path / "student", folder=write_set(tmp_path / "set", class_names=names)), ExitCode.BAD_INPUT
    )
    assert "9 classes (cat, dog" in line
    assert "has 8 (disc, ring" in line


def test_a_set_whose_images_do_not_fit_the_stride_is_refused(
    qat: Qat, write_set: Callable[..., Path], tmp_path: Path
) -> None:
    line = one_line(qat(tmp_path / "student", folder=write_set(tmp_path / "set", size=80)), ExitCode.BAD_INPUT)
    assert "80 px" in line
    assert "stride 32" in line


def test_a_flipped_byte_in_a_shard_is_found(qat: Qat, calibration_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(calibration_set, folder)
    content = bytearray((folder / "calib-000000.tar").read_bytes())
    content[2000] ^= 1
    (folder / "calib-000000.tar").write_bytes(content)
    assert "does not match its digest" in one_line(qat(tmp_path / "student", folder=folder), ExitCode.UNVERIFIED)
    assert not (tmp_path / "student").exists()


def test_a_manifest_that_is_damaged_is_found(qat: Qat, calibration_set: Path, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    shutil.copytree(calibration_set, folder)
    values = json.loads((folder / SET_MANIFEST).read_text())
    values["images"] = 4
    (folder / SET_MANIFEST).write_text(json.dumps(values))
    assert "unknown key 'images'" in one_line(qat(tmp_path / "student", folder=folder), ExitCode.UNVERIFIED)


def test_a_missing_set_is_bad_input(qat: Qat, tmp_path: Path) -> None:
    line = one_line(qat(tmp_path / "student", folder=tmp_path / "none"), ExitCode.BAD_INPUT)
    assert "run synth" in line


@pytest.mark.parametrize("policy", ["paper", "deploy"])
def test_a_training_that_diverges_says_what_to_lower(qat: Qat, tmp_path: Path, policy: str) -> None:
    line = one_line(qat(tmp_path, weights__features=1e39, steps=3, bits__policy=policy), ExitCode.BAD_INPUT)
    assert "diverged" in line
    assert "lower learning_rate (now 0.0002)" in line
    assert not (tmp_path / MANIFEST).exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"bits__weight_bits": 9}, "bits.weight_bits: got 9"),
        ({"bits__activation_bits": 1}, "bits.activation_bits: got 1"),
        ({"bits__policy": "mine"}, "bits.policy: got 'mine'"),
        ({"learning_rate": 2.0}, "learning_rate: got 2.0"),
        ({"steps": 0}, "steps: got 0"),
        ({"weights": {"task": 0, "outputs": 0, "features": 0}}, "nothing to train on"),
        ({"device": "cuda:77"}, "device: got 'cuda:77'"),
        ({"teacher__path": "/none/teacher.pt"}, "/none/teacher.pt"),
        ({"step": 3}, "did you mean 'steps'?"),
    ],
)
def test_bad_settings_are_one_line_and_write_nothing(
    qat: Qat, tmp_path: Path, settings: dict[str, Any], named: str
) -> None:
    assert named in one_line(qat(tmp_path / "student", **settings), ExitCode.BAD_INPUT)
    assert not (tmp_path / "student").exists()


def test_a_student_that_calibration_alone_keeps_is_not_trained_and_says_by_which_number(
    qat: Qat, tmp_path: Path
) -> None:
    result = qat(tmp_path, steps="auto", bits__weight_bits=8)
    assert result.exit_code == 0, result.output
    manifest = StudentManifest.read(tmp_path / MANIFEST)
    assert (manifest.method, manifest.training.steps) == (TrainingMethod.PTQ, 0)
    decision = manifest.training.decision
    assert decision is not None and decision.divergence <= decision.enough and decision.images == 4
    assert "calibration is enough" in result.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([MANIFEST, WEIGHTS]), "it is the student"
    load_student(tmp_path, CPU)
    assert "up to date" in qat(tmp_path, steps="auto", bits__weight_bits=8).stdout


def test_a_student_that_it_does_not_keep_is_trained_with_the_number_kept(
    qat: Qat, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("schemas.qat_config.TRAINING_STEPS", 2)
    result = qat(tmp_path, steps="auto", bits__weight_bits=2)
    assert result.exit_code == 0, result.output
    after, before = (StudentManifest.read(folder / MANIFEST) for folder in (tmp_path, tmp_path / PTQ_FOLDER))
    assert (after.method, after.training.steps) == (TrainingMethod.QAT, 2)
    assert after.training.decision == before.training.decision
    assert after.training.decision is not None and not after.training.decision.is_enough


def test_a_number_of_steps_decides_for_itself(trained: Path) -> None:
    assert StudentManifest.read(trained / MANIFEST).training.decision is None
