from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.datasets import (
    CurationSettings,
    attach_labels,
    check_frame,
    curate,
    frame_id,
    isolated_energies,
)
from atomfoundry.errors import DatasetError
from atomfoundry.units import GPA

SILICON = bulk("Si", cubic=True)
ZERO = np.zeros((8, 3))


def good(energy: float = -1.0) -> Atoms:
    return attach_labels(SILICON, energy, ZERO, np.zeros(6))


def with_force(value: float, *, balanced: bool = True) -> Atoms:
    forces = ZERO.copy()
    forces[0, 0] = value
    forces[1, 0] = -value if balanced else 0.0
    return attach_labels(SILICON, -1.0, forces)


def squeezed() -> Atoms:
    atoms = SILICON.copy()
    atoms.positions[1] = atoms.positions[0] + [1.0, 0, 0]
    return attach_labels(atoms, -1.0, ZERO)


def small_cell() -> Atoms:
    return attach_labels(Atoms("Si", cell=[1.0, 5, 5], pbc=True), -1.0, np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (good(), None),
        (attach_labels(SILICON, np.nan, ZERO), "nan"),
        (attach_labels(SILICON, -1.0, ZERO + np.inf), "nan"),
        (attach_labels(SILICON, -1.0, ZERO, np.full(6, np.nan)), "nan"),
        (attach_labels(SILICON, None, ZERO), "no_energy"),
        (attach_labels(SILICON, -1.0), "no_forces"),
        (SILICON, "no_energy"),
        (with_force(49.9), None),
        (with_force(50.1), "exploded"),
        (with_force(0.03, balanced=False), None),
        (with_force(0.05, balanced=False), "net_force"),
        (squeezed(), "too_close"),
        (small_cell(), "too_close"),
        (attach_labels(SILICON, -1.0, ZERO, [0, 0, 0, 0, 0, 101 * GPA]), "large_stress"),
    ],
)
def test_reasons(frame: Atoms, reason: str | None) -> None:
    problem = check_frame(frame)
    assert (problem[0] if problem else None) == reason


def test_positions_that_are_not_finite_are_refused_without_an_id() -> None:
    broken = SILICON.copy()
    broken.positions[0, 0] = np.nan
    kept, rejections = curate([broken])
    assert kept == []
    assert [(item.reason, item.frame_id) for item in rejections] == [("nan", "")]


def test_limits_are_settings() -> None:
    assert check_frame(with_force(50.1), CurationSettings(max_force=60)) is None
    assert check_frame(attach_labels(SILICON, -1.0), CurationSettings(require_forces=False)) is None
    assert check_frame(squeezed(), CurationSettings(min_distance_factor=0)) is None
    problem = check_frame(good(), CurationSettings(excluded_elements=("Si",)))
    assert problem == ("excluded_element", "Si")


def test_molecules_have_their_own_net_force_limit() -> None:
    forces = np.zeros((5, 3))
    forces[0, 2] = 0.04
    assert check_frame(attach_labels(molecule("SiH4"), -1.0, forces)) is None
    assert check_frame(attach_labels(molecule("SiH4"), -1.0, 2 * forces)) is not None


def test_curate_keeps_order_and_refuses_duplicates_of_one_level() -> None:
    other = good(-2.0)
    other.info["level"] = "hybrid"
    first, again = good(), good(-1.1)
    kept, rejections = curate([first, again, other, with_force(99)])
    assert kept == [first, other]
    assert kept[0] is first
    assert [item.reason for item in rejections] == ["duplicate", "exploded"]
    assert rejections[0].frame_id == frame_id(SILICON)
    assert rejections[1].formula == "Si8"
    assert "99" in rejections[1].message


def test_a_bad_frame_does_not_shadow_a_good_duplicate() -> None:
    kept, rejections = curate([with_force(99), good()])
    assert len(kept) == len(rejections) == 1


def atom(symbol: str, energy: float, spin: int | None = None, charge: int = 0) -> Atoms:
    frame = attach_labels(Atoms(symbol), energy)
    frame.info.update(sampling="isolated_atom", spin_multiplicity=spin, charge=charge)
    return frame


def test_isolated_energies() -> None:
    frames = [atom("Si", -5.0, 3), atom("H", -13.6, 2), atom("Si", -4.0, 1), atom("Si", 3.0, 2, 1), good()]
    assert isolated_energies(frames) == {"H": -13.6, "Si": -5.0}


def test_isolated_energies_that_contradict_each_other() -> None:
    with pytest.raises(DatasetError, match="two energies"):
        isolated_energies([atom("Si", -5.0, 3), atom("Si", -5.1, 3)])
    crystal = good()
    crystal.info["sampling"] = "isolated_atom"
    with pytest.raises(DatasetError, match="8 atoms"):
        isolated_energies([crystal])
