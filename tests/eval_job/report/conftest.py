"""Artifacts of a whole run, written by hand: nothing is trained, nothing is evaluated."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from schemas.calibration_set import AveragePrecision, CalibrationSetManifest, ImageSource, LabelMode
from schemas.eval_config import EvalConfig
from schemas.evaluation import (
    EvalReport,
    EvaluatedModel,
    Interval,
    Latency,
    PrecisionRecall,
    SampleBox,
    SamplePicture,
    Uncertainty,
    ValidationData,
)
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, Policy, QatConfig
from schemas.sensitivity import ErrorAtBits, LayerSensitivity, SensitivityReport
from schemas.student import (
    CalibrationSetReference,
    QuantizerRecord,
    StudentManifest,
    TrainingMethod,
    TrainingSummary,
)
from schemas.target import Target
from stages.storage import file_digest, write_text

LAYERS = ("model.0.conv", "model.1.conv", "model.2.cv1.conv")
BITS = BitPolicy(weight_bits=4)
TIME = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
FULL, PTQ, QAT = "full precision", "PTQ W4A8 deploy", "QAT W4A8 deploy"


@dataclass(frozen=True)
class Run:
    """Where the artifacts lie, and the evaluation itself."""

    evaluation: Path
    student: Path
    calibration_set: Path
    report: EvalReport


@pytest.fixture
def run(tmp_path: Path, make_calibration_set: Callable[[Path], CalibrationSetManifest]) -> Run:
    """A run with a trained student, its state before, and six calibration images of cats and dogs."""
    manifest = make_calibration_set(tmp_path / "calibration")
    student = tmp_path / "student"
    before = _write_student(student / "ptq", manifest, TrainingMethod.PTQ, 1.0)
    after = _write_student(student, manifest, TrainingMethod.QAT, 1.25)
    evaluation = tmp_path / "eval"
    report = EvalReport(
        data=ValidationData(source="val", format="coco", digest="d" * 64, images=128, boxes=300, image_size=64),
        models=(
            model(FULL, "a" * 64, 0.5, {"cat": 0.6, "dog": 0.4}),
            model(PTQ, before.weights_sha256, 0.1, {"cat": 0.1, "dog": 0.1}),
            model(QAT, after.weights_sha256, 0.45, {"cat": 0.6, "dog": 0.3}),
        ),
        detection_statistics=manifest.statistics,
        samples=(_write_sample(evaluation / "samples" / "0001.jpg"),),
        eval=EvalConfig(),
        provenance=_provenance("eval"),
    )
    write_text(evaluation / "report.json", report.to_json())
    return Run(evaluation, student, tmp_path / "calibration", report)


def model(name: str, sha256: str, precision: float, per_class: dict[str, float]) -> EvaluatedModel:
    trained = name != FULL
    curve = tuple(np.linspace(1, 0, 101).tolist())
    bits = name.partition(" ")[2]
    return EvaluatedModel(
        name=name,
        weights_sha256=sha256,
        bits=bits if trained else None,
        calibrated=PTQ if name == QAT else None,
        label_mode=LabelMode.SAMPLED if trained else None,
        image_source=ImageSource.SYNTHESIZED if trained else None,
        precision=AveragePrecision(
            map50_95=precision,
            map50=precision,
            map75=precision,
            map_small=-1,
            map_medium=precision,
            map_large=precision,
        ),
        share_of_full_precision=precision / 0.5,
        per_class=per_class,
        seconds_per_image=0.01,
        precision_recall=PrecisionRecall(iou50=curve, iou50_95=curve),
        uncertainty=Uncertainty(
            map50_95=Interval(low=precision - 0.02, high=precision + 0.02),
            share=Interval(low=0.85, high=0.93) if trained else None,
            resamples=200,
        ),
    )


@pytest.fixture
def exported(run: Run) -> EvalReport:
    """The evaluation of the run with an exported row, its size and its latencies."""
    report = run.report
    times = [
        Latency(engine="onnxruntime CPU", threads=n, median_ms=8.5 / n, p95_ms=9.0, repetitions=50) for n in (1, 2)
    ]
    exported = report.models[2].model_copy(
        update={
            "name": f"{QAT}, onnxruntime",
            "student": QAT,
            "target": Target.ONNXRUNTIME,
            "engine": "onnxruntime CPU",
            "weights_sha256": "e" * 64,
            "file_bytes": 2_900_000,
            "latencies": tuple(times),
        }
    )
    return report.model_copy(update={"models": (*report.models, exported)})


@pytest.fixture
def sensitivity(run: Run) -> SensitivityReport:
    """Three layers, the second suffers most; stored where the report looks for it."""
    manifest = StudentManifest.read(run.student / "student.json")
    report = SensitivityReport(
        teacher=manifest.teacher,
        calibration_set=manifest.calibration_set,
        policy=Policy.DEPLOY,
        images=6,
        metric="relative squared error of features",
        provenance=_provenance("qat"),
        layers=tuple(
            LayerSensitivity(
                name=name,
                weights=432,
                errors=(ErrorAtBits(weight_bits=2, error=error), ErrorAtBits(weight_bits=4, error=error / 10)),
            )
            for name, error in zip(LAYERS, (0.2, 0.9, 0.01), strict=True)
        ),
    )
    write_text(run.student / "sensitivity.json", report.to_json())
    return report


def _provenance(stage: str) -> Provenance:
    return Provenance.model_validate(
        {"stage": stage, "key": "k", "config": {}, "inputs": {}, "code_version": "0.1.0", "created": TIME}
    )


def _write_student(
    folder: Path, calibration_set: CalibrationSetManifest, method: TrainingMethod, step: float
) -> StudentManifest:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"{name}.{role}_quantizer.step_size": np.float32(step * 10.0**-number) * np.ones(width, dtype=np.float32)
        for number, name in enumerate(LAYERS)
        for role, width in (("weight", 4), ("input", 1))
    }
    save_file(tensors, folder / "model.safetensors")
    trained = method is TrainingMethod.QAT
    manifest = StudentManifest(
        teacher=calibration_set.teacher,
        method=method,
        bits=BITS,
        quantizers=tuple(
            QuantizerRecord(name=f"{name}.{role}", bits=bits, granularity=granularity, scheme=scheme, signed=True)
            for name in LAYERS
            for role, bits, granularity, scheme in (
                ("weight", 4, "per_channel", "symmetric"),
                ("input", 8, "per_tensor", "affine"),
            )
        ),  # type: ignore[arg-type]
        calibration_set=CalibrationSetReference(
            digest=calibration_set.digest, samples=6, image_size=32,
            label_mode=LabelMode.SAMPLED, image_source=ImageSource.SYNTHESIZED,
        ),
        qat=QatConfig(bits=BITS, steps=40, seed=3),
        training=TrainingSummary(
            steps=40 if trained else 0,
            seconds=75.0 if trained else 0.0,
            first_loss=4.0 if trained else None,
            last_loss=1.0 if trained else None,
            losses=tuple(4.0 - 3.0 * k / 39 for k in range(40)) if trained else (),
        ),
        weights_sha256=file_digest(folder / "model.safetensors"),
        provenance=_provenance("qat"),
    )  # fmt: skip
    write_text(folder / "student.json", manifest.to_json())
    return manifest


def _write_sample(path: Path) -> SamplePicture:
    path.parent.mkdir(parents=True)
    Image.new("RGB", (80, 60), (90, 140, 60)).save(path)
    cat = SampleBox(bbox=(5.0, 5.0, 30.0, 30.0), class_name="cat", score=0.9)
    dog = SampleBox(bbox=(45.0, 20.0, 30.0, 30.0), class_name="dog", score=0.6)
    return SamplePicture(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        width=80,
        height=60,
        labels=(cat.model_copy(update={"score": 1.0}),),
        detections={FULL: (cat, dog), PTQ: (), QAT: (cat,)},
    )
