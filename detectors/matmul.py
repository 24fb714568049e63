"""Products of two activations as modules, so that they can be found by name and quantized."""

from torch import Tensor, nn


class MatMul(nn.Module):
    """The matrix product of two tensors, neither of them a weight."""

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """`(..., n, k)` times `(..., k, m)`, `(..., n, m)`."""
        return left @ right
