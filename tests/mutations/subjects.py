"""What is mutated, how it is read, and what must hold of whatever loads."""

import copy
import hashlib
import json
import random
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import yaml
from safetensors.torch import load_file, save_file

from detectors.detections import Detections
from detectors.examination import CELLS
from detectors.protocol import Detector, Suppression
from detectors.registry import load_teacher
from quantization.convert import make_student, quantized_layers
from quantization.student import load_student, save_student
from schemas.calibration_set import ImageSource, LabelMode
from schemas.provenance import Provenance
from schemas.qat_config import QatConfig
from schemas.student import MANIFEST, WEIGHTS, CalibrationSetReference, TrainingMethod, TrainingSummary
from schemas.teacher import TeacherSource
from tests.detectors.oddities import odd_plain_values, spoil, spoil_tensor
from tests.detectors.yolov5.pickled import repository
from tests.hostile.mutation import mutated
from tests.mutations.measured import HarmError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    """Something of a family that is mutated and read.

    Attributes:
        spoil: writes a mutated one into a folder; says what was changed.
        read: reads it, and checks what loads.
    """

    spoil: Callable[[Path, random.Random], str]
    read: Callable[[Path], object]


def checkpoint(make: Callable[[], Any], family: str) -> Subject:
    """A checkpoint of what `make` gives: fields of its pickle, numbers of its tensors, bytes of its file."""

    with repository():
        content = make()
        modules = {name: module for name, module in sys.modules.items() if name.split(".")[0] == "models"}

    def write(folder: Path, rng: random.Random) -> str:
        path, kind, said = folder / "odd.pt", rng.random(), "bytes of the file"
        changed = copy.deepcopy(content)  # the library shares one activation between all networks
        with patch.dict(sys.modules, modules):
            if kind < 0.7:
                said = spoil(changed, rng)
            elif kind < 0.85:
                said = _spoil_weight(changed, rng)
            torch.save(changed, path)
        if kind >= 0.85:
            path.write_bytes(mutated(path.read_bytes(), rng))
        return said

    def read(folder: Path) -> None:
        path = folder / "odd.pt"
        harmless(load_teacher(TeacherSource(path=str(path), family=family), CPU))  # type: ignore[arg-type]

    return Subject(write, read)


def saved_model(original: Path) -> Subject:
    """A folder of the transformers package: fields of its descriptions, numbers of its tensors, bytes of its files."""

    def write(folder: Path, rng: random.Random) -> str:
        place = Path(shutil.copytree(original, folder / "odd"))
        weights, description = (
            place / "model.safetensors",
            place / rng.choice(("config.json", "preprocessor_config.json")),
        )
        kind = rng.random()
        if kind < 0.6:
            return f"{description.name}: {spoil_json(description, rng)}"
        if kind < 0.8:
            tensors = load_file(weights)
            name = rng.choice(sorted(tensors))
            tensors[name] = spoil_tensor(tensors[name], rng)
            save_file(tensors, weights)
            return name
        changed = rng.choice((weights, description))
        changed.write_bytes(mutated(changed.read_bytes(), rng))
        return f"bytes of {changed.name}"

    def read(folder: Path) -> None:
        harmless(load_teacher(TeacherSource(path=str(folder / "odd")), CPU))

    return Subject(write, read)


def _spoil_weight(content: dict[str, Any], rng: random.Random) -> str:
    """Change a tensor of a checkpoint's network in place."""
    model = content["model"]
    if isinstance(model, dict):
        name = rng.choice(sorted(model))
        model[name] = spoil_tensor(model[name], rng)
        return name
    places = [
        (vars(module)[part], name)
        for module in model.modules()
        for part in ("_parameters", "_buffers")
        for name, value in vars(module)[part].items()
        if value is not None
    ]
    holder, name = rng.choice(places)
    value = spoil_tensor(holder[name].detach(), rng)
    kept = type(holder[name])
    holder[name] = kept(value, requires_grad=False) if kept is torch.nn.Parameter else value
    return str(name)


def harmless(detector: Detector) -> None:
    """Check that a detector that loaded computes: finite outputs of the right shapes, a loss, a gradient, boxes.

    Raises:
        HarmError: it does not.
    """
    classes = len(detector.identity.class_names)
    side = max(detector.smallest_input, CELLS * detector.identity.stride)
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0), requires_grad=True)
    outputs = detector.head_outputs(images)
    for name, values in (("class", outputs.class_logits), ("box", outputs.box_logits)):
        if not all(bool(each.isfinite().all()) for each in values):
            raise HarmError(f"{name} logits are not finite")
    loss = detector.task_loss(outputs, [Detections.of([[1.0, 1.0, 30.0, 30.0]], [classes - 1])])
    (gradient,) = torch.autograd.grad(loss, images)
    if not (bool(loss.isfinite()) and bool(gradient.isfinite().all())):
        raise HarmError("the loss or its gradient is not finite")
    with torch.no_grad():
        if not bool(detector.decoded(images.detach()).isfinite().all()):
            raise HarmError("decoded outputs are not finite")
        for found in detector.predict(images.detach(), Suppression(0.001, max_detections=20, multi_label=False)):
            if len(found) and not (int(found.classes.min()) >= 0 and int(found.classes.max()) < classes):
                raise HarmError("a predicted class has no name")


