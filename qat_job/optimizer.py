"""Adam in a handful of calls for all parameters at once, whatever their rates.

PyTorch's own steps group by group; a student has one group for each quantizer, hundreds of them, and most of that step
is bookkeeping.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8


class Adam(torch.optim.Optimizer):
    """Adam (arXiv 1412.6980) with the state that `torch.optim.Adam` keeps.

    Args:
        groups: `params` and `lr` each.
    """

    def __init__(self, groups: list[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    def gradients(self) -> list[Tensor]:
        """Those of all parameters that have one."""
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        return [parameter.grad for parameter in parameters if parameter.grad is not None]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        moving = [
            (parameter, group["lr"])
            for group in self.param_groups
            for parameter in group["params"]
            if parameter.grad is not None
        ]
        if not moving:
            return
        parameters = [parameter for parameter, _ in moving]
        gradients = [parameter.grad for parameter in parameters]
        states = [self._state_of(parameter) for parameter in parameters]
        steps, means, squares = ([state[kind] for state in states] for kind in ("step", "exp_avg", "exp_avg_sq"))
        torch._foreach_add_(steps, 1.0)
        counts = [step.item() for step in steps]  # on the CPU, as PyTorch keeps them: nothing waits for a device
        torch._foreach_lerp_(means, gradients, 1 - BETAS[0])
        torch._foreach_mul_(squares, BETAS[1])
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - BETAS[1])
        roots = torch._foreach_sqrt(squares)
        torch._foreach_div_(roots, [(1 - BETAS[1] ** count) ** 0.5 for count in counts])
        torch._foreach_add_(roots, EPSILON)
        rates = [-rate / (1 - BETAS[0] ** count) for (_, rate), count in zip(moving, counts, strict=True)]
        torch._foreach_addcdiv_(parameters, means, roots, rates)

    def _state_of(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state
