"""Unit factors. Inside the code: eV, A, eV/A, eV/A^3, fs, K, amu (CODATA through ``ase.units``)."""

from __future__ import annotations

HARTREE = 27.211386024367243
"""eV in one Hartree (CODATA 2014, as ``ase.units.Hartree``)."""

RYDBERG = HARTREE / 2
"""eV in one Rydberg."""

BOHR = 0.5291772105638411
"""Angstrom in one bohr (CODATA 2014, as ``ase.units.Bohr``)."""

HARTREE_PER_BOHR = HARTREE / BOHR
"""eV/A in one Hartree/bohr."""

EV_PER_A3_IN_GPA = 160.21766208
"""GPa in one eV/A^3."""

KBAR = 1 / 1602.1766208
"""eV/A^3 in one kbar."""

GPA = 1 / EV_PER_A3_IN_GPA
"""eV/A^3 in one GPa."""

KB = 8.617330337217213e-05
"""Boltzmann constant, eV/K (CODATA 2014, as ``ase.units.kB``)."""

KCAL_PER_MOL = 0.04336411531
"""eV in one kcal/mol."""
