"""A file that is not the student is refused, however few bits it has; rounding alone refuses none."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor

from detectors.protocol import Detector
from quantization.onnx import parity
from quantization.onnx.engine import open_engine
from quantization.onnx.export import TracedStudent, export_student
from quantization.onnx.parity import measure_parity
from schemas.errors import VerificationError
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy
from schemas.student import ExportForm, OnnxParity
from schemas.target import Target

SIZE = 160


def fake_student(teacher: Detector, decoded: Callable[[Tensor], Tensor]) -> SimpleNamespace:
    """End to end, with the outputs that it is given."""
    return SimpleNamespace(
        network=teacher.network, identity=teacher.identity, sees=teacher.sees, decoded=decoded, end_to_end=True
    )


@pytest.mark.parametrize("target", [Target.GENERIC, Target.ONNXRUNTIME, Target.OPENVINO])
def test_few_bits_differ_by_rounding_and_are_no_reason_to_refuse(
    target: Target, traced: Callable[[BitPolicy], TracedStudent], images: Tensor, tmp_path: Path
) -> None:
    student = traced(BitPolicy(weight_bits=4, activation_bits=4))
    form = ExportForm(target=target, image_size=SIZE)
    described = export_student(student, tmp_path / "model.onnx", images, form)
    assert described.parity.score_max > 0
    assert (tmp_path / "model.onnx").is_file()


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("target", [Target.GENERIC, Target.ONNXRUNTIME])
def test_a_model_with_another_weight_is_refused_at_any_bits(
    bits: int, target: Target, traced: Callable[[BitPolicy], TracedStudent], images: Tensor, tmp_path: Path
) -> None:
    student = traced(BitPolicy(weight_bits=bits, activation_bits=bits))
    changed = onnx.ModelProto()
    changed.CopyFrom(student.model)
    weight = next(tensor for tensor in changed.graph.initializer if tensor.name.endswith("integers"))
    values = numpy_helper.to_array(weight)
    weight.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values[::-1]), weight.name))
    form = ExportForm(target=target, image_size=SIZE)
    with pytest.raises(VerificationError, match=r"with activations in float, its (class scores|boxes) are"):
        export_student(replace(student, model=changed), tmp_path / "model.onnx", images, form)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (lambda outputs: np.concatenate([outputs[:, :4], 0 * outputs[:, 4:]], axis=1), "class scores are 100% off"),
        (lambda outputs: np.concatenate([outputs[:, :4] / 2, outputs[:, 4:]], axis=1), "boxes are .* px off"),
        (lambda outputs: np.roll(outputs, 1, axis=0), "off on average"),
        (lambda outputs: outputs * np.nan, "not finite"),
        (lambda outputs: outputs[:, :-1], "instead of"),
    ],
    ids=["no scores", "half the boxes", "other images", "not a number", "a class less"],
)
def test_a_model_that_is_not_the_student_is_refused_and_removed(
    traced: Callable[[BitPolicy], TracedStudent],
    images: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tamper: Callable[[np.ndarray], np.ndarray],
    reason: str,
) -> None:
    form = ExportForm(target=Target.GENERIC, image_size=SIZE)
    monkeypatch.setattr(parity, "open_engine", lambda path, *_, **__: lambda x: tamper(open_engine(path)(x)))
    with pytest.raises(VerificationError, match=reason):
        export_student(traced(BitPolicy()), tmp_path / "model.onnx", images, form)
    assert list(tmp_path.iterdir()) == []


def test_an_end_to_end_model_without_a_pair_or_with_other_boxes_is_refused(
    teacher: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = torch.rand(2, 300, 6) * torch.tensor([SIZE, SIZE, SIZE, SIZE, 0, 0])
    theirs[..., 4] = 0.5
    student = cast(Detector, fake_student(teacher, lambda images: theirs))

    def parity_of(mine: Tensor) -> OnnxParity:
        monkeypatch.setattr(parity, "open_engine", lambda path, name: lambda images: mine.numpy())
        return measure_parity(student, tmp_path / "model.onnx", torch.rand(2, 3, SIZE, SIZE), ImageSize.square(SIZE))

    assert parity_of(theirs.flip(1)).matched == 1
    with pytest.raises(VerificationError, match="only 0% of the student's outputs"):
        parity_of(theirs + torch.tensor([0, 0, 0, 0, 0, 1]))
    with pytest.raises(VerificationError, match=r"boxes are .* px off"):
        parity_of(theirs + torch.tensor([SIZE, 0, 0, 0, 0, 0]))


def test_a_model_is_not_refused_for_what_the_student_differs_from_itself_by(
    teacher: Detector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, others, mine = (torch.rand(1, 300, 6) * torch.tensor([SIZE, SIZE, SIZE, SIZE, 1, 0]) for _ in range(3))
    images = torch.rand(1, 3, SIZE, SIZE)

    def decoded(given: Tensor) -> Tensor:
        return seen if torch.equal(given, images) else others

    student = cast(Detector, fake_student(teacher, decoded))
    monkeypatch.setattr(parity, "open_engine", lambda path, name: lambda images: mine.numpy())
    monkeypatch.setattr(parity, "ROUNDED", replace(parity.ROUNDED, scores=0.1))
    assert measure_parity(student, tmp_path / "model.onnx", images, ImageSize.square(SIZE)).score_mean > 0.1
    others = seen
    with pytest.raises(VerificationError, match="class scores are"):
        measure_parity(student, tmp_path / "model.onnx", images, ImageSize.square(SIZE))
