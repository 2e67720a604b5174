"""Readout heads: a linear edge energy, a scale and isolated-atom energies for each level of theory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import nan, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.allegro.mlp import unit_variance


class Readouts(nn.Module):
    """All heads (ALGORITHMS 2.14, 2.15); a head's perceptron is linear, so it is one vector w_h."""

    isolated_energies: Tensor
    scales: Tensor

    def __init__(self, config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.heads = nn.ModuleList()
        self.register_buffer("isolated_energies", torch.zeros(0, len(config.type_names), dtype=torch.float64))
        self.register_buffer("scales", torch.zeros(0, len(config.type_names), dtype=torch.float64))
        dims = [config.latent_width, *config.edge_energy_dims, 1]
        for head in config.heads:
            weights = nn.ParameterList(
                unit_variance(fan_in, fan_out, generator=generator, dtype=dtype) for fan_in, fan_out in pairwise(dims)
            )
            self.append(head, weights, config.type_names)

    def append(self, head: HeadConfig, weights: nn.ParameterList, type_names: Sequence[str]) -> None:
        """Add a head with the given matrices, its isolated-atom energies and scale."""
        absent = nan if head.isolated_energies else 0.0
        energies = [head.isolated_energies.get(name, absent) for name in type_names]
        scales = [head.scale[name] if isinstance(head.scale, dict) else head.scale for name in type_names]
        self.heads.append(weights)
        self.isolated_energies = torch.cat([self.isolated_energies, self.isolated_energies.new_tensor([energies])])
        self.scales = torch.cat([self.scales, self.scales.new_tensor([scales])])

    def vector(self, head: int) -> Tensor:
        """Return w_h, (d,), in feature precision."""
        product: Tensor | None = None
        for weight in cast(nn.ParameterList, self.heads[head]):
            scaled = weight / sqrt(weight.shape[0])
            product = scaled if product is None else product @ scaled
        assert product is not None
        return product[:, 0]

    def forward(self, latents: Tensor, edge_head: Tensor | None) -> Tensor:
        """Return unscaled edge energies (M,) of latents (M, d).

        Parameters
        ----------
        edge_head
            (M,) head of each edge; None for a model of one head.
        """
        if edge_head is None:
            return latents @ self.vector(0)
        vectors = torch.stack([self.vector(head) for head in range(len(self.heads))], dim=1)
        return (latents @ vectors).gather(1, edge_head[:, None])[:, 0]
