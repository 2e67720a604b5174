"""Perceptrons without biases: with SiLU(0) = 0, every edge quantity vanishes smoothly at the cutoff."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

import torch
from torch import Tensor, nn

from atomfoundry.models.allegro.derivatives import silu

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
            unit_variance(fan_in, fan_out, generator=generator, dtype=dtype) for fan_in, fan_out in pairwise(dims)
        )

    def scaled_weights(self, *, gain: float = 1.0) -> list[Tensor]:
        """Return the matrices with their 1/sqrt(fan in), the activations' gain and a factor on the result."""
        last = len(self.weights) - 1
        return [
            weight * ((gain if index == last else 1.0) * (SILU_GAIN if index else 1.0) / sqrt(weight.shape[0]))
            for index, weight in enumerate(self.weights)
        ]

    def forward(self, *parts: Tensor, residual: Tensor | None = None, gain: float = 1.0) -> Tensor:
        """Apply to the concatenation of (M, d_i) parts; returns (M, d_out).

        Parameters
        ----------
        *parts
            Inputs, side by side.
        residual
            (M, d_out) to add to the result.
        gain
            Factor on the result.
        """
        last = len(self.weights) - 1
        for index, weight in enumerate(self.scaled_weights(gain=gain)):
            hidden = residual if index == last else None
            # Parts are multiplied by their rows of the first matrix, which saves a copy in every derivative.
            for part, rows in zip(parts, weight.split([p.shape[1] for p in parts]), strict=True):
                hidden = part @ rows if hidden is None else torch.addmm(hidden, part, rows)
            assert hidden is not None
            parts = (silu(hidden) if index < last else hidden,)
        return parts[0]
