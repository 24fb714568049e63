"""A student's files give back the very same student, or say what is wrong with them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from detectors.protocol import Detector
from quantization.convert import make_student, quantized_layers
from quantization.student import load_student
from schemas.errors import InputError, VerificationError
from schemas.qat_config import BitPolicy, Policy
from schemas.student import MANIFEST, WEIGHTS

CPU = torch.device("cpu")
DEPLOY = BitPolicy(weight_bits=3, activation_bits=5)
PAPER = BitPolicy(policy=Policy.PAPER, weight_bits=3, activation_bits=5)
MIXED = BitPolicy(weight_bits=4, layers={"model.4.cv2.conv": 2, "model.4.cv1.conv": 8})
Save = Callable[[BitPolicy], Path]


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads((folder / MANIFEST).read_text())
    change(values)
    (folder / MANIFEST).write_text(json.dumps(values))


def sign(folder: Path) -> None:
    digest = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    edit(folder, lambda values: values.update(weights_sha256=digest))


@pytest.mark.parametrize("bits", [DEPLOY, PAPER, MIXED], ids=["deploy", "paper", "mixed"])
def test_a_reloaded_student_is_bit_exact(
    save: Save, calibrated: Callable[[BitPolicy], Detector], images: Tensor, bits: BitPolicy
) -> None:
    loaded, manifest = load_student(save(bits), CPU)
    assert manifest.bits == bits
    with torch.no_grad():
        mine, theirs = loaded.head_outputs(images), calibrated(bits).head_outputs(images)
    assert torch.equal(mine.class_logits[0], theirs.class_logits[0])
    assert torch.equal(mine.box_logits[0], theirs.box_logits[0])
    assert loaded.identity == calibrated(bits).identity


def test_a_student_from_before_ranges_could_be_reduced_keeps_its_range(save: Save) -> None:
    def forget(values: dict[str, Any]) -> None:
        del values["bits"]["reduce_range"]
        for record in values["quantizers"]:
            del record["reduced_range"]

    folder = save(BitPolicy(reduce_range=False))
    edit(folder, forget)
    student, manifest = load_student(folder, CPU)
    assert not manifest.bits.reduces_range
    assert {layer.weight_quantizer.spec.range[0] for layer in quantized_layers(student.network).values()} == {-128}


def test_weights_are_safetensors_only_and_the_folder_holds_nothing_else(save: Save) -> None:
    folder = save(DEPLOY)
    assert sorted(path.name for path in folder.iterdir()) == sorted([MANIFEST, WEIGHTS])
    assert load_file(folder / WEIGHTS).keys()


def test_a_flipped_byte_is_found(save: Save) -> None:
    folder = save(DEPLOY)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-100] ^= 1
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(VerificationError, match="does not match its digest"):
        load_student(folder, CPU)


def test_missing_weights_are_found(save: Save) -> None:
    folder = save(DEPLOY)
    (folder / WEIGHTS).unlink()
    with pytest.raises(VerificationError, match=WEIGHTS):
        load_student(folder, CPU)


def test_a_folder_without_a_student_is_an_input_error(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="no finished student here"):
            load_student(folder, CPU)


def change_bits(values: dict[str, Any]) -> None:
    values["quantizers"][4]["bits"] = 8


def drop_one(values: dict[str, Any]) -> None:
    values["quantizers"].pop()


def rename_one(values: dict[str, Any]) -> None:
    values["quantizers"][0]["name"] = "model.99.weight"


def other_policy(values: dict[str, Any]) -> None:
    values["bits"]["policy"] = "paper"


@pytest.mark.parametrize("change", [change_bits, drop_one, rename_one, other_policy])
def test_quantizer_records_that_do_not_fit_the_policy_fail_verification(
    save: Save, change: Callable[[dict[str, Any]], None]
) -> None:
    folder = save(DEPLOY)
    edit(folder, change)
    with pytest.raises(VerificationError, match="quantizers are not those of its policy"):
        load_student(folder, CPU)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [({"model.4.cv2.conv": 3}, "quantizers are not those"), ({"model.99": 3}, "has no layer 'model.99'")],
)
def test_a_plan_that_was_changed_fails_verification(save: Save, layers: dict[str, int], reason: str) -> None:
    folder = save(MIXED)
    edit(folder, lambda values: values["bits"].update(layers=layers))
    with pytest.raises(VerificationError, match=reason):
        load_student(folder, CPU)


def test_weights_of_another_architecture_fail_verification_even_when_signed(save: Save) -> None:
    folder = save(DEPLOY)
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    for changed in ({**tensors, name: torch.zeros(3)}, {key: tensors[key] for key in tensors if key != name}):
        save_file(changed, folder / WEIGHTS)
        sign(folder)
        with pytest.raises(VerificationError, match="does not fit the architecture") as caught:
            load_student(folder, CPU)
        assert "\n" not in str(caught.value)


def test_weights_that_are_no_safetensors_fail_verification_even_when_signed(save: Save) -> None:
    folder = save(DEPLOY)
    (folder / WEIGHTS).write_bytes(b"\x80\x04 a pickle, say")
    sign(folder)
    with pytest.raises(VerificationError):
        load_student(folder, CPU)


def test_an_architecture_that_does_not_build_fails_verification(save: Save) -> None:
    folder = save(DEPLOY)
    edit(folder, lambda values: values["teacher"]["architecture"].update(backbone=[]))
    with pytest.raises(VerificationError, match="architecture"):
        load_student(folder, CPU)


def test_an_uncalibrated_twin_differs_so_the_comparison_above_means_something(
    teacher: Detector, calibrated: Callable[[BitPolicy], Detector], images: Tensor
) -> None:
    fresh = make_student(teacher, DEPLOY).head_outputs(images).class_logits[0]
    assert not torch.equal(fresh, calibrated(DEPLOY).head_outputs(images).class_logits[0])
