"""The tensor track: what a layer asks of it is the scalars that its latents get (ALGORITHMS 2.3, 2.4).

All weights of one degree lie together, channels last: ``(M, l, C)``. The block harmonics ``(M, l, k)`` hold
Y_k where k belongs to degree l and zero elsewhere, so that one batched matrix product an atom makes the
summed environment, and one more reads it at each of its edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import sqrt

import numpy as np
import torch
from torch import Tensor, nn

from atomfoundry.models.allegro.angular import harmonic_coefficients, harmonic_slices
from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.couplings import couplings_of
from atomfoundry.models.allegro.mlp import unit_variance
from atomfoundry.models.padding import EdgeLayout


@dataclass
class TrackState:
    """What the track remembers between layers.

    Parameters
    ----------
    layout
        Edges of each atom.
    harmonics
        Block harmonics of the edges as a rectangle, (N, D * (l_max + 1), K).
    """

    layout: EdgeLayout
    harmonics: Tensor
    kept: dict[str, Tensor] = field(default_factory=dict)


class BlockHarmonics(nn.Module):
    """Spherical harmonics of unit vectors, each degree in a row of its own."""

    coefficients: Tensor

    def __init__(self, l_max: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.l_max = l_max
        plain = harmonic_coefficients(l_max)
        blocks = np.zeros((plain.shape[0], l_max + 1, plain.shape[1]))
        for degree, where in enumerate(harmonic_slices(l_max)):
            blocks[:, degree, where] = plain[:, where]
        self.register_buffer("coefficients", torch.tensor(blocks, dtype=dtype).flatten(1), persistent=False)

    def forward(self, unit: Tensor) -> Tensor:
        """Return (M, l_max + 1, K) of unit vectors (M, 3)."""
        powers = [torch.ones_like(unit[:, :1])]
        for _ in range(self.l_max):
            powers.append((powers[-1][:, :, None] * unit[:, None, :]).flatten(1))
        flat = torch.cat(powers, dim=1) @ self.coefficients
        return flat.view(-1, self.l_max + 1, (self.l_max + 1) ** 2)


class HarmonicTrack(nn.Module):
    """Harmonics of the edges, sums over the edges of an atom, and the reading of such sums at the edges."""

    def __init__(self, config: AllegroConfig, *, dtype: torch.dtype) -> None:
        super().__init__()
        self.n_layers, self.n_degrees, self.n_channels = (
            config.n_layers,
            config.l_max + 1,
            config.num_channels,
        )
        self.block_harmonics = BlockHarmonics(config.l_max, dtype)

    def begin(self, unit: Tensor, layout: EdgeLayout) -> TrackState:
        """Start with the unit vectors of the edges, (M, 3)."""
        spread = layout.spread(self.block_harmonics(unit))
        return TrackState(layout, spread.flatten(1, 2))

    @staticmethod
    def _sum_environment(state: TrackState, environment: Tensor) -> Tensor:
        """Return S_i = sum_e w_E Y over the edges of each atom, (N, K, C)."""
        return state.harmonics.mT @ state.layout.spread(environment).flatten(1, 2)

    def _read(self, state: TrackState, fields: Tensor) -> Tensor:
        """Return Y_l(e) . field_l of the centre, (M, l, columns), for fields (N, K, columns)."""
        read = (state.harmonics @ fields).unflatten(1, (-1, self.n_degrees))
        return state.layout.collect(read)

    def _edge_harmonics(self, state: TrackState) -> Tensor:
        """Return the block harmonics of the edges, (M, l, K)."""
        return state.layout.collect(state.harmonics.unflatten(1, (-1, self.n_degrees)))

    def _per_component(self, per_degree: Tensor) -> Tensor:
        """Repeat (..., l_max + 1) to (..., K)."""
        repeats = torch.arange(self.n_degrees, device=per_degree.device) * 2 + 1
        return per_degree.repeat_interleave(repeats, dim=-1)

    @staticmethod
    def _at_edges(state: TrackState, per_atom: Tensor) -> Tensor:
        """Repeat (N, ...) for the edges of each atom, (M, ...)."""
        shape = (state.layout.n_atoms, state.layout.width, *per_atom.shape[1:])
        return state.layout.collect(per_atom[:, None].expand(shape))

    @staticmethod
    def _times_field(state: TrackState, tensor: Tensor, operator: Tensor) -> Tensor:
        """Multiply edge tensors (M, C, K_in) by their centre's operator (N, C, K_in, K_out)."""
        rectangle = state.layout.spread(tensor).transpose(1, 2)  # (N, C, D, K_in)
        return state.layout.collect((rectangle @ operator).transpose(1, 2))


class TensorTrack(HarmonicTrack):
    """Variant A: weights of the track and the steps that every way of evaluating it shares."""

    multiplicity: Tensor

    def __init__(self, config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__(config, dtype=dtype)
        width, rows = config.latent_width, self.n_degrees * self.n_channels
        self.environment_gain = 1 / sqrt(config.avg_num_neighbors - 1)
        self.environments = nn.ParameterList(
            unit_variance(width, 2 * rows if layer == 0 else rows, generator=generator, dtype=dtype)
            for layer in range(self.n_layers)
        )
        self.couplings = couplings_of(config, generator=generator, dtype=dtype)
        degrees = torch.arange(self.n_degrees, dtype=dtype)
        self.register_buffer("multiplicity", (2 * degrees + 1)[:, None], persistent=False)

    def scalars(self, state: TrackState, layer: int, latents: Tensor) -> Tensor:
        """Return the scalars (M, C) that layer ``layer`` (0 first) gives to the latents (M, d)."""
        raise NotImplementedError

    def _edge_weights(self, layer: int, latents: Tensor) -> tuple[Tensor | None, Tensor]:
        """Return (w_V, w_E), each (M, l, C); w_V only in the first layer, w_E with its (Nbar - 1)^(-1/2)."""
        gain = 1 / sqrt(latents.shape[1])
        rows = self.n_degrees * self.n_channels
        shape = (-1, self.n_degrees, self.n_channels)
        tensor, environment = self.environments[layer].split([rows * (layer == 0), rows], dim=1)
        weights = (latents @ (environment * (gain * self.environment_gain))).view(shape)
        return ((latents @ (tensor * gain)).view(shape) if layer == 0 else None), weights
