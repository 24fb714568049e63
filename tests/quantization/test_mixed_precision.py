"""Plans stay within the budget, are as good as can be found by trying everything, and never depend on chance."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantization.mixed_precision import mean_bits, plan_bits, total_error
from schemas.errors import ConfigError
from schemas.sensitivity import ErrorAtBits, LayerSensitivity

CANDIDATES = (2, 4, 8)


def layer(name: str, weights: int, errors: Sequence[float], fixed_bits: int | None = None) -> LayerSensitivity:
    measured = tuple(ErrorAtBits(weight_bits=b, error=e) for b, e in zip(CANDIDATES, errors, strict=True))
    return LayerSensitivity(name=name, weights=weights, fixed_bits=fixed_bits, errors=measured)


@st.composite
def networks(draw: st.DrawFn) -> list[LayerSensitivity]:
    """One layer at fixed bits, then up to five free ones with errors that fall with the bits."""
    free = draw(st.lists(st.tuples(st.integers(1, 50), st.lists(st.floats(0, 10), min_size=3, max_size=3)), min_size=1,
                         max_size=5))  # fmt: skip
    layers = [layer("first", 10, (1, 1, 1), fixed_bits=8)]
    return layers + [layer(f"l{k}", weights, sorted(errors)[::-1]) for k, (weights, errors) in enumerate(free)]


def every_plan(layers: Sequence[LayerSensitivity]) -> list[dict[str, int]]:
    free = [each.name for each in layers if each.fixed_bits is None]
    return [dict(zip(free, bits, strict=True)) for bits in itertools.product(CANDIDATES, repeat=len(free))]


@given(networks(), st.floats(2, 8))
def test_the_budget_holds_or_the_lowest_possible_mean_is_named(layers: list[LayerSensitivity], budget: float) -> None:
    fewest = min(mean_bits(layers, plan) for plan in every_plan(layers))
    if fewest > budget:
        with pytest.raises(ConfigError, match=f"but {fewest:.3f} is the lowest mean"):
            plan_bits(layers, budget)
    else:
        assert mean_bits(layers, plan_bits(layers, budget)) <= budget + 1e-9


@given(networks(), st.floats(2, 8))
def test_no_plan_within_the_budget_is_better_by_more_than_one_step(
    layers: list[LayerSensitivity], budget: float
) -> None:
    allowed = [plan for plan in every_plan(layers) if mean_bits(layers, plan) <= budget]
    if not allowed:
        return
    optimum = min(total_error(layers, plan) for plan in allowed)
    largest_step = max(each.errors[0].error - each.errors[-1].error for each in layers if each.fixed_bits is None)
    assert total_error(layers, plan_bits(layers, budget)) <= optimum + largest_step + 1e-9


@given(networks(), st.sampled_from(CANDIDATES))
def test_a_plan_is_never_predicted_worse_than_uniform_bits_of_the_same_mean(
    layers: list[LayerSensitivity], bits: int
) -> None:
    uniform = {each.name: bits for each in layers if each.fixed_bits is None}
    plan = plan_bits(layers, mean_bits(layers, uniform))
    assert total_error(layers, plan) <= total_error(layers, uniform)


def test_bits_go_where_a_bit_saves_most() -> None:
    layers = [layer("small", 10, (5, 1, 0)), layer("large", 1000, (5, 1, 0)), layer("calm", 10, (0.1, 0, 0))]
    assert plan_bits(layers, budget=2.1) == {"small": 8, "large": 2, "calm": 4}


def test_the_budget_is_used_up_where_the_sizes_allow_it() -> None:
    layers = [layer(f"l{k}", 100, (9 - k, 3, 0)) for k in range(8)]
    assert mean_bits(layers, plan_bits(layers, budget=4.0)) == 4.0


def test_equal_layers_are_served_in_the_order_of_the_network() -> None:
    layers = [layer(name, 100, (4, 1, 0)) for name in ("b", "a", "c")]
    assert plan_bits(layers, budget=2.7) == {"b": 4, "a": 2, "c": 2}


def test_fixed_layers_count_in_the_mean_and_are_not_planned() -> None:
    layers = [layer("first", 100, (9, 9, 9), fixed_bits=8), layer("inner", 100, (4, 1, 0))]
    plan = plan_bits(layers, budget=6)
    assert plan == {"inner": 4}
    assert mean_bits(layers, plan) == 6


def test_an_error_that_does_not_fall_with_the_bits_buys_nothing() -> None:
    assert plan_bits([layer("odd", 10, (1, 2, 3))], budget=8) == {"odd": 2}
