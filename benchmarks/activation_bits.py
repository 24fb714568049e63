"""Whether bits of activations, planned by their sensitivity, keep more than the same bits everywhere.

    uv run python -m benchmarks.activation_bits --teacher yolo11n.pt --set set640 --photos coco-train128/images

The sensitivity of an activation's quantizer is the estimate that `qat_job.sensitivity.curvature` makes of weights, from
the same probes: ½ E[Σ (g e)²], with the probe's gradient g at the quantizer and its rounding errors e, which are taken
to be independent. A plan gives every free quantizer one of `WIDTHS`, for the least sum at most so many bits in the mean
over the activations' values, or over the quantizers, each of which counts once. The first layer's input and those of
the outputs stay at 8 bits. Weights have the bits of `--weights`. Students are calibrated on the set and judged by the
divergence of their outputs from full precision on photographs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks.schedules import photographs
from detectors.hooks import hooked
from detectors.protocol import Detector
from detectors.registry import load_teacher
from qat_job.decision import mean_divergence
from qat_job.images import ImageBatches
from qat_job.sensitivity.curvature import PROBES, compared, probe_of
from quantization.calibrate import activation_step_size, calibrate, observed_activations
from quantization.convert import Place, in_float, make_student, quantizers
from quantization.fake_quantize import FakeQuantizer
from schemas.image_size import ImageSize
from schemas.qat_config import BitPolicy
from schemas.teacher import TeacherSource
from stages.shards import open_calibration_set

CPU = torch.device("cpu")
WIDTHS = (3, 4, 5, 6, 8)
FakeQuantizers = Mapping[str, Mapping[int, FakeQuantizer]]
"""By the name of an activation's quantizer, then by bits."""


@dataclass
class Activation:
    """One quantizer of an activation.

    Attributes:
        values: of an image.
        errors: by bits.
    """

    values: int
    errors: dict[int, float]


def main(
    teacher: Annotated[str, typer.Option(help="checkpoint")],
    calibration_set: Annotated[Path, typer.Option("--set", help="of synthetic images")],
    photos: Annotated[Path, typer.Option(help="folder of photographs")],
    images: Annotated[int, typer.Option(help="of the set, at most")] = 16,
    judged_on: Annotated[int, typer.Option(help="photographs")] = 48,
    weights: Annotated[int, typer.Option(help="weight bits")] = 8,
) -> None:
    full = load_teacher(TeacherSource(path=teacher), CPU)
    opened = open_calibration_set(calibration_set)
    seen = list(ImageBatches(opened, CPU).in_order(images, 1))
    judges = photographs(full, photos, judged_on, ImageSize.square(seen[0].shape[-1]))
    policy = BitPolicy(weight_bits=weights)
    made = fake_quantizers(make_student(full, policy), seen)
    found = sensitivities(make_student(full, policy), seen, made)
    edges = (full.layers.first, *full.layers.output)
    free = {name: each for name, each in found.items() if name.rpartition(".")[0] not in edges}

    def row(name: str, plan: Mapping[str, int]) -> None:
        student = make_student(full, policy)
        calibrate(student.network, lambda: seen, student.head_outputs)
        give(student, plan, made)
        means = [
            sum(size(each) * plan.get(key, 8) for key, each in found.items()) / sum(map(size, found.values()))
            for size in (lambda each: each.values, lambda each: 1)
        ]
        predicted = sum(each.errors[plan[key]] for key, each in free.items())
        measured = mean_divergence(student, full, judges)[0]
        print(f"| {name} | {means[0]:.2f} | {means[1]:.2f} | {predicted:.3f} | {measured:.3f} |", flush=True)

    print("| activation bits | mean over values | mean over quantizers | predicted | divergence |\n|" + " --- |" * 5)
    for bits in (8, 6, 5, 4):
        row(f"{bits} everywhere", dict.fromkeys(free, bits))
    for mean in (7, 6, 5):
        row(f"planned, at most {mean} over values", planned(free, found, mean, by_values=True))
        row(f"planned, at most {mean} over quantizers", planned(free, found, mean, by_values=False))


