"""From sensitivities to a bit policy: for a budget at once, for a largest drop by trying plans on the set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from detectors.detections import Detections
from detectors.protocol import Detector
from qat_job.sensitivity.agreement import agreement
from quantization.calibrate import calibrate, calibrate_weight
from quantization.convert import make_student, quantized_layers
from quantization.mixed_precision import mean_bits, plan_bits, total_error
from schemas.errors import ConfigError, InputError
from schemas.qat_config import BitPolicy
from schemas.sensitivity import LayerSensitivity

RESOLUTION = 1 / 16
"""Mean bits to which the fewest for a largest drop are found."""


@dataclass(frozen=True)
class Plan:
    """Weight bits for each free layer.

    Attributes:
        layers: bits by module name.
        mean_bits: over all quantized weights, layers at fixed bits included.
        error: predicted: the sum of the layers' errors.
        drop: share of the teacher's agreement lost before training; None where it was not measured.
    """

    layers: dict[str, int]
    mean_bits: float
    error: float
    drop: float | None = None

    def applied_to(self, bits: BitPolicy) -> BitPolicy:
        """`bits` with this plan; its weight bits, which set the learning rate, are the nearest to the mean."""
        nearest = round(self.mean_bits)
        return bits.model_copy(update={"layers": self.layers, "weight_bits": nearest, "mean_weight_bits": None})


def plan_for_budget(layers: Sequence[LayerSensitivity], budget: float) -> Plan:
    """The plan of least predicted error with at most `budget` mean bits.

    Raises:
        ConfigError: even the fewest bits exceed it.
    """
    chosen = plan_bits(layers, budget)
    return Plan(chosen, mean_bits(layers, chosen), total_error(layers, chosen))


def plan_for_drop(
    layers: Sequence[LayerSensitivity],
    max_drop: float,
    drop_of: Callable[[Mapping[str, int]], float],
) -> Plan:
    """The plan of the fewest mean bits, to `RESOLUTION`, whose measured drop is at most `max_drop`; by bisection.

    Raises:
        ConfigError: no plan keeps the drop that small.
    """
    widths = [each.weight_bits for each in layers[0].errors]
    low, high = (mean_bits(layers, {layer.name: bits for layer in layers}) for bits in (widths[0], widths[-1]))

    def tried(budget: float) -> tuple[Plan, float]:
        plan = plan_for_budget(layers, budget)
        drop = drop_of(plan.layers)
        return replace(plan, drop=drop), drop

    best, drop = tried(high)
    if drop > max_drop:
        raise ConfigError(
            f"sensitivity.max_drop: got {max_drop:g}, but with {widths[-1]} bits everywhere the drop is {drop:.3f} "
            "already; raise it, or bits.activation_bits"
        )
    while high - low > RESOLUTION:
        middle = (low + high) / 2
        plan, drop = tried(middle)
        if drop <= max_drop:
            best, high = plan, middle
        else:
            low = middle
    return best


class AgreementDrop:
    """Measures what plans cost before training, as a share of the teacher's agreement with the set's labels.

    Args:
        teacher: the full-precision detector.
        bits: policy and activation bits of the student.
        batches: calibration images, `(B, 3, H, W)` each.
        labels: of each image, in the same order.

    Raises:
        InputError: the teacher finds none of the labels, so that there is nothing to lose.
    """

    def __init__(
        self, teacher: Detector, bits: BitPolicy, batches: Sequence[Tensor], labels: Sequence[Detections]
    ) -> None:
        self._batches, self._labels = batches, labels
        self._full_precision = agreement(teacher, batches, labels)
        if not self._full_precision > 0:
            raise InputError(
                "sensitivity.max_drop: the teacher finds no label of the calibration set, so no drop can be measured; "
                "use sensitivity.budget, or a set made from this teacher"
            )
        self._student = make_student(teacher, bits)
        calibrate(self._student.network, lambda: batches, self._student.head_outputs)

    def __call__(self, plan: Mapping[str, int]) -> float:
        """The share lost by the student with `plan`, never below 0."""
        for name, layer in quantized_layers(self._student.network).items():
            if name in plan:
                layer.set_weight_bits(plan[name])
                calibrate_weight(layer)
        return max(0.0, 1 - agreement(self._student, self._batches, self._labels) / self._full_precision)
