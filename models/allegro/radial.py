"""Radial-chemical embedding of an edge: Bessel functions, smooth envelope, both elements (ALGORITHMS 2.1)."""

from __future__ import annotations

from math import pi, sqrt

import numpy as np
import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor, nn

from atomfoundry.models.allegro.config import AllegroConfig
from atomfoundry.models.allegro.mlp import unit_variance

AGNESI = {"a": 1.0805, "q": 0.9183, "p": 4.5791}
"""Constants of the distance transform (J. Chem. Phys. 163, 184110, Eq. 3; values of mace)."""


def envelope(x: Tensor, p: int) -> Tensor:
    """Return u(x), 1 at 0 and 0 from 1 on with two vanishing derivatives (ALGORITHMS 2.2)."""
    power = x**p
    value = 1 - power * ((p + 1) * (p + 2) / 2 - x * (p * (p + 2) - x * (p * (p + 1) / 2)))
    return torch.where(x < 1, value, torch.zeros_like(x))


def agnesi_transform(r: Tensor, r0: Tensor) -> Tensor:
    """Return y in (0, 1], falling with the distance: soft at short range (J. Chem. Phys. 163, 184110, Eq. 3).

    Parameters
    ----------
    r, r0
        Distances and mean covalent radii of the pairs, A, of one shape.
    """
    x = r / r0
    return 1 / (1 + AGNESI["a"] * x ** AGNESI["q"] / (1 + x ** (AGNESI["q"] - AGNESI["p"])))


def covalent_radii_of(type_names: list[str]) -> np.ndarray:
    """Return covalent radii (T,), A (Cordero 2008)."""
    return np.array([covalent_radii[atomic_numbers[name]] for name in type_names])


class RadialChemicalEmbedding(nn.Module):
    """z_e = concat(P_centre, P_neighbour) * (R(r) W), ALGORITHMS (2.1)-(2.3)."""

    def __init__(self, config: AllegroConfig, *, generator: torch.Generator, dtype: torch.dtype) -> None:
        super().__init__()
        self.cutoff, self.p = config.cutoff, config.polynomial_p
        self.transform = config.radial_transform
        width, n_types = config.two_body_dims[0], len(config.type_names)
        spacing = pi if self.transform == "agnesi" else pi / config.cutoff
        self.frequencies = nn.Parameter(
            (torch.arange(1, config.num_basis + 1, dtype=torch.float64) * spacing).to(dtype)
        )
        self.centre = unit_variance(n_types, width // 2, generator=generator, dtype=dtype)
        self.neighbour = unit_variance(n_types, width // 2, generator=generator, dtype=dtype)
        self.mixing = unit_variance(config.num_basis, width, generator=generator, dtype=dtype)
        if self.transform == "agnesi":
            # So that a new model's edges begin as large as without the transform: in ethanol rms 0.3, not 150.
            with torch.no_grad():
                self.mixing.mul_(1 / (2 * sqrt(2) * pi))
        radii = torch.tensor(covalent_radii_of(config.type_names), dtype=dtype)
        self.register_buffer("radii", radii, persistent=False)

    def basis(self, r: Tensor, centre_types: Tensor, neighbour_types: Tensor) -> Tensor:
        """Return R_n(r), (M, num_basis), of distances r (M, 1) in A."""
        x = r / self.cutoff
        if self.transform == "agnesi":
            radii: Tensor = self.radii  # type: ignore[assignment]
            r0 = (radii[centre_types] + radii[neighbour_types])[:, None] / 2
            y = agnesi_transform(r, r0)
            return envelope(x, self.p) * sqrt(2) / y * torch.sin(y * self.frequencies)
        return envelope(x, self.p) / (pi * x) * torch.sin(r * self.frequencies)

    def forward(self, r: Tensor, centre_types: Tensor, neighbour_types: Tensor) -> Tensor:
        """Return z (M, D) of edges with distances (M, 1), A, and types (M,)."""
        mixed = self.basis(r, centre_types, neighbour_types) @ (self.mixing / sqrt(self.mixing.shape[0]))
        chemistry = torch.cat(
            [self.centre.index_select(0, centre_types), self.neighbour.index_select(0, neighbour_types)],
            dim=-1,
        )
        return chemistry * mixed
