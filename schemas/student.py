"""The student: a folder with `model.safetensors`, `student.json`, and `model.<target>.onnx` or `.tflite` by target."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from schemas.base import Contract, Document
from schemas.calibration_set import ImageSource, LabelMode
from schemas.image_size import LARGEST_SIDE, SMALLEST_SIDE, ImageSize, Sides
from schemas.operating_point import MatchedThreshold
from schemas.planned_bits import SAFE_BITS
from schemas.provenance import Provenance
from schemas.qat_config import BitPolicy, QatConfig
from schemas.target import Census, Target, exported_path
from schemas.teacher import TeacherIdentity

MANIFEST = "student.json"
WEIGHTS = "model.safetensors"
PTQ_FOLDER = "ptq"
"""Sub-folder of a trained student that holds the same student before training."""


class TrainingMethod(StrEnum):
    """How far the student was taken."""

    PTQ = "PTQ"
    QAT = "QAT"


class QuantizerRecord(Contract):
    """One quantizer of the student."""

    name: str = Field(
        description="module path of a layer, then `.weight` or `.input`, or of a product, then `.left` or `.right`"
    )
    bits: int = Field(ge=2, le=8)
    granularity: Literal["per_tensor", "per_channel"]
    scheme: Literal["symmetric", "affine"]
    signed: bool = Field(description="integer range: signed -2^(b-1) to 2^(b-1)-1, unsigned 0 to 2^b-1")
    reduced_range: bool = Field(default=False, description="8 bits that use the values of 7, -64 to 63")
    observer: Literal["squared_error"] = "squared_error"


class CalibrationSetReference(Contract):
    """The set a student was made with."""

    digest: str
    samples: int
    image_size: Annotated[ImageSize, Sides()]
    label_mode: LabelMode
    image_source: ImageSource
    teacher_sha256: str | None = Field(
        default=None, description="digest of the checkpoint that it was made from; null: not recorded"
    )


class TrainingDecision(Contract):
    """How far the calibrated student was from its teacher, which decided whether it is trained."""

    divergence: float = Field(
        ge=0, description="KL of the head's outputs per unit of foreground, nats, mean over images of the set"
    )
    images: int = Field(ge=1)
    enough: float = Field(ge=0, description="up to here there is no training")

    @property
    def is_enough(self) -> bool:
        """Whether the student is left as it was calibrated."""
        return self.divergence <= self.enough


class TrainingComparison(Contract):
    """How far the trained student and the calibrated one are from their teacher, which decided which one is kept."""

    trained: float = Field(ge=0, description="KL of the head's outputs per unit of foreground, nats, mean over images")
    calibrated: float = Field(ge=0, description="the same of the student before training")
    images: int = Field(ge=1)
    held_back: bool = Field(description="whether the images are held back; else they are those of the set")

    @property
    def calibrated_is_better(self) -> bool:
        """Whether training ended further from the teacher than it began."""
        return self.calibrated < self.trained


class TrainingSummary(Contract):
    """What happened in training."""

    steps: int = Field(ge=0)
    seconds: float = Field(ge=0)
    first_loss: float | None
    last_loss: float | None = Field(description="mean over the last tenth of the steps")
    losses: tuple[float, ...] = Field(default=(), description="total loss of every step")
    decision: TrainingDecision | None = Field(default=None, description="where `qat.steps` is auto")
    comparison: TrainingComparison | None = Field(default=None, description="where `qat.keep_better` is set")

    @property
    def is_of_trained(self) -> bool:
        """Whether the student is the trained one."""
        return self.steps > 0 and not (self.comparison is not None and self.comparison.calibrated_is_better)


class StudentManifest(Document):
    """`student.json`; written last."""

    teacher: TeacherIdentity
    method: TrainingMethod
    bits: BitPolicy
    quantizers: tuple[QuantizerRecord, ...]
    calibration_set: CalibrationSetReference
    qat: QatConfig
    training: TrainingSummary
    weights_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    export_obstacle: str | None = Field(default=None, description="why it cannot be exported; null where it can")
    provenance: Provenance

    @property
    def recorded_bits(self) -> BitPolicy:
        """Its bits; students that were made before ranges could be reduced do not say that theirs are not."""
        weights = [quantizer for quantizer in self.quantizers if quantizer.name.endswith(".weight")]
        if any(quantizer.bits > SAFE_BITS and not quantizer.reduced_range for quantizer in weights):
            return self.bits.model_copy(update={"reduce_range": False})
        return self.bits


class OnnxParity(Contract):
    """How far the exported model's outputs are from those of the student that training simulated, before NMS."""

    images: int = Field(ge=1)
    image_source: Literal["calibration set", "noise"] = Field(description="noise: exported without the set at hand")
    score_max: float = Field(ge=0, description="largest absolute error of a class score, of at most 1")
    score_mean: float = Field(ge=0, description="mean absolute error of class scores")
    box_max: float = Field(ge=0, description="largest absolute error of a box value, pixels")
    box_mean: float = Field(ge=0, description="mean absolute error of box values, pixels")
    matched: float = Field(ge=0, le=1, description="share of outputs that could be compared; 1 unless end to end")
    further: float | None = Field(
        default=None,
        ge=0,
        description="mean error of what a head gives beside boxes and scores (mask coefficients and prototypes, "
        "keypoints, angles), as a share of these values; left out where it gives no more",
    )


