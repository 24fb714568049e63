"""Every YOLO generation of the library exports, with either head where it has two."""

from pathlib import Path

import pytest
import torch
from ultralytics.nn.tasks import yaml_model_load

from detectors.ultralytics.yolo import UltralyticsDetector
from quantization.calibrate import calibrate
from quantization.convert import make_student
from quantization.onnx.graph import to_onnx, write_onnx
from quantization.onnx.parity import measure_parity
from quantization.onnx.quantizers import replace_quantizers
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy
from schemas.teacher import TeacherIdentity

SIZE = 160


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "end_to_end"),
    [
        ("yolov5n.yaml", False),
        ("yolov8n.yaml", False),
        ("yolov9t.yaml", False),
        ("yolov10n.yaml", False),
        ("yolov10n.yaml", True),
        ("yolo11n.yaml", False),
        ("yolo12n.yaml", False),
        ("yolo26n.yaml", False),
        ("yolo26n.yaml", True),
    ],
)
def test_the_exported_student_agrees_with_the_simulated_one(
    architecture: str, end_to_end: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    identity = TeacherIdentity(
        family="ultralytics", architecture=yaml_model_load(architecture) | {"nc": 3}, sha256="0" * 64,
        class_names=("a", "b", "c"), input_size=SIZE, stride=32,
    )  # fmt: skip
    detector = UltralyticsDetector.build(identity)
    detector.network.train()
    with torch.no_grad():
        detector.network(torch.rand(4, 3, 64, 64))
    detector.network.eval()
    detector.network.end2end = end_to_end
    images = torch.rand(2, 3, SIZE, SIZE)
    student = make_student(detector, BitPolicy(weight_bits=6))
    calibrate(student.network, lambda: [images], student.head_outputs)

    network = student.deployed()
    replace_quantizers(network)
    write_onnx(
        to_onnx(network, identity.stride, student.deployment_metadata(ImageSize.square(SIZE))), tmp_path / "model.onnx"
    )

    assert student.end_to_end is end_to_end
    parity = measure_parity(student, tmp_path / "model.onnx", images, ImageSize.square(SIZE))
    assert parity.matched == 1
    assert parity.score_mean < 1e-3
    assert parity.box_mean < 0.5
