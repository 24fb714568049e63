"""The full-precision detector, as named in configurations and as identified in artifacts."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.base import Contract

Family = Literal["ultralytics", "yolov5", "rtdetr", "torchvision", "transformers"]
EMBEDDED = "embedded"
"""Name of the detector that ships with this project."""


class TeacherSource(Contract):
    """Where the teacher comes from."""

    path: str = Field(
        default=EMBEDDED,
        min_length=1,
        description="checkpoint file, folder that Hugging Face's save_pretrained wrote, name of a published checkpoint "
        "(yolo11n.pt, fasterrcnn_resnet50_fpn_v2; downloaded), or `embedded`",
    )
    family: Family | None = Field(
        default=None, description="detector family that reads the checkpoint; null: the one the file shows"
    )
    architecture: str | None = Field(
        default=None,
        description="what a checkpoint is of that does not say so itself, by its published name (torchvision)",
    )
    class_names: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        strict=False,  # a run configuration is validated from plain Python values, where YAML's sequences are lists
        description="names of the classes of a checkpoint that does not hold them (torchvision), background left out",
    )
    trust_pickle: bool = Field(
        default=False, description="allow full unpickling, which runs code from the file; only for files you made"
    )


class PixelFormat(Contract):
    """What the network takes as input: RGB from 0 to 1, whatever the network does with it inside."""

    channels: Literal["RGB"] = "RGB"
    scale: float = Field(default=255.0, description="8-bit values are divided by this")
    mean: tuple[float, float, float] = Field(default=(0.0, 0.0, 0.0), description="subtracted after scaling")
    std: tuple[float, float, float] = Field(default=(1.0, 1.0, 1.0), description="divided by after the mean")
    padding: int = Field(default=114, ge=0, le=255, description="8-bit value of letterbox borders")

    @model_validator(mode="after")
    def _is_supported(self) -> Self:
        for name in ("scale", "mean", "std"):
            value, supported = getattr(self, name), type(self).model_fields[name].default
            if value != supported:
                raise ValueError(
                    f"{name} is {value}, but every stage gives networks RGB from 0 to 1, which is {name} {supported}; "
                    "apply another scale, mean or deviation inside the network"
                )
        return self


class TeacherIdentity(Contract):
    """Which detector an artifact belongs to; enough to build the same architecture without the checkpoint."""

    family: Family
    architecture: dict[str, Any] = Field(description="the family's own description of the network, plain values")
    sha256: str = Field(
        pattern="^[0-9a-f]{64}$",
        description="digest of the checkpoint file, or of the digests of a saved model's files",
    )
    class_names: tuple[str, ...] = Field(min_length=1)
    input_size: int = Field(ge=32, le=4096, description="side of the square the teacher was trained at, pixels")
    stride: int = Field(ge=1, le=512, description="input sides must be multiples of this, pixels")
    pixels: PixelFormat = PixelFormat()
