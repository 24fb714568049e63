"""Mixed precision: the weight bits of each layer that cost least under a budget of mean bits.

What quantizing a layer costs is taken to add up over layers, as HAWQ does (arXiv 1911.03852). That makes the choice a
knapsack: one width per layer, least total error, a limit on total bits. Taking the step that gains most per bit, again
and again, is optimal but for the last steps before the limit.
"""

from collections.abc import Mapping, Sequence

from schemas.errors import ConfigError
from schemas.sensitivity import LayerSensitivity


def plan_bits(layers: Sequence[LayerSensitivity], budget: float) -> dict[str, int]:
    """Weight bits of each free layer, by name: at most `budget` in the mean over all weights, fixed layers included.

    Raises:
        ConfigError: even the fewest bits exceed the budget.
    """
    free = [layer for layer in layers if layer.fixed_bits is None]
    chosen = {layer.name: layer.errors[0].weight_bits for layer in free}
    check_budget(budget, mean_bits(layers, chosen))
    limit = budget * sum(layer.weights for layer in layers)
    spare = limit - sum(bits_of(layers, chosen))
    while step := _best_step(free, chosen, spare):
        layer, bits = step
        spare -= layer.weights * (bits - chosen[layer.name])
        chosen[layer.name] = bits
    return min([chosen, *_uniform(layers, limit)], key=lambda plan: total_error(layers, plan))


def check_budget(budget: float, lowest: float) -> None:
    """Check that a budget can be kept.

    Raises:
        ConfigError: it is below the lowest mean.
    """
    if lowest > budget:
        raise ConfigError(
            f"sensitivity.budget: got {budget:g}, but {lowest:.3f} is the lowest mean that can be planned (layers at "
            "fixed bits count too); raise it, or add smaller sensitivity.candidates"
        )


def bits_of(layers: Sequence[LayerSensitivity], chosen: Mapping[str, int]) -> list[int]:
    """Bits that the weights of each layer take, free and fixed."""
    return [layer.weights * (layer.fixed_bits or chosen[layer.name]) for layer in layers]


def mean_bits(layers: Sequence[LayerSensitivity], chosen: Mapping[str, int]) -> float:
    """Mean bits over all weights, fixed layers included; biases are not counted."""
    return sum(bits_of(layers, chosen)) / sum(layer.weights for layer in layers)


def total_error(layers: Sequence[LayerSensitivity], chosen: Mapping[str, int]) -> float:
    """Sum of the free layers' errors at the chosen bits: what the plan is predicted to cost."""
    return sum(layer.error(chosen[layer.name]) for layer in layers if layer.fixed_bits is None)


def _best_step(
    free: Sequence[LayerSensitivity], chosen: Mapping[str, int], spare: float
) -> tuple[LayerSensitivity, int] | None:
    """The layer and its new width that lower the error most per bit, of those that fit; the first of equals."""
    best, best_rate = None, 0.0
    for layer in free:
        now = chosen[layer.name]
        for each in layer.errors:
            cost = layer.weights * (each.weight_bits - now)
            if 0 < cost <= spare and (layer.error(now) - each.error) / cost > best_rate:
                best, best_rate = (layer, each.weight_bits), (layer.error(now) - each.error) / cost
    return best


def _uniform(layers: Sequence[LayerSensitivity], limit: float) -> list[dict[str, int]]:
    """The plans that give every free layer the same bits, of those that fit."""
    free = [layer for layer in layers if layer.fixed_bits is None]
    widths = [each.weight_bits for each in free[0].errors] if free else []
    plans = [{layer.name: bits for layer in free} for bits in widths]
    return [plan for plan in plans if sum(bits_of(layers, plan)) <= limit]
