"""Readout heads: an edge energy, a scale and isolated-atom energies for each level of theory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import nan, sqrt
from typing import cast

import torch
from torch import Tensor, nn

from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.allegro.derivatives import silu
from atomfoundry.models.allegro.mlp import SILU_GAIN, unit_variance


class Readouts(nn.Module):
    """All heads (ALGORITHMS 2.14, 2.15).

    The energy of an edge is w_h . features. In variant A a head's perceptron is linear: w_h is the product of its
    matrices and the features are the latents. In variant B it has SiLU between its matrices: w_h is the last of
    them and the features, the hidden activations before it, are the head's own.
    """

    isolated_energies: Tensor
    scales: Tensor

    def __init__(self, config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.nonlinear = config.variant == "B"
        self.heads = nn.ModuleList()
        self.register_buffer("isolated_energies", torch.zeros(0, len(config.type_names), dtype=torch.float64))
        self.register_buffer("scales", torch.zeros(0, len(config.type_names), dtype=torch.float64))
        dims = [config.scalar_width, *config.edge_energy_dims, 1]
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
        weights = list(cast(nn.ParameterList, self.heads[head]))
        if self.nonlinear:
            gain = SILU_GAIN if len(weights) > 1 else 1.0
            return weights[-1][:, 0] * (gain / sqrt(weights[-1].shape[0]))
        product = weights[0] / sqrt(weights[0].shape[0])
        for weight in weights[1:]:
            product = product @ (weight / sqrt(weight.shape[0]))
        return product[:, 0]

    def forward(self, latents: Tensor, edge_head: Tensor | None, used: Sequence[int] = ()) -> tuple[Tensor, Tensor]:
        """Return features (M, d) and unscaled edge energies (M,) of latents (M, width).

        Parameters
        ----------
        latents
            What all heads share.
        edge_head
            (M,) head of each edge; None for a model of one head.
        used
            The heads that any edge has, in ascending order; the hidden layers of others are left out. Default: all.
        """
        if edge_head is None:
            features = self._hidden(latents, 0)
            return features, features @ self.vector(0)
        features = self._hidden_of_heads(latents, edge_head, list(used)) if self.nonlinear else latents
        vectors = torch.stack([self.vector(head) for head in range(len(self.heads))], dim=1)
        return features, (features @ vectors).gather(1, edge_head[:, None])[:, 0]

    def _hidden_of_heads(self, latents: Tensor, edge_head: Tensor, used: list[int]) -> Tensor:
        """Return the hidden activations of each edge's own head, (M, d)."""
        used = used or list(range(len(self.heads)))
        if len(used) == 1:
            features = self._hidden(latents, used[0])
        else:
            of_heads = torch.stack([self._hidden(latents, head) for head in used], dim=1)
            slots = (
                edge_head if len(used) == len(self.heads) else torch.bucketize(edge_head, edge_head.new_tensor(used))
            )
            features = of_heads.gather(1, slots[:, None, None].expand(-1, 1, of_heads.shape[2]))[:, 0]
        # no edge at all: their weights get a gradient of zero, and so the optimiser the same numbers as ever
        idle = [self._hidden(latents[:0], head).sum() for head in range(len(self.heads)) if head not in used]
        return features + sum(idle) if idle and torch.is_grad_enabled() else features

    def _hidden(self, latents: Tensor, head: int) -> Tensor:
        """Return what the last linear map of a head is applied to, (M, d)."""
        if not self.nonlinear:
            return latents
        for index, weight in enumerate(list(cast(nn.ParameterList, self.heads[head]))[:-1]):
            latents = silu(latents @ (weight * ((SILU_GAIN if index else 1.0) / sqrt(weight.shape[0]))))
        return latents
