"""The tensor track of variant B: all edges of the centre are its environment, each channel has its own path weights.

Nothing is subtracted for an edge's own share, so one or two layers need no tensor on an edge at all: the
scalars of an edge are its harmonics times a field of its centre, and the field costs once an atom.
"""

from __future__ import annotations

from math import sqrt
from typing import cast

import torch
from torch import Tensor

from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.couplings import Coupling, couplings_of
from atomfoundry.models.allegro.track import HarmonicTrack, TrackState


class DenseTrack(HarmonicTrack):
    """One or two layers, without tensors on edges."""

    def __init__(self, config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__(config, dtype=dtype)
        self.environment_gain = 1 / sqrt(config.avg_num_neighbors)
        self.couplings = couplings_of(config, generator=generator, dtype=dtype, n_channels=config.num_channels)

    def scalars(self, state: TrackState, layer: int, tensor: Tensor, environment: Tensor) -> Tensor:
        """Return the scalars (M, C) of layer ``layer`` (0 first).

        Parameters
        ----------
        state
            Of these edges; layers must be asked for in their order.
        layer
            Which.
        tensor
            Weights w_V of the harmonics before the first layer, (M, l, C).
        environment
            Weights w_E of this layer's environment, (M, l, C).
        """
        field = self._field(state, environment)
        if layer == 0:
            state.kept["field"] = field
            return (tensor * self._read(state, field * self._scalar_factors(0))).sum(dim=1)
        # sum_q v_q (w_V Y (x) S) . S' = w_V Y . (W S S'), W the path-weighted 3j tensor of the channel.
        field = field * self._scalar_factors(1)
        pairs = state.kept["field"][:, :, None, :] * field[:, None, :, :]
        weighted = self._coupling(0).tensor().flatten(2)  # (C, K, K K)
        joint = (pairs.flatten(1, 2).permute(2, 0, 1) @ weighted.mT).permute(1, 2, 0)
        return (tensor * self._read(state, joint)).sum(dim=1)

    def _coupling(self, layer: int) -> Coupling:
        return cast(Coupling, self.couplings[layer])

    def _field(self, state: TrackState, environment: Tensor) -> Tensor:
        """Return the normalised S_i, (N, K, C)."""
        return self._sum_environment(state, environment) * self.environment_gain

    def _scalar_factors(self, layer: int) -> Tensor:
        """Return the factor of each component in the coupling to 0e, (K, C)."""
        return self._per_component(self._coupling(layer).scalar()).mT


class LongDenseTrack(DenseTrack):
    """Any number of layers, with tensors on edges; needed from three on, and the check of the shorter form."""

    def scalars(self, state: TrackState, layer: int, tensor: Tensor, environment: Tensor) -> Tensor:
        """Return the scalars (M, C) of layer ``layer`` (0 first); arguments as for the shorter form."""
        if layer == 0:
            state.kept["tensor"] = tensor.mT @ self._edge_harmonics(state)  # (M, C, K)
        edges = state.kept["tensor"]
        field = self._field(state, environment)
        if layer == self.n_layers - 1:
            return (edges * self._at_edges(state, (field * self._scalar_factors(layer)).mT)).sum(dim=2)
        operator = torch.einsum("cabk,nbc->ncak", self._coupling(layer).tensor(), field)
        state.kept["tensor"] = self._times_field(state, edges, operator)
        return state.kept["tensor"][:, :, 0]
