"""Configuration of a whole run: three stages that share a teacher, a size, a seed and a device."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from schemas.base import Contract
from schemas.eval_config import EvalConfig
from schemas.image_size import LARGEST_SIDE, SMALLEST_SIDE, ImageSize, Sides
from schemas.qat_config import QatConfig
from schemas.synth_config import HELD_BACK, SynthConfig
from schemas.teacher import TeacherSource

SHARED = {
    "teacher": ("synth", "qat", "eval"),
    "device": ("synth", "qat", "eval"),
    "image_size": ("synth", "eval"),
    "seed": ("synth", "qat"),
}
"""Settings given once for the run, and the stages that take them."""


class RunConfig(Contract):
    """Everything `zsq run` needs. A shared setting goes to each stage that does not set its own."""

    storage: str = Field(default="runs/default", min_length=1, description="folder for set, student and report")
    teacher: TeacherSource = TeacherSource()
    image_size: Annotated[ImageSize, Sides(SMALLEST_SIDE, LARGEST_SIDE)] | None = Field(
        default=None,
        description="pixels of a side of square images, or [height, width]; null: the teacher's own, a square",
    )
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = "auto"
    synth: SynthConfig = SynthConfig()
    qat: QatConfig = QatConfig()
    eval: EvalConfig = EvalConfig()

    @model_validator(mode="before")
    @classmethod
    def _share(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        shared = dict(values)
        for name, stages in SHARED.items():
            for stage in stages:
                section = shared.get(stage)
                if section is None:  # not there, or a heading with every line below it commented out
                    section = shared[stage] = {}
                if name in values and isinstance(section, dict):
                    shared[stage] = {name: values[name]} | section
        return shared

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        for stage in ("qat", "eval"):
            if (theirs := getattr(self, stage).teacher) != self.synth.teacher:
                raise ValueError(
                    f"{stage}.teacher is {theirs.path!r} but synth.teacher is {self.synth.teacher.path!r}: "
                    "a run has one teacher; set it once, as teacher"
                )
        return self

    def for_stage(self, stage: Literal["synth", "qat", "eval"]) -> Contract:
        """The configuration of one stage, as the others need it: without labelled images, synth holds some back."""
        if stage == "synth" and self.synth.held_back is None and self.eval.labelled_data is None:
            return self.synth.model_copy(update={"held_back": HELD_BACK})
        section: Contract = getattr(self, stage)
        return section
