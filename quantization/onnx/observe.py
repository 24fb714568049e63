"""Values inside an exported model, seen on calibration images."""

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray

from quantization.calibrate import HistogramObserver
from quantization.onnx.names import INPUT


def observe(model: onnx.ModelProto, names: Sequence[str], images: NDArray[np.float32]) -> dict[str, HistogramObserver]:
    """Histograms of float tensors over images, one observer a name.

    Args:
        model: that computes them; it stays as it is.
        names: of tensors in its graph.
        images: `(B, 3, H, W)`; they are run one by one, so that memory does not grow with their number.
    """
    if not names:
        return {}
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    observers = [HistogramObserver() for _ in names]
    for _ in ("ranges", "histograms"):
        for image in images:
            for observer, value in zip(observers, session.run(list(names), {INPUT: image[None]}), strict=True):
                observer.observe(torch.from_numpy(value))
        for observer in observers:
            observer.finish_pass()
    return dict(zip(names, observers, strict=True))