def student(teacher: Detector, original: Path) -> Subject:
    """A student of a teacher: fields of its manifest, numbers and bytes of its weights; digests are right."""
    _write_student(teacher, original)
    whole = {file: (original / file).read_bytes() for file in (WEIGHTS, MANIFEST)}

    def write(folder: Path, rng: random.Random) -> str:
        for file, content in whole.items():
            (folder / file).write_bytes(content)
        weights, kind = folder / WEIGHTS, rng.random()
        if kind < 0.45:
            return spoil_json(folder / MANIFEST, rng)
        if kind < 0.5:
            (folder / MANIFEST).write_bytes(mutated((folder / MANIFEST).read_bytes(), rng))
            return "bytes of the manifest"
        if kind < 0.85:
            tensors = load_file(weights)
            steps = [name for name in tensors if name.endswith(("step_size", "zero_point"))]
            name = rng.choice(steps if rng.random() < 0.4 else sorted(tensors))
            if rng.random() < 0.1:
                del tensors[name]
            else:
                tensors[rng.choice((name, name, name, "more"))] = spoil_tensor(tensors[name], rng)
            save_file(tensors, weights)
            said = name
        else:
            weights.write_bytes(mutated(weights.read_bytes(), rng))
            said = "bytes of the weights"
        values = json.loads((folder / MANIFEST).read_text())
        values["weights_sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
        (folder / MANIFEST).write_text(json.dumps(values))
        return said

    def read(folder: Path) -> None:
        loaded, manifest = load_student(folder, CPU)
        for name, layer in quantized_layers(loaded.network).items():
            for quantizer in (layer.weight_quantizer, layer.input_quantizer):
                if not bool(quantizer.step_size.isfinite().all() and quantizer.zero_point.isfinite().all()):
                    raise HarmError(f"{name}: step sizes or zero points are not finite")
        manifest.to_json()
        with torch.no_grad():
            side = max(loaded.smallest_input, CELLS * loaded.identity.stride)
            if not bool(loaded.decoded(torch.rand(1, 3, side, side)).isfinite().all()):
                raise HarmError("decoded outputs are not finite")

    return Subject(write, read)


def _write_student(teacher: Detector, folder: Path) -> None:
    """A student of an eighth-step grid that has seen no image; its files are what matters."""
    config = QatConfig(ptq_only=True)
    made = make_student(teacher, config.bits)
    for layer in quantized_layers(made.network).values():
        for quantizer in (layer.weight_quantizer, layer.input_quantizer):
            quantizer.initialise(torch.full_like(quantizer.step_size, 0.125))
    save_student(
        made, folder, method=TrainingMethod.PTQ, config=config,
        calibration_set=CalibrationSetReference(
            digest="d", samples=1, image_size=160, label_mode=LabelMode.SAMPLED, image_source=ImageSource.NOISE
        ),
        training=TrainingSummary(steps=0, seconds=0.0, first_loss=None, last_loss=None),
        provenance=Provenance.of("qat", config.keyed(), {}),
    )  # fmt: skip


def spoil_json(path: Path, rng: random.Random) -> str:
    """Change one to three fields of a JSON file in place."""
    values = json.loads(path.read_text())
    said = spoil(values, rng, odd_plain_values)
    path.write_text(json.dumps(values))
    return said


def document(original: Path, file: str, read: Callable[[Path], object]) -> Subject:
    """A JSON file in a folder of artifacts, which `read` reads: three times its fields, once its bytes."""
    path, whole = original / file, (original / file).read_bytes()

    def write(folder: Path, rng: random.Random) -> str:
        path.write_bytes(whole)
        if rng.random() < 0.75:
            return spoil_json(path, rng)
        path.write_bytes(mutated(whole, rng))
        return "bytes of the file"

    return Subject(write, lambda _: read(original))


def configuration(values: dict[str, Any], read: Callable[[Path], object]) -> Subject:
    """A YAML file, which `read` reads."""

    def write(folder: Path, rng: random.Random) -> str:
        changed = copy.deepcopy(values)
        said = spoil(changed, rng, odd_plain_values)
        text = yaml.safe_dump(changed, allow_unicode=True).encode("utf-8", "surrogatepass")
        if rng.random() < 0.25:
            text, said = mutated(text, rng), "bytes of the file"
        (folder / "odd.yaml").write_bytes(text)
        return said

    return Subject(write, lambda folder: read(folder / "odd.yaml"))
