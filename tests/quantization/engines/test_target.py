"""Every target has an engine that says what it is; settings refuse what a target cannot express."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from pipeline.cli import app
from quantization.engines.openvino import ENGINE as OPENVINO
from quantization.engines.target import engine_target
from quantization.onnx.activations import Grid, put_in_activation, take_out_activations
from quantization.onnx.export import TracedStudent
from schemas.errors import ConfigError
from schemas.qat_config import BitPolicy, QatConfig, Quantizer
from schemas.target import Target
from stages.options import read_stage_config


@pytest.mark.parametrize("target", Target)
def test_every_target_has_an_engine_that_describes_itself(target: Target) -> None:
    engine = engine_target(target)
    assert engine.title and engine.placement and engine.measured


def test_the_command_lists_every_target() -> None:
    result = CliRunner().invoke(app, ["targets"])
    assert result.exit_code == 0
    assert all(target.value in result.output for target in Target)


def settings(*assignments: str) -> QatConfig:
    return read_stage_config("qat", QatConfig, None, None, list(assignments))


def test_targets_are_those_of_the_engines_that_most_people_run() -> None:
    assert settings().targets == (Target.ONNXRUNTIME, Target.OPENVINO)
    assert settings("targets=[]").targets == ()
    assert settings("targets=[openvino, openvino]").targets == (Target.OPENVINO,)


def test_tensorrt_as_a_target_chooses_the_quantizer_that_it_takes() -> None:
    assert settings("targets=[tensorrt]").bits.activation_quantizer is Quantizer.LSQ
    assert settings().bits.activation_quantizer is Quantizer.LSQ_PLUS


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (("targets=[coreml]",), "got 'coreml', should be 'onnxruntime', 'openvino', 'tensorrt'"),
        (("targets=[tensorrt]", "bits.quantizer=lsq+"), "tensorrt takes no zero points"),
        (("targets=[tensorrt]", "bits.activation_bits=6"), "onnxruntime, openvino and generic take 2 to 8"),
    ],
)
def test_what_a_target_cannot_do_is_one_line(assignments: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace("+", r"\+")):
        settings(*assignments)


def test_what_is_exported_beside_a_student_does_not_change_it() -> None:
    assert settings().keyed() == settings("targets=[generic]").keyed()
    assert settings().keyed() != settings("targets=[tensorrt]").keyed()  # its quantizer is another


def test_openvino_runs_nearly_every_layer_in_integers(
    traced: Callable[[BitPolicy], TracedStudent], tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    path = tmp_path / "model.onnx"
    onnx.save(OPENVINO.place(traced(BitPolicy()).model, None), path)
    census = OPENVINO.census(path)
    assert census.integer["Convolution"] > 30
    assert len(census.float_layers) < 5
    assert census.by.startswith("openvino ")


def test_grids_keep_their_values_when_integers_lose_their_sign() -> None:
    signed = Grid.of_bits(0.1, -3, 6, signed=True)
    unsigned = signed.as_unsigned()
    assert (unsigned.zero, unsigned.lowest, unsigned.highest) == (125, 96, 159)
    assert unsigned.bits == signed.bits == 6
    assert not signed.fills_storage and Grid.of_bits(0.1, 0).fills_storage


def test_quantizers_taken_out_and_put_in_again_compute_the_same(
    traced: Callable[[BitPolicy], TracedStudent], pixels: NDArray[np.float32]
) -> None:
    import onnx_ir as ir
    import onnxruntime

    def outputs(model: onnx.ModelProto) -> NDArray[np.float32]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        found: NDArray[np.float32] = session.run(None, {"images": pixels})[0]
        return found

    model = traced(BitPolicy(weight_bits=6, activation_bits=6)).model
    changed = ir.from_proto(model)
    demands = take_out_activations(changed.graph)
    assert len(demands) == len(traced(BitPolicy(weight_bits=6, activation_bits=6)).activation_bits)
    assert {demand.grid.bits for demand in demands} == {6, 8}
    for number, demand in enumerate(demands):
        value = put_in_activation(changed.graph, demand.value, demand.grid, f"again_{number}", clip=True)
        demand.node.replace_input_with(demand.index, value)
    assert np.array_equal(outputs(ir.to_proto(changed)), outputs(model))
