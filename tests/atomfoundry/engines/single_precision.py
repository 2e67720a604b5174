"""A calculator that answers as models in single precision do: float32, and a stress of three rows."""

from __future__ import annotations

import numpy as np
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.stress import voigt_6_to_full_3x3_stress


class SinglePrecision(Calculator):
    """EMT, rounded, with a stress that is not quite symmetric."""

    implemented_properties = ("energy", "forces", "stress", "magmoms")

    def calculate(self, atoms=None, properties=("energy",), system_changes=tuple(all_changes)):
        super().calculate(atoms, properties, system_changes)
        emt = EMT()
        stress = voigt_6_to_full_3x3_stress(emt.get_property("stress", atoms)).astype(np.float32)
        stress[0, 1] += np.float32(1e-7)
        forces = emt.get_property("forces", atoms).astype(np.float32)
        self.results = {
            "energy": np.float32(emt.get_property("energy", atoms)),
            "forces": forces,
            "stress": stress,
            "magmoms": forces[:, 0].copy(),
        }
