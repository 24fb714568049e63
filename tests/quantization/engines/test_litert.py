"""A LiteRT file carries the student's own integers and step sizes, and computes what the student computes."""

import json
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from detectors.protocol import Detector
from quantization.convert import quantized_layers
from quantization.engines.census import OUTPUT_IN_FLOAT
from quantization.engines.litert import export
from quantization.engines.litert.environment import ENVIRONMENT, converter_python
from quantization.engines.litert.export import export_litert
from quantization.onnx.engine import open_engine
from quantization.onnx.export import TracedStudent, export_student, verify_onnx
from schemas.errors import ConfigError, VerificationError
from schemas.qat_config import BitPolicy, Quantizer
from schemas.student import ExportForm, StudentManifest
from schemas.target import Target

SIZE = 160
PYTHON = converter_python()
needs_converter = pytest.mark.skipif(PYTHON is None, reason=f"{ENVIRONMENT} names no converter environment")
POLICIES = {
    "W8A8": BitPolicy(),
    "W4A8": BitPolicy(weight_bits=4),
    "W8A8 symmetric": BitPolicy(quantizer=Quantizer.LSQ),
}
READ = """
import json, sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from converter.layers import LAYERS
from converter.model import INTEGER, NIBBLE, Model
content = open(sys.argv[1], "rb").read()
model, arrays = Model(content), {}
integer = {op.outputs[0]: op.inputs[0] for op in model.operators if model.name(op) == "DEQUANTIZE"}
for operator in model.operators:
    if model.name(operator) in LAYERS:
        source, weight = (model._graph.tensors[integer.get(i, i)] for i in operator.inputs[:2])
        if weight.type in (INTEGER, NIBBLE):
            data = np.asarray(model._model.buffers[weight.buffer].data, np.uint8)
            if weight.type == NIBBLE:
                data = (np.stack([data & 15, data >> 4], 1).reshape(-1).view(np.int8) ^ 8) - 8
            key = len(arrays) // 3
            arrays[f"{key}.integers"] = data.view(np.int8)[: int(np.prod(weight.shape))].reshape(weight.shape)
            arrays[f"{key}.steps"] = weight.quantization.scale
            arrays[f"{key}.input"] = np.array([source.quantization.scale[0], source.quantization.zeroPoint[0]])
interpreter = Interpreter(sys.argv[1])
interpreter.allocate_tensors()
outputs = []
for image in np.load(sys.argv[2]):
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image[None])
    interpreter.invoke()
    outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
np.savez(sys.argv[3], outputs=np.stack(outputs), **arrays)
"""


def form(size: int, *, int4: bool = False) -> ExportForm:
    return ExportForm(target=Target.LITERT, image_size=size, int4=int4)


@pytest.fixture(scope="module")
def exported(
    calibrated: Callable[[BitPolicy], Detector],
    manifest_of: Callable[[Detector, BitPolicy], StudentManifest],
    images: Tensor,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Detector, Path, dict[str, NDArray[Any]]]]:
    """The student of a policy, its file, and what is in it; made once for all tests."""
    made: dict[str, tuple[Detector, Path, dict[str, NDArray[Any]]]] = {}

    def run(name: str) -> tuple[Detector, Path, dict[str, NDArray[Any]]]:
        if name not in made:
            bits = POLICIES[name]
            student, folder = calibrated(bits), tmp_path_factory.mktemp("litert")
            path = folder / "model.tflite"
            graph = onnx.ModelProto()  # of no use to LiteRT
            traced = TracedStudent(student, manifest_of(student, bits), graph, (bits.weight_bits,), (8,), ())
            wanted = form(SIZE, int4=bits.weight_bits <= 4)
            export_student(traced, path, images, wanted)
            np.save(folder / "images.npy", images.numpy())
            arguments = [str(file) for file in (path, folder / "images.npy", folder / "read.npz")]
            subprocess.run(
                [str(PYTHON), "-c", READ, *arguments],
                check=True, cwd=folder, env={"PYTHONPATH": str(Path(export.__file__).parent)}, capture_output=True,
            )  # fmt: skip
            with np.load(folder / "read.npz") as arrays:
                made[name] = student, path, dict(arrays)
        return made[name]

    return run


@needs_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", POLICIES)
def test_every_layer_has_the_students_integers_and_step_sizes(
    name: str, exported: Callable[[str], tuple[Detector, Path, dict[str, NDArray[Any]]]]
) -> None:
    student, _, arrays = exported(name)
    stored = {}
    for key in range(sum(each.endswith(".integers") for each in arrays)):
        integers, steps = arrays[f"{key}.integers"], arrays[f"{key}.steps"]
        stored[steps.tobytes()] = (integers, arrays[f"{key}.input"])
    layers = quantized_layers(student.network)
    assert len(stored) == len(layers)
    for layer in layers.values():
        expected = export._layer_arrays(layer)
        integers, entering = stored[expected["steps"].tobytes()]
        order = (0, 2, 3, 1) if len(integers) == len(layer.weight) else (1, 2, 3, 0)
        assert (integers == np.maximum(expected["integers"], -127).transpose(order)).all()
        assert np.float32(entering[0]) == np.float32(expected["input"][0])
        assert entering[1] == expected["input"][1]


