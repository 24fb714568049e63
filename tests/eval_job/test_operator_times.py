"""What the engines' own profilers say of a small model."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from eval_job.operator_times import operator_times
from quantization.onnx.engine import installed_engines


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two convolutions, and a Softmax between them."""
    weight = numpy_helper.from_array(np.ones((3, 3, 3, 3), dtype=np.float32), "w")
    nodes = [
        helper.make_node("Conv", ["images", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Softmax", ["a"], ["b"], axis=1),
        helper.make_node("Conv", ["b", "w"], ["output0"], pads=[1, 1, 1, 1]),
    ]
    images, output = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 64, 64]) for name in ("images", "output0")
    )
    graph = helper.make_graph(nodes, "g", [images], [output], [weight])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.mark.parametrize("engine", [each for each in installed_engines() if each != "litert"])
def test_time_is_told_by_kind_most_first(model: Path, engine: str) -> None:
    times = operator_times(model, engine, np.zeros((1, 3, 64, 64), dtype=np.float32))
    assert all(each.milliseconds >= 0 for each in times)
    assert [each.milliseconds for each in times] == sorted((each.milliseconds for each in times), reverse=True)
    convolutions = [each for each in times if each.kind.startswith(("Conv", "FusedConv"))]
    assert sum(each.count for each in convolutions) == 2
    assert {each.where for each in convolutions} == {"float"}


def test_an_engine_that_does_not_tell_gives_nothing(model: Path) -> None:
    assert operator_times(model, "litert", np.zeros((1, 3, 64, 64), dtype=np.float32)) == ()
