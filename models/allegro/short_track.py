"""The tensor track of one or two layers without any tensor on an edge.

Before the last layer a tensor on edge e is V_e (x) (S_i - E_e): bilinear, with V_e and E_e both multiples of
the harmonics of r_e. All the last layer asks for is its scalar product with the next environment, and that
is made of two kinds of scalars: a harmonic of r_e times a field of the centre, and constants times products
of weights. The fields cost once an atom; an edge never holds more than its weights.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from atomfoundry.models.allegro.couplings import Coupling
from atomfoundry.models.allegro.derivatives import couple
from atomfoundry.models.allegro.track import TensorTrack, TrackState


class ShortTrack(TensorTrack):
    """One or two layers."""

    def scalars(self, state: TrackState, layer: int, latents: Tensor) -> Tensor:
        """Return the scalars (M, C) that layer ``layer`` (0 first) gives to the latents (M, d)."""
        return self._first(state, latents) if layer == 0 else self._second(state, latents)

    def _coupling(self, layer: int) -> Coupling:
        return cast(Coupling, self.couplings[layer])

    def _first(self, state: TrackState, latents: Tensor) -> Tensor:
        """Return q = sum_l c_l w_V Y_l . (S - E)_l, c_l the coupling (l, l -> 0e)."""
        tensor, environment = self._edge_weights(0, latents)
        assert tensor is not None
        field = self._sum_environment(state, environment)
        others = self._read(state, field) - self.multiplicity * environment
        state.kept = {"tensor": tensor, "environment": environment, "field": field, "others": others}
        factor = self._coupling(0).scalar()
        return (tensor * others * factor[:, None]).sum(dim=1)

    def _second(self, state: TrackState, latents: Tensor) -> Tensor:
        """Return q = sum_l a_l (V (x) (S - E))_l . (S' - E')_l, primes for this layer's environment.

        With W the path-weighted 3j tensor and g its value for three parallel harmonics,
        (V (x) S) . S' = sum_l w_V Y_l . (W S S')_l; of the rest, terms with E or E' have two harmonics of
        r_e in W, which are multiples of the third, zero where l1 + l2 + l3 is odd.
        """
        kept = state.kept
        _, weights = self._edge_weights(1, latents)
        weights = weights * self._coupling(1).scalar()[:, None]
        field = self._sum_environment(state, weights)
        coupling = self._coupling(0)
        pairs = (kept["field"][:, :, None, :] * field[:, None, :, :]).flatten(1, 2)
        fields = coupling.tensor().flatten(1) @ pairs
        joint, later = self._read(state, torch.cat([fields, field], dim=2)).chunk(2, dim=2)
        # Left over: E with S' and (S - E) with E'; E with E' is inside the second.
        factors, triples = coupling.parallel_paths()
        own = couple(kept["tensor"], kept["environment"], factors, triples, self.n_degrees)
        other = couple(kept["tensor"], kept["others"] / self.multiplicity, factors, triples, self.n_degrees)
        scalars = torch.addcmul(kept["tensor"] * joint, own, later / self.multiplicity, value=-1)
        return torch.addcmul(scalars, other, weights, value=-1).sum(dim=1)