@needs_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", POLICIES)
def test_the_file_computes_what_the_student_computes(
    name: str, images: Tensor, exported: Callable[[str], tuple[Detector, Path, dict[str, NDArray[Any]]]]
) -> None:
    student, _, arrays = exported(name)
    mine = torch.from_numpy(arrays["outputs"])
    with torch.no_grad():
        theirs = student.decoded(images)
    best = theirs[:, 4:].amax(dim=1).topk(20).indices[:, None].expand(-1, theirs.shape[1], -1)
    mine, theirs = mine.gather(2, best), theirs.gather(2, best)
    assert (mine[:, :4] * SIZE - theirs[:, :4]).abs().mean() < 2  # pixels
    assert (mine[:, 4:] - theirs[:, 4:]).abs().mean() < 0.03


@needs_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", POLICIES)
def test_its_manifest_has_what_the_interpreter_measured(
    manifest_of: Callable[[Detector, BitPolicy], StudentManifest],
    name: str,
    teacher: Detector,
    images: Tensor,
    exported: Callable[[str], tuple[Detector, Path, dict[str, NDArray[Any]]]],
) -> None:
    student, path, arrays = exported(name)
    manifest = verify_onnx(path, manifest_of(student, POLICIES[name]))
    assert (manifest.target, manifest.fixed_size, manifest.opset) == (Target.LITERT, True, None)
    assert manifest.tools.keys() == {"litert-torch", "ai-edge-litert"}
    assert manifest.int4 == (name == "W4A8")
    assert (manifest.parity.images, manifest.parity.image_source) == (4, "calibration set")
    assert manifest.parity.score_mean < 0.01
    assert manifest.census.by == f"litert {manifest.tools['ai-edge-litert']}, the operators of its interpreter"
    decoded = {layer.name for layer in manifest.census.float_layers if layer.reason == OUTPUT_IN_FLOAT}
    assert decoded == set(teacher.output_layers())
    in_integers = manifest.census.integer["CONV_2D"] + manifest.census.integer.get("DEPTHWISE_CONV_2D", 0)
    assert in_integers == len(quantized_layers(student.network)) - len(decoded)

    outputs = open_engine(path, "litert", threads=1)(images.numpy())
    assert np.array_equal(outputs[:, 4:], arrays["outputs"][:, 4:])
    assert np.array_equal(outputs[:, :4], arrays["outputs"][:, :4] * SIZE)


@needs_converter
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_file_says_what_it_is_and_int4_is_smaller(
    exported: Callable[[str], tuple[Detector, Path, dict[str, NDArray[Any]]]],
) -> None:
    _, path, _ = exported("W8A8")
    with zipfile.ZipFile(path) as archive:
        metadata = json.loads(archive.read("metadata.json"))
    assert metadata["zsq_bits"] == "PTQ W8A8 deploy"
    assert "'dynamic': False" in metadata["args"]
    assert exported("W4A8")[1].stat().st_size < 0.8 * path.stat().st_size


def test_without_its_environment_one_line_says_how_to_make_it(
    manifest_of: Callable[[Detector, BitPolicy], StudentManifest],
    calibrated: Callable[[BitPolicy], Detector],
    images: Tensor,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    student = calibrated(BitPolicy())
    with pytest.raises(ConfigError, match=r"set ZSQ_LITERT_PYTHON to .*requirements\.txt"):
        export_litert(student, manifest_of(student, BitPolicy()), tmp_path / "m", images.numpy(), form(SIZE))


@pytest.mark.parametrize(
    ("bits", "size", "said"),
    [
        (BitPolicy(activation_bits=6), SIZE, "8 bits, the input of .* has 6"),
        (BitPolicy(), SIZE + 1, "image_size: got 161, the network takes multiples of 32"),
    ],
)
def test_what_litert_cannot_express_is_refused(
    manifest_of: Callable[[Detector, BitPolicy], StudentManifest],
    bits: BitPolicy, size: int, said: str, calibrated: Callable[[BitPolicy], Detector], images: Tensor,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(ENVIRONMENT, "python")
    student = calibrated(bits)
    with pytest.raises(ConfigError, match=said):
        export_litert(student, manifest_of(student, bits), tmp_path / "m", images.numpy(), form(size))


@pytest.mark.parametrize(
    ("python", "error", "said"),
    [("/nowhere/python", ConfigError, "does not run"), ("/bin/false", VerificationError, "converter failed")],
)
def test_a_converter_that_fails_is_one_line_and_no_file(
    manifest_of: Callable[[Detector, BitPolicy], StudentManifest],
    python: str, error: type[Exception], said: str, calibrated: Callable[[BitPolicy], Detector], images: Tensor,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv(ENVIRONMENT, python)
    student = calibrated(BitPolicy())
    with pytest.raises(error, match=said):
        export_litert(student, manifest_of(student, BitPolicy()), tmp_path / "m", images.numpy(), form(SIZE))
    assert not list(tmp_path.iterdir())