def fake_quantizers(student: Detector, images: Sequence[Tensor]) -> FakeQuantizers:
    """A quantizer of each activation at each width, with the step size and zero point that calibration finds."""
    found = observed_activations(student.network, lambda: images, student.head_outputs)
    observers = {id(place.quantizer): observer for place, observer in found}

    def quantizer(place: Place, bits: int) -> FakeQuantizer:
        made = FakeQuantizer(replace(place.quantizer.spec, bits=bits))
        made.initialise(*activation_step_size(observers[id(place.quantizer)], made.spec))
        return made

    places = activations(student.network)
    return {name: {bits: quantizer(place, bits) for bits in WIDTHS} for name, place in places.items()}


def activations(network: nn.Module) -> dict[str, Place]:
    return {name: place for name, place in quantizers(network).items() if place.role != "weight"}


def sensitivities(student: Detector, images: Sequence[Tensor], made: FakeQuantizers) -> dict[str, Activation]:
    """The error that each activation's quantizer alone adds to the outputs, to second order; a mean over images."""
    places, generator = activations(student.network), torch.Generator().manual_seed(0)
    found: dict[str, Activation] = {}
    for image in images:
        with in_float(student.network):
            outputs, taken = looked_into(student, image, places)
            for probe in range(PROBES):
                gradients = torch.autograd.grad(
                    compared(outputs),
                    list(taken.values()),
                    probe_of(outputs, generator),
                    retain_graph=probe + 1 < PROBES,
                    allow_unused=True,
                )
                for (name, x), gradient in zip(taken.items(), gradients, strict=True):
                    each = found.setdefault(name, Activation(x[0].numel(), dict.fromkeys(WIDTHS, 0.0)))
                    for bits in WIDTHS if gradient is not None else ():
                        with torch.no_grad():
                            error = made[name][bits](x) - x
                        moved = float((gradient * error).square().sum())
                        each.errors[bits] += moved / (2 * PROBES * len(images))
    return found


def looked_into(student: Detector, image: Tensor, places: Mapping[str, Place]) -> tuple[Any, dict[str, Tensor]]:
    """The outputs, and what each quantizer takes, as a tensor of its own where others take the same."""
    taken: dict[str, Tensor] = {}

    def keep(name: str, at: int) -> Any:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            taken[name] = inputs[at].view_as(inputs[at])
            return (*inputs[:at], taken[name], *inputs[at + 1 :])

        return hook

    handles = [place.module.register_forward_pre_hook(keep(name, place.argument)) for name, place in places.items()]
    with hooked(handles):
        return student.head_outputs(image.clone().requires_grad_(True)), taken


def planned(
    free: Mapping[str, Activation], found: Mapping[str, Activation], mean: float, *, by_values: bool
) -> dict[str, int]:
    """The step that gains most per bit again and again, from the fewest bits, while the mean stays below."""
    cost = {name: each.values if by_values else 1 for name, each in found.items()}
    plan = dict.fromkeys(free, WIDTHS[0])
    spare = sum(count * (mean - plan.get(name, 8)) for name, count in cost.items())
    while True:
        steps = [
            ((each.errors[plan[name]] - each.errors[bits]) / (cost[name] * (bits - plan[name])), name, bits)
            for name, each in free.items()
            for bits in WIDTHS
            if 0 < cost[name] * (bits - plan[name]) <= spare
        ]
        gain, name, bits = max(steps, default=(0.0, "", 0))
        if gain <= 0:
            return plan
        spare -= cost[name] * (bits - plan[name])
        plan[name] = bits


def give(student: Detector, plan: Mapping[str, int], made: FakeQuantizers) -> None:
    for name, place in activations(student.network).items():
        if name in plan:
            setattr(place.module, place.attribute, made[name][plan[name]])


if __name__ == "__main__":
    typer.run(main)