class OnnxManifest(Document):
    """`model.<target>.onnx.json` or `model.litert.tflite.json`, beside the exported model; written last."""

    file: str
    target: Target = Field(description="engine that the file is for")
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    bytes: int = Field(ge=1)
    opset: int | None = Field(default=None, ge=21, description="of an ONNX model; null: another format")
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE, LARGEST_SIDE)] = Field(
        description="what outputs were compared at: pixels of a side of a square, or [height, width]"
    )
    fixed_size: bool = Field(default=False, description="it takes one image, of that size; else any number and size")
    student_sha256: str = Field(description="`weights_sha256` of the student it was exported from")
    bits: BitPolicy
    weight_tensors: dict[str, int] = Field(description="number of quantized weight tensors by bits")
    activation_tensors: dict[str, int] = Field(description="number of quantized activations by bits")
    float_layers: tuple[str, ...] = Field(description="convolutions and linear layers left in float, by module name")
    int4: bool = Field(description="weights of up to 4 bits are stored as INT4, else in INT8")
    parity: OnnxParity
    census: Census
    onnx_version: str | None = Field(default=None, description="null: another format")
    onnxruntime_version: str | None = Field(default=None, description="null: another format")
    tools: dict[str, str] = Field(default={}, description="versions of what made another format, by name")
    thresholds: tuple[MatchedThreshold, ...] = Field(
        default=(), description="confidence thresholds that an evaluation found; in the metadata of ONNX models too"
    )
    exported_sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="of the file before thresholds were written; null: as it is"
    )
    provenance: Provenance

    @property
    def computes(self) -> str:
        """Digest of the file as it was exported: thresholds in its metadata change no output."""
        return self.exported_sha256 or self.sha256

    def to_json(self) -> str:
        """See `Contract.to_json`; without `parity.further` where the head gives boxes alone."""
        absent = {"parity": {"further"}} if self.parity.further is None else None
        return self.model_dump_json(indent=2, exclude=absent) + "\n"


def onnx_manifest_path(model: Path) -> Path:
    """Where the manifest of an exported model lies: `model.openvino.onnx.json` for `model.openvino.onnx`."""
    return model.with_name(f"{model.name}.json")


def is_exported(folder: Path, target: Target) -> bool:
    """Whether a student's folder holds the file for a target, with its manifest."""
    path = exported_path(folder, target)
    return path.exists() and onnx_manifest_path(path).exists()


class ExportForm(Contract):
    """What is asked of an exported file."""

    target: Target
    image_size: Annotated[ImageSize, Sides()] = Field(
        description="what outputs are compared at: pixels of a side of a square, or [height, width]"
    )
    int4: bool = Field(default=False, description="store weights of up to 4 bits as INT4")


def export_provenance(student: StudentManifest, form: ExportForm) -> Provenance:
    """What decides an exported model; images, where a target takes any, are of the student's calibration set."""
    return Provenance.of("export", form.model_dump(mode="json"), {"student": student.weights_sha256})
