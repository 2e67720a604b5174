"""Ziegler-Biersack-Littmark repulsion of nuclei at short range (J. Chem. Phys. 163, 184110, Eqs. 1-2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from ase.data import atomic_numbers, covalent_radii
from torch import Tensor, nn

COULOMB = 14.3996
"""e^2 / (4 pi eps0), eV A, to the digits of the source."""
SCREENING_FACTORS = (0.1818, 0.5099, 0.2802, 0.02817)
SCREENING_DECAYS = (3.2, 0.9423, 0.4028, 0.2016)
SCREENING_LENGTH = 0.529 * 0.4543
SCREENING_EXPONENT = 0.300
ENVELOPE_P = 6


class ZBL(nn.Module):
    """Screened Coulomb repulsion, smoothly zero from the sum of the covalent radii on.

    Parameters
    ----------
    type_names
        The model's elements.
    cutoff
        Radius of the neighbour list, A; a pair whose radii sum to more ends there instead, so that no pair
        is cut.
    """

    charges: Tensor
    radii: Tensor

    def __init__(self, type_names: Sequence[str], *, cutoff: float) -> None:
        super().__init__()
        numbers = [atomic_numbers[name] for name in type_names]
        self.cutoff = cutoff
        self.register_buffer("charges", torch.tensor(numbers, dtype=torch.float64), persistent=False)
        radii = torch.tensor([covalent_radii[number] for number in numbers], dtype=torch.float64)
        self.register_buffer("radii", radii, persistent=False)

    def forward(self, r: Tensor, centre_types: Tensor, neighbour_types: Tensor) -> Tensor:
        """Return half the pair energy of each directed edge, (M,) float64, eV.

        Parameters
        ----------
        r
            (M,) float64 distances, A.
        centre_types, neighbour_types
            (M,) indices of the elements.
        """
        from atomfoundry.models.allegro.radial import envelope

        z_i, z_j = self.charges[centre_types], self.charges[neighbour_types]
        x = r * (z_i**SCREENING_EXPONENT + z_j**SCREENING_EXPONENT) / SCREENING_LENGTH
        screening = torch.zeros_like(r)
        for factor, decay in zip(SCREENING_FACTORS, SCREENING_DECAYS, strict=True):
            screening = screening + factor * torch.exp(-decay * x)
        r_max = (self.radii[centre_types] + self.radii[neighbour_types]).clamp(max=self.cutoff)
        return 0.5 * COULOMB * z_i * z_j / r * screening * envelope(r / r_max, ENVELOPE_P)
