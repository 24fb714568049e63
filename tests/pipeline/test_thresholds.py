"""Thresholds go into the metadata of a file, and nothing else of it changes."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from pipeline.thresholds import write_thresholds
from quantization.engines.metadata import write_thresholds as write_metadata
from schemas.errors import InputError, VerificationError
from schemas.evaluation import EvalReport
from schemas.operating_point import MatchedThreshold, OperatingPoint
from schemas.qat_config import BitPolicy
from schemas.student import OnnxManifest, OnnxParity, onnx_manifest_path
from schemas.target import Census, Target, exported_path
from stages.stage import Stage
from stages.storage import file_digest, write_text
from tests.eval_job.report.conftest import model


def matched(threshold: float | None) -> MatchedThreshold:
    def point(at: float) -> OperatingPoint:
        return OperatingPoint(threshold=at, recall=0.7, precision=0.8, boxes=10)

    return MatchedThreshold(
        by="recall",
        full_precision=point(0.25),
        unchanged=point(0.25),
        matched=None if threshold is None else point(threshold),
    )


@pytest.fixture
def student(tmp_path: Path) -> Path:
    """A folder with an exported file and its manifest."""
    node = helper.make_node("Relu", ["images"], ["output0"])
    images, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("images", "output0"))
    made = helper.make_model(helper.make_graph([node], "g", [images], [output]))
    helper.set_model_props(made, {"stride": "32", "zsq_version": "0"})
    folder = tmp_path / "student"
    folder.mkdir()
    path = exported_path(folder, Target.ONNXRUNTIME)
    path.write_bytes(made.SerializeToString(deterministic=True))
    manifest = OnnxManifest(
        file=path.name, target=Target.ONNXRUNTIME, sha256=file_digest(path), bytes=path.stat().st_size, opset=21,
        image_size=64, student_sha256="b" * 64, bits=BitPolicy(), weight_tensors={}, activation_tensors={},
        float_layers=(), int4=False, census=Census(by="x", integer={}, floating={}, float_layers=()),
        parity=OnnxParity(
            images=1, image_source="noise", score_max=0, score_mean=0, box_max=0, box_mean=0, matched=1
        ),
        provenance={"stage": "export", "key": "k", "config": {}, "inputs": {}, "code_version": "0",
                    "created": datetime.now(UTC)},
    )  # fmt: skip
    write_text(onnx_manifest_path(path), manifest.to_json())
    return folder


def evaluation(tmp_path: Path, sha256: str, *thresholds: MatchedThreshold) -> Path:
    row = model("PTQ W8A8 deploy, onnxruntime", sha256, 0.4, {"cat": 0.4}).model_copy(
        update={"target": Target.ONNXRUNTIME, "thresholds": thresholds}
    )
    values: dict[str, Any] = {
        "data": {"source": "val", "format": "coco", "digest": "d", "images": 1, "boxes": 1, "image_size": 64},
        "models": [row.model_dump(mode="json")],
        "eval": {},
        "provenance": {"stage": "eval", "key": "k", "config": {}, "inputs": {}, "code_version": "0",
                       "created": "2026-01-02T03:04:05Z"},
    }  # fmt: skip
    report = EvalReport.model_validate_json(json.dumps(values))
    write_text(tmp_path / "eval" / "report.json", report.to_json())
    return tmp_path / "eval"


def props(path: Path) -> dict[str, str]:
    return {each.key: each.value for each in onnx.load(path).metadata_props}


def test_thresholds_are_in_the_metadata_and_the_file_is_still_the_one_that_was_evaluated(
    student: Path, tmp_path: Path
) -> None:
    path = exported_path(student, Target.ONNXRUNTIME)
    before, exported = path.read_bytes(), file_digest(path)
    write_thresholds(student, evaluation(tmp_path, exported, matched(0.2312)), Stage("export"))

    assert props(path) == {"stride": "32", "zsq_version": "0", "zsq_confidence_0.25_recall": "0.2312"}
    manifest = OnnxManifest.read(onnx_manifest_path(path))
    assert manifest.sha256 == file_digest(path) != exported
    assert (manifest.computes, manifest.bytes) == (exported, path.stat().st_size)
    assert manifest.thresholds[0].matched is not None

    write_metadata(path, tmp_path / "without.onnx", ())
    assert (tmp_path / "without.onnx").read_bytes() == before

    write_thresholds(student, evaluation(tmp_path, exported, matched(None)), Stage("export"))
    assert props(path) == {"stride": "32", "zsq_version": "0"}


def test_the_same_thresholds_are_not_written_twice(student: Path, tmp_path: Path) -> None:
    path = exported_path(student, Target.ONNXRUNTIME)
    folder = evaluation(tmp_path, file_digest(path), matched(0.2))
    write_thresholds(student, folder, Stage("export"))
    first = path.stat().st_mtime_ns
    write_thresholds(student, folder, Stage("export"))
    assert path.stat().st_mtime_ns == first


def test_an_evaluation_of_another_file_changes_nothing(student: Path, tmp_path: Path) -> None:
    before = exported_path(student, Target.ONNXRUNTIME).read_bytes()
    write_thresholds(student, evaluation(tmp_path, "f" * 64, matched(0.2)), Stage("export"))
    assert exported_path(student, Target.ONNXRUNTIME).read_bytes() == before


def test_a_damaged_file_and_a_missing_evaluation_are_refused(student: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no finished evaluation here"):
        write_thresholds(student, tmp_path / "nothing", Stage("export"))
    path = exported_path(student, Target.ONNXRUNTIME)
    folder = evaluation(tmp_path, file_digest(path), matched(0.2))
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(VerificationError, match="does not match its digest"):
        write_thresholds(student, folder, Stage("export"))
