"""Quantum ESPRESSO by pip (7.2) and the one in PATH (Debian's 6.7) on the same pseudopotentials."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomfoundry.engines import get_engine
from atomfoundry.engines.espresso.install import find_pw
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.units import RYDBERG


def missing() -> str:
    try:
        for source in ("pip", "PATH"):
            find_pw(source)
    except EngineUnavailableError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.espresso, pytest.mark.skipif(bool(missing()), reason=missing())]


def strained_silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    strain = np.array([[0.02, 0.03, 0], [0.03, -0.01, 0.01], [0, 0.01, 0.03]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.mark.slow
def test_both_programs_give_the_same_labels():
    results = [
        get_engine(
            "espresso", program=source, ecutwfc=20 * RYDBERG, kpoint_spacing=0.76, kpoint_shift=True
        ).single_point(strained_silicon())
        for source in ("pip", "PATH")
    ]
    first, second = results
    assert second.energy == pytest.approx(first.energy, abs=1e-5)
    assert second.forces == pytest.approx(first.forces, abs=2e-4)
    assert second.stress == pytest.approx(first.stress, abs=1e-5)
