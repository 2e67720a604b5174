"""The tensor track of any number of layers, with tensors on edges.

The 3j tensor is contracted with the summed environment once an atom and multiplied onto its edges' tensors in
one batched product; the edge's own share is subtracted afterwards (the product is bilinear).
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from atomfoundry.models.allegro.couplings import Coupling
from atomfoundry.models.allegro.track import TensorTrack, TrackState


class LongTrack(TensorTrack):
    """Any number of layers; needed from three on, and the check of the shorter form."""

    def scalars(self, state: TrackState, layer: int, latents: Tensor) -> Tensor:
        """Return the scalars (M, C) that layer ``layer`` (0 first) gives to the latents (M, d)."""
        weights, environment = self._edge_weights(layer, latents)
        harmonics = self._edge_harmonics(state)
        if weights is not None:
            state.kept["tensor"] = weights.mT @ harmonics  # (M, C, K)
        tensor = state.kept["tensor"]
        field = self._sum_environment(state, environment)
        coupling = cast(Coupling, self.couplings[layer])
        if layer == self.n_layers - 1:
            others = self._at_edges(state, field.mT) - environment.mT @ harmonics
            factor = self._per_component(coupling.scalar())
            return (tensor * others * factor).sum(dim=2)
        weighted = coupling.tensor()
        product = self._times_field(state, tensor, torch.einsum("abc,nbk->nkac", weighted, field))
        # The edge's own environment: E = w_E Y, so contract the 3j tensor with Y, degree by degree.
        own = torch.einsum("abc,elb->elac", weighted, harmonics)
        scaled = tensor[:, :, None, :] * environment.mT[:, :, :, None]
        product = product - scaled.flatten(2) @ own.flatten(1, 2)
        state.kept["tensor"] = product
        return product[:, :, 0]
