"""Real runs of atomate2's run_vasp, custodian and its handlers, on a program that stands in for VASP."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from atomfoundry.engines import get_engine
from atomfoundry.errors import LabelError

FAST = {"polling_time_step": 0.05, "run_vasp_kwargs": {"custodian_kwargs": {"monitor_freq": 1}}}


def engine(**settings):
    return get_engine("vasp", **{**FAST, **settings})


def strained(n: int = 4) -> Atoms:
    """Mixed elements in an order that VASP does not keep, sheared, rattled."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:] = ["O", "Cu", "Al", "Cu"]
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + [[0.02, 0.03, 0], [0, -0.01, 0.02], [0.01, 0, 0.03]]), scale_atoms=True)
    atoms.rattle(0.08, seed=4)
    return atoms[:n]


def reference(atoms: Atoms, constants) -> Atoms:
    copy = atoms.copy()
    copy.calc = LennardJones(sigma=constants.SIGMA, epsilon=constants.EPSILON, rc=constants.CUTOFF)
    return copy


def assert_label(result, atoms, constants, *, energy_shift=0.0):
    exact = reference(atoms, constants)
    assert result.energy == pytest.approx(exact.get_potential_energy() + energy_shift, abs=2e-8)
    assert np.abs(result.forces - exact.get_forces()).max() < 2e-8
    assert np.abs(result.forces).max() > 0.1
    if result.stress is not None:
        assert np.abs(result.stress - exact.get_stress()).max() < 2e-8
        assert np.abs(exact.get_stress()).min() > 1e-4


def test_a_label_is_the_calculators(standin, constants, tmp_path):
    atoms = strained()
    before = Path.cwd()
    labelled = engine().compute(atoms, tmp_path / "run")
    assert_label(
        type("R", (), labelled.calc.results | {"stress": labelled.calc.results["stress"]}), atoms, constants
    )
    assert labelled.info["level"] == engine().level.id
    assert Path.cwd() == before
    assert "CUSTODIAN_WALLTIME_START" not in os.environ
    (call,) = standin.calls
    assert call["symbols"] == sorted(call["symbols"], key=["Al", "Cu", "O"].index)
    assert call["potcar"] == list(dict.fromkeys(call["symbols"]))[:0] + ["Al", "Cu_pv", "O"]
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"vasprun.xml", "OUTCAR", "INCAR", "POSCAR", "custodian.json"} <= kept
    assert not kept & {"POTCAR", "POTCAR.orig", "WAVECAR", "CHGCAR", "PROCAR"}
