"""Configuration of stage 2, quantization-aware training. All defaults live here."""

from enum import StrEnum
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, ValidatorFunctionWrapHandler, field_validator, model_validator

from schemas.base import Contract
from schemas.planned_bits import ALL_WIDTHS, STORED_WIDTHS, Bits, SensitivityConfig
from schemas.target import Target
from schemas.teacher import TeacherSource
from schemas.training_terms import AugmentationConfig, DistillationWeights


class Quantizer(StrEnum):
    """Which learned quantizer."""

    LSQ = "lsq"
    """Learned step size, symmetric (arXiv 1902.08153)."""
    LSQ_PLUS = "lsq+"
    """Learned step size and zero point on activations (arXiv 2004.09576)."""


class Policy(StrEnum):
    """What is quantized, and how."""

    PAPER = "paper"
    """Per-tensor symmetric; first layer and detection head in float; batch norm kept apart (arXiv 2507.16782)."""
    DEPLOY = "deploy"
    """Batch norm folded; per-channel symmetric weights, per-tensor activations; head quantized up to its output
    convolutions; those and the first layer at 8 bits; DFL and box decoding in float."""


class BitPolicy(Contract):
    """Bits and policy; always named in a result."""

    policy: Policy = Policy.DEPLOY
    weight_bits: Bits = 8
    activation_bits: Bits = 8
    layers: dict[str, Bits] = Field(
        default={}, description="weight bits of single layers by module name (mixed precision); others: weight_bits"
    )
    mean_weight_bits: float | None = Field(
        default=None,
        ge=2,
        le=8,
        description="of a mixed-precision student, over all weights that are quantized; written by qat, set null",
    )
    quantizer: Quantizer | None = Field(default=None, description="null: lsq+ for deploy, lsq for paper")
    reduce_range: bool | None = Field(
        default=None,
        description="whether weights of 8 bits use the values of 7, whose sums overflow on no processor (x86 without "
        "VNNI adds products of 8 bits in 16); null: false for paper, and where all targets add in 32 bits (tensorrt, "
        "litert); else true",
    )

    @property
    def name(self) -> str:
        """Short name: `W4A8 deploy`, or with the mean over all quantized weights `W4.05A8 deploy mixed`."""
        if not self.layers:
            return f"W{self.weight_bits}A{self.activation_bits} {self.policy.value}"
        mean = "?" if self.mean_weight_bits is None else f"{self.mean_weight_bits:.2f}"
        return f"W{mean}A{self.activation_bits} {self.policy.value} mixed"

    @property
    def activation_quantizer(self) -> Quantizer:
        """The quantizer in use for activations."""
        if self.quantizer is not None:
            return self.quantizer
        return Quantizer.LSQ if self.policy is Policy.PAPER else Quantizer.LSQ_PLUS

    @property
    def reduces_range(self) -> bool:
        """Whether weights of 8 bits use the values of 7, the default resolved."""
        return self.policy is Policy.DEPLOY if self.reduce_range is None else self.reduce_range


RATE_AT_4_BITS = 2e-4
"""Default learning rate of weights at 4 bits."""
EIGHT_BITS = (Target.TENSORRT, Target.LITERT)
"""Targets whose activations have 8 bits."""
WIDE_SUMS = (Target.TENSORRT, Target.LITERT)
"""Targets that add products in 32 bits on every processor; others do not on x86 without VNNI."""
BIAS_RATE = 20
"""Default learning rate of biases, relative to that of weights."""
TRAINING_STEPS = 250
"""Optimiser steps of `auto`, where it trains."""
ENOUGH_DIVERGENCE = 0.05
"""Output divergence of the calibrated student on the set up to which `auto` leaves out the training. YOLO11n at 320 px:
W8A8 0.025 (all of its mAP), W8A6 0.12 and W6A6 more, so that these are trained."""


