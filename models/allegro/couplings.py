"""Irreps each layer keeps, the paths that lead to them, the path-weighted 3j tensor (ALGORITHMS 2.4)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import sqrt
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from atomfoundry.models.allegro.angular import parallel_coupling, wigner_3j
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.mlp import unit_variance

Irrep = tuple[int, int]
"""Degree l and parity +1 or -1."""

Parity = Literal["o3_full", "so3"]
"""``o3_full``: couplings keep parity, so that mirror images have one energy. ``so3``: without parity labels every
l1 x l2 -> l3 couples; from two layers on, mirror images differ."""


def natural_irreps(l_max: int, parity: Parity = "o3_full") -> list[Irrep]:
    """Return the irreps of spherical harmonics: parity (-1)^l, or +1 for all where the label is dropped."""
    return [(degree, (-1) ** degree if parity == "o3_full" else 1) for degree in range(l_max + 1)]


def _products(left: Irrep, right: Irrep, l_max: int) -> list[Irrep]:
    lowest, highest = abs(left[0] - right[0]), min(l_max, left[0] + right[0])
    return [(degree, left[1] * right[1]) for degree in range(lowest, highest + 1)]


def plan_irreps(n_layers: int, l_max: int, parity: Parity = "o3_full") -> list[list[Irrep]]:
    """Return the irreps before the first layer and after each layer.

    All with l <= l_max and either parity that can be made and can still reach the scalar 0e after the
    remaining layers; the last layer makes 0e only.
    """
    environment = natural_irreps(l_max, parity)
    made: list[set[Irrep]] = [set(environment)]
    for _ in range(n_layers):
        made.append({out for left in made[-1] for right in environment for out in _products(left, right, l_max)})
    useful: set[Irrep] = {(0, 1)}
    kept = [sorted(useful)]
    for layer in reversed(range(n_layers)):
        useful = {
            left for left in made[layer] if any(set(_products(left, right, l_max)) & useful for right in environment)
        }
        kept.append(sorted(useful, key=lambda irrep: (irrep[0], -irrep[1] * (-1) ** irrep[0])))
    return kept[::-1]


@dataclass(frozen=True)
class Path:
    """One way of coupling: positions of the three irreps in their lists, and their degrees."""

    positions: tuple[int, int, int]
    degrees: tuple[int, int, int]


def list_paths(inputs: list[Irrep], environment: list[Irrep], outputs: list[Irrep]) -> list[Path]:
    """Return all couplings of an input and an environment irrep to an output irrep."""
    return [
        Path((a, b, c), (left[0], right[0], out[0]))
        for c, out in enumerate(outputs)
        for a, left in enumerate(inputs)
        for b, right in enumerate(environment)
        if left[1] * right[1] == out[1] and abs(left[0] - right[0]) <= out[0] <= left[0] + right[0]
    ]


def _slices(irreps: list[Irrep]) -> list[slice]:
    ends = np.cumsum([0, *(2 * degree + 1 for degree, _ in irreps)])
    return [slice(int(start), int(end)) for start, end in pairwise(ends)]


class Coupling(nn.Module):
    """Path weights v_q of one layer and the constant tensors they multiply.

    Parameters
    ----------
    inputs, outputs
        Irreps before and after the layer; the environment has those of the harmonics.
    n_channels
        Give each channel path weights of its own, (C, n_paths), without the 1 / sqrt(n_paths) of weights that
        are shared, (n_paths,). What the methods return then begins with the channel.
    """

    tensors: Tensor
    parallels: Tensor
    even_paths: Tensor
    even_factors: Tensor

    def __init__(
        self,
        inputs: list[Irrep],
        outputs: list[Irrep],
        *,
        l_max: int,
        parity: Parity,
        generator: torch.Generator,
        dtype: torch.dtype,
        n_channels: int | None = None,
    ) -> None:
        super().__init__()
        environment = natural_irreps(l_max, parity)
        paths = list_paths(inputs, environment, outputs)
        irreps = (inputs, environment, outputs)
        slices = [_slices(which) for which in irreps]
        self.shape = tuple(which[-1].stop for which in slices)
        self.degree_shape = tuple(len(which) for which in irreps)
        tensors = np.zeros((len(paths), *self.shape))
        parallels = np.zeros((len(paths), *self.degree_shape))
        for row, path in enumerate(paths):
            n_paths = sum(other.positions[2] == path.positions[2] for other in paths)
            norm = sqrt((2 * path.degrees[2] + 1) / (n_paths if n_channels is None else 1))
            a, b, c = path.positions
            tensors[row, slices[0][a], slices[1][b], slices[2][c]] = norm * wigner_3j(*path.degrees)
            parallels[row, a, b, c] = norm * parallel_coupling(*path.degrees)
        even = [row for row, path in enumerate(paths) if sum(path.degrees) % 2 == 0]
        self.even_triples = [paths[row].positions for row in even]
        polar = [parallels[(row, *paths[row].positions)] * (2 * paths[row].degrees[2] + 1) for row in even]
        self.register_buffer("even_paths", torch.tensor(even), persistent=False)
        self.register_buffer("even_factors", torch.tensor(polar, dtype=dtype), persistent=False)
        leading = () if n_channels is None else (n_channels,)
        self.weights = unit_variance(*leading, len(paths), generator=generator, dtype=dtype)
        self.register_buffer("tensors", torch.tensor(tensors, dtype=dtype).flatten(1), persistent=False)
        self.register_buffer("parallels", torch.tensor(parallels, dtype=dtype).flatten(1), persistent=False)

    def tensor(self) -> Tensor:
        """Return sum_q v_q sqrt((2 l3 + 1) / n_paths(l3)) w3j, (K_in, K_env, K_out)."""
        return (self.weights @ self.tensors).view(*self.weights.shape[:-1], *self.shape)

    def parallel(self) -> Tensor:
        """Return the same for harmonics of one direction, (irreps in, env, out): Y (x) Y -> factor Y."""
        return (self.weights @ self.parallels).view(*self.weights.shape[:-1], *self.degree_shape)

    def parallel_paths(self) -> tuple[Tensor, list[tuple[int, int, int]]]:
        """Return factors (n,) and position triples of the paths that parallel harmonics take.

        The factor is symmetric: multiplied by the harmonics' own products, 2 l + 1, it is that of
        ``parallel()``.
        """
        return self.weights[self.even_paths] * self.even_factors, self.even_triples

    def scalar(self) -> Tensor:
        """Return the factor of each degree, (l_max + 1,), with which V . env goes into 0e (the first output).

        The inputs must begin with the natural irreps, as they do before the first and the last layer.
        """
        degrees = torch.arange(self.degree_shape[1], device=self.weights.device)
        return self.parallel()[..., degrees, degrees, 0] / (2 * degrees + 1).to(self.weights.dtype)


def couplings_of(
    config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype, n_channels: int | None = None
) -> nn.ModuleList:
    """Return the coupling of each layer; ``n_channels`` as for :class:`Coupling`."""
    irreps = plan_irreps(config.n_layers, config.l_max, config.parity)
    return nn.ModuleList(
        Coupling(
            before,
            after,
            l_max=config.l_max,
            parity=config.parity,
            generator=generator,
            dtype=dtype,
            n_channels=n_channels,
        )
        for before, after in pairwise(irreps)
    )
