"""The optimiser is PyTorch's Adam, in fewer calls."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from qat_job.optimizer import Adam


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((3, 4), (1,), (5,), (2, 2))]


def groups(values: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": values[:1], "lr": 1e-2}, {"params": values[1:3], "lr": 3e-3}, {"params": values[3:], "lr": 0.1}]


def follow(optimizer: torch.optim.Optimizer, values: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        for number, value in enumerate(values):
            generator = torch.Generator().manual_seed(100 * step + number)
            skipped = number == 2 and step % 2  # a branch that this step did not use
            value.grad = None if skipped else torch.randn(value.shape, generator=generator) * 10.0**-number
        optimizer.step()


def difference(one: list[Tensor], other: list[Tensor]) -> float:
    return max(float((a - b).detach().norm() / b.detach().norm()) for a, b in zip(one, other, strict=True))


def test_steps_are_those_of_torch_adam_group_by_group() -> None:
    mine, theirs = parameters(), parameters()
    optimizer, reference = Adam(groups(mine)), torch.optim.Adam(groups(theirs))
    schedules = [torch.optim.lr_scheduler.CosineAnnealingLR(each, T_max=20) for each in (optimizer, reference)]
    for step in range(20):
        follow(optimizer, mine, range(step, step + 1))
        follow(reference, theirs, range(step, step + 1))
        for schedule in schedules:
            schedule.step()
    assert difference([*mine], [*theirs]) < 1e-6
    assert difference([*mine], [*parameters()]) > 1e-2


def test_state_goes_to_another_optimizer_and_it_goes_on_alike() -> None:
    one, other = parameters(), parameters()
    first = Adam(groups(one))
    follow(first, one, range(5))
    second = Adam(groups(other))
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    with torch.no_grad():
        for mine, theirs in zip(other, one, strict=True):
            mine.copy_(theirs)
    follow(first, one, range(5, 10))
    follow(second, other, range(5, 10))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def test_a_step_without_gradients_changes_nothing() -> None:
    values = parameters()
    Adam(groups(values)).step()
    assert all(torch.equal(one, other) for one, other in zip(values, parameters(), strict=True))