class QatConfig(Contract):
    """Stage 2: a student from a teacher and a calibration set."""

    teacher: TeacherSource = TeacherSource()
    bits: BitPolicy = BitPolicy()
    sensitivity: SensitivityConfig | None = Field(
        default=None, description="measure each layer's sensitivity first; with a target, plan mixed precision from it"
    )
    allow_other_teacher: bool = Field(
        default=False, description="take a calibration set that was made from other weights with the same classes"
    )
    ptq_only: bool = Field(default=False, description="stop after calibration: post-training quantization")
    steps: Annotated[int, Field(ge=1, le=10_000_000)] | Literal["auto"] = Field(
        default="auto",
        description=f"optimiser steps; auto: {TRAINING_STEPS}, or none where the calibrated student's outputs diverge "
        f"from the teacher's on the set by at most {ENOUGH_DIVERGENCE:g} (KL per unit of foreground), as at 8 bits",
    )
    batch: int = Field(default=8, ge=1, le=1024, description="images per step")
    learning_rate: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Adam on weights, where they learn, cosine decay; null: 2e-4 at 4 bits, halved by each further "
        "bit; paper 1e-5",
    )
    bias_learning_rate: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Adam on biases of quantized layers, which are not rounded; null: 20 times learning_rate",
    )
    step_size_learning_rate: float = Field(
        default=1e-3, ge=0, le=1, description="Adam on step sizes and zero points, relative to each initial step size"
    )
    calibration_images: int = Field(default=128, ge=1, description="at most this many images initialise step sizes")
    correction_images: int = Field(
        default=32, ge=0, description="images that layer outputs are corrected on after calibration; 0: no correction"
    )
    compensated_rounding: bool | None = Field(
        default=None,
        description="before that, on the same images: round weights of fewer than 8 bits so that errors cancel (GPTQ); "
        "null: but not where weights are to learn, since training goes further from unrounded ones",
    )
    learn_weights: bool | None = Field(
        default=None,
        description="whether training moves weights; false: they keep the integers that calibration gave them, and "
        "their step sizes (a scale per channel), biases and the quantizers of activations learn; null: false for "
        "deploy, true for paper",
    )
    weights: DistillationWeights = DistillationWeights()
    augmentation: AugmentationConfig = AugmentationConfig()
    keep_better: bool = Field(
        default=True,
        description="keep the calibrated student where training ended further from the teacher, judged on images that "
        "were held back of the set, or on the set itself",
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    checkpoint_interval: int = Field(
        default=100, ge=1, description="steps between checkpoints; a killed training repeats at most this many"
    )
    checkpoints_kept: int = Field(default=2, ge=1, le=1000, description="latest checkpoints that stay while it trains")
    tensorboard: bool = Field(default=False, description="write event files to tensorboard/ in the output folder")
    device: str = Field(default="auto", description="torch device; auto: cuda where there is one, else cpu")
    targets: tuple[Target, ...] = Field(
        default=(Target.ONNXRUNTIME, Target.OPENVINO),
        strict=False,  # a run configuration is validated from plain Python values
        description="engines that the student is exported for, as model.<target>.onnx or .tflite; none: no file",
    )

    @field_validator("steps", mode="wrap")
    @classmethod
    def _number_or_auto(cls, value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
        try:
            return validate(value)
        except ValidationError as error:  # which says it once for each kind
            raise ValueError("takes auto, or a number from 1 to 10,000,000") from error

    @model_validator(mode="after")
    def _has_a_loss(self) -> Self:
        if not self.ptq_only and not (self.weights.task or self.weights.outputs or self.weights.features):
            raise ValueError(
                "weights.task, weights.outputs and weights.features are all 0: nothing to train on; set ptq_only"
            )
        return self

    @field_validator("targets")
    @classmethod
    def _each_target_once(cls, value: tuple[Target, ...]) -> tuple[Target, ...]:
        return tuple(dict.fromkeys(value))

    @model_validator(mode="before")
    @classmethod
    def _bits_follow_targets(cls, values: Any) -> Any:
        """Unless set: `bits.quantizer` is lsq for TensorRT, and ranges are reduced only for targets that need it."""
        targets = values.get("targets") if isinstance(values, dict) else None
        if not isinstance(targets, list | tuple) or not targets:
            return values
        followed: dict[str, Any] = {}
        if Target.TENSORRT.value in targets:  # which takes no zero points
            followed["quantizer"] = Quantizer.LSQ.value
        if all(target in [wide.value for wide in WIDE_SUMS] for target in targets):
            followed["reduce_range"] = False
        bits = values.get("bits")
        if not followed or not isinstance(bits, BitPolicy | dict | None):
            return values  # which its own field refuses
        bits = bits.model_dump() if isinstance(bits, BitPolicy) else dict(bits or {})
        return values | {"bits": bits | {key: value for key, value in followed.items() if bits.get(key) is None}}

    @model_validator(mode="after")
    def _targets_can_express(self) -> Self:
        if Target.TENSORRT in self.targets and self.bits.activation_quantizer is not Quantizer.LSQ:
            raise ValueError("targets: tensorrt takes no zero points, which bits.quantizer lsq+ has: set it to lsq")
        for target in self.targets:
            if target in EIGHT_BITS and self.bits.activation_bits != 8:
                raise ValueError(
                    f"targets: {target.value} takes activations of 8 bits, bits.activation_bits is "
                    f"{self.bits.activation_bits}: set it to 8, or remove the target "
                    "(onnxruntime, openvino and generic take 2 to 8)"
                )
        return self

    @model_validator(mode="after")
    def _rounds_on_images(self) -> Self:
        if self.compensated_rounding and not self.correction_images:
            raise ValueError("compensated_rounding is true but correction_images is 0: it needs images to round on")
        return self

    @model_validator(mode="after")
    def _mean_is_no_wish(self) -> Self:
        if self.bits.mean_weight_bits is not None and not self.bits.layers:
            raise ValueError(
                f"bits.mean_weight_bits is {self.bits.mean_weight_bits:g}, which qat writes and does not read: set "
                "sensitivity.budget to ask for a mean"
            )
        return self

    @model_validator(mode="after")
    def _one_plan(self) -> Self:
        if self.bits.layers and self.plans_bits:
            raise ValueError(
                "bits.layers is a plan already and sensitivity asks for another: remove one of the two "
                "(without budget and max_drop, sensitivity only measures)"
            )
        return self

    def compensates(self, *, trained: bool) -> bool:
        """Whether the weights of a student that is to be `trained`, or not, are rounded against each other."""
        if self.compensated_rounding is not None:
            return self.compensated_rounding
        return not (trained and self.learns_weights)

    @property
    def learns_weights(self) -> bool:
        """Whether training moves weights, the default resolved."""
        return self.bits.policy is Policy.PAPER if self.learn_weights is None else self.learn_weights

    @property
    def plans_bits(self) -> bool:
        """Whether the weight bits of layers are planned from their sensitivity."""
        return self.sensitivity is not None and self.sensitivity.plans

    @property
    def planned_widths(self) -> tuple[int, ...]:
        """Weight bits that layers are measured at and planned with, fewest first, the default resolved."""
        given = self.sensitivity.candidates if self.sensitivity else None
        default = STORED_WIDTHS if self.targets else ALL_WIDTHS
        return tuple(sorted(given or default))

    @property
    def training_steps(self) -> int:
        """Steps of a training, the default resolved."""
        return TRAINING_STEPS if self.steps == "auto" else self.steps

    @property
    def rate_of_weights(self) -> float:
        """The learning rate of weights, the default resolved: in proportion to the size of a quantization step."""
        return self.learning_rate or RATE_AT_4_BITS * 2.0 ** (4 - self.bits.weight_bits)

    @property
    def rate_of_biases(self) -> float:
        """The learning rate of biases, the default resolved."""
        if self.bias_learning_rate is not None:
            return self.bias_learning_rate
        return min(1.0, BIAS_RATE * self.rate_of_weights)

    def keyed(self) -> dict[str, Any]:
        """What decides the student: not locations (their digests count), the device, or what is written beside it."""
        # A set's digest says which weights it was made from, so that leave to take it decides nothing.
        beside = {
            "allow_other_teacher": True,
            "tensorboard": True,
            "targets": True,
            "checkpoint_interval": True,
            "checkpoints_kept": True,
        }
        values = self.model_dump(mode="json", exclude=beside | {"device": True, "teacher": {"path", "family"}})
        del values["bits"]["reduce_range"]
        if self.bits.reduces_range:  # students from before ranges could be reduced have no such key
            values["bits"]["reduce_range"] = True
        if self.sensitivity is not None:  # whose default follows the targets
            values["sensitivity"]["candidates"] = list(self.planned_widths)
        return values
