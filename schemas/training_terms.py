"""What a student is trained on: the terms of the loss, and how images are changed."""

from pydantic import Field

from schemas.base import Contract


class DistillationWeights(Contract):
    """Weights of the terms of the training loss."""

    task: float = Field(default=0.01, ge=0, description="α, detection loss of the student; paper 0.01 (YOLO11)")
    outputs: float = Field(default=0.1, ge=0, description="β, KL divergence on the head's outputs; paper 0.1")
    features: float = Field(default=30.0, ge=0, description="γ, relative squared error of features; paper 1, absolute")
    temperature: float = Field(default=1.0, gt=0, description="τ of the KL divergence; paper 4")


class AugmentationConfig(Contract):
    """Label-preserving changes to the images of each batch."""

    flip: float = Field(default=0.5, ge=0, le=1, description="probability of a horizontal flip")
    shift: float = Field(default=0.1, ge=0, le=0.5, description="largest shift, share of the side")
    scale: float = Field(default=0.25, ge=0, lt=1, description="scale is drawn from 1 ± this")
    brightness: float = Field(default=0.1, ge=0, lt=1, description="gain is drawn from 1 ± this")
