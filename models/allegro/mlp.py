"""Perceptrons without biases: SiLU(0) = 0 and no bias make every edge quantity vanish smoothly at the cutoff."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor, nn

SILU_GAIN = 1.6750972886213323
"""1 / sqrt(E[SiLU(x)^2]) for a standard normal x, so that activations keep unit variance."""


def unit_variance(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> nn.Parameter:
    """Draw a parameter from Uniform(-sqrt 3, sqrt 3), which has unit variance.

    Drawn in float64 and then rounded, so that one seed gives the same model in both precisions.
    """
    values = torch.rand(*shape, generator=generator, dtype=torch.float64)
    return nn.Parameter(((2 * values - 1) * sqrt(3)).to(dtype))


class Perceptron(nn.Module):
    """Matrices scaled by 1/sqrt(fan in) with SiLU between them and nothing after the last (ALGORITHMS 2.2).

    Parameters
    ----------
    dims
        Widths, input first; at least two.
    """

    def __init__(self, dims: Sequence[int], *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            unit_variance(fan_in, fan_out, generator=generator, dtype=dtype)
            for fan_in, fan_out in zip(dims[:-1], dims[1:], strict=True)
        )

    def forward(self, *parts: Tensor) -> Tensor:
        """Apply to the concatenation of (M, d_i) parts; returns (M, d_out)."""
        hidden = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        for index, weight in enumerate(self.weights):
            gain = 1.0
            if index:
                hidden = nn.functional.silu(hidden)
                gain = SILU_GAIN
            hidden = hidden @ (weight * (gain / sqrt(weight.shape[0])))
        return hidden
