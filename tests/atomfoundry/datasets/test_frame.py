from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from atomfoundry.datasets import attach_labels, clean_frame, frame_id, labels_of, unique_frames, with_metadata
from atomfoundry.errors import DatasetError, StructureError


def test_frame_id_is_a_content_hash() -> None:
    silicon = bulk("Si")
    assert frame_id(silicon) == frame_id(silicon.copy())
    assert len(frame_id(silicon)) == 32
    assert set(frame_id(silicon)) <= set("0123456789abcdef")
    # Pinned: a change of the hash would orphan every stored label.
    assert frame_id(Atoms("H")) == "58156af45d004ce0eef83c618339cfe4"


def test_frame_id_sees_every_ingredient() -> None:
    base = bulk("Si", cubic=True)
    ids = {frame_id(base)}
    changes = [base.copy() for _ in range(6)]
    changes[0].numbers[0] = 32
    changes[1].positions[3, 1] += 1e-6
    changes[2].set_cell(base.cell * 1.001)
    changes[3].pbc = [True, True, False]
    changes[4].info["charge"] = 1
    changes[5].info["spin_multiplicity"] = 3
    ids.update(frame_id(atoms) for atoms in changes)
    assert len(ids) == 7


def test_frame_id_ignores_rounding_noise_negative_zero_and_defaults() -> None:
    base = Atoms("Si2", positions=[[0.0, 0.0, 0.0], [1.3, 1.3, 1.3]], cell=[5.0, 5.0, 5.0], pbc=True)
    other = base.copy()
    other.positions[0] = -0.0
    other.positions[1] += 1e-12
    other.info.update(charge=0, spin_multiplicity=None, level="x", weight=3.0)
    assert frame_id(base) == frame_id(other)


def test_frame_id_does_not_wrap() -> None:
    base = bulk("Si")
    shifted = base.copy()
    shifted.positions[1] += base.cell[0]
    assert frame_id(base) != frame_id(shifted)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e12])
def test_frame_id_refuses_impossible_lengths(value: float) -> None:
    atoms = molecule("H2")
    atoms.positions[0, 0] = value
    with pytest.raises(StructureError):
        frame_id(atoms)


def test_labels_travel_and_missing_ones_stay_missing() -> None:
    atoms = bulk("Ar", cubic=True)
    labelled = attach_labels(atoms, -1.5, np.ones((4, 3)))
    assert atoms.calc is None
    energy, forces, stress = labels_of(labelled)
    assert energy == -1.5
    assert (forces == 1).all()
    assert stress is None
    assert labels_of(atoms) == (None, None, None)


def test_labels_of_a_moved_frame_are_gone() -> None:
    labelled = attach_labels(bulk("Ar"), -1.0)
    labelled.rattle(0.1)
    assert labels_of(labelled) == (None, None, None)


def test_labels_of_a_live_calculator_are_what_it_has_computed() -> None:
    atoms = bulk("Ar", cubic=True).repeat((2, 1, 1))
    atoms.calc = LennardJones(sigma=3.4, epsilon=0.01, rc=8.0)
    assert labels_of(atoms) == (None, None, None)
    energy = atoms.get_potential_energy()
    assert labels_of(atoms)[0] == energy


def test_forces_are_those_of_the_engine_despite_constraints() -> None:
    atoms = bulk("Ar", cubic=True)
    atoms.set_constraint(FixAtoms([0]))
    forces = np.arange(12.0).reshape(4, 3) + 1
    labelled = attach_labels(atoms, 0.0, forces)
    assert (labels_of(labelled)[1] == forces).all()
    assert (labelled.get_forces() == forces).all()


def test_full_stress_becomes_voigt() -> None:
    tensor = np.array([[1.0, 6.0, 5.0], [6.0, 2.0, 4.0], [5.0, 4.0, 3.0]])
    _, _, stress = labels_of(attach_labels(bulk("Ar"), 0.0, stress=tensor))
    assert stress is not None
    assert stress.tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(("forces", "stress"), [(np.zeros((3, 3)), None), (None, np.zeros(5))])
def test_labels_of_wrong_shape_are_refused(forces: np.ndarray | None, stress: np.ndarray | None) -> None:
    with pytest.raises(DatasetError, match="shape"):
        attach_labels(bulk("Ar"), 0.0, forces, stress)


def test_with_metadata_fills_defaults_and_renews_the_id() -> None:
    atoms = attach_labels(bulk("Si"), -1.0)
    atoms.info.update(frame_id="stale", source="file.cif")
    frame = with_metadata(atoms, sampling="strain")
    assert frame.info["frame_id"] == frame_id(atoms)
    assert frame.info["group_id"] == frame.info["frame_id"]
    assert frame.info["source"] == "file.cif"
    assert frame.info["sampling"] == "strain"
    assert frame.info["weight"] == 1.0
    assert labels_of(frame)[0] == -1.0
    assert atoms.info["frame_id"] == "stale"


def test_clean_frame_drops_what_readers_leave() -> None:
    atoms = bulk("Si")
    atoms.info["spacegroup"] = object()
    atoms.set_constraint(FixAtoms([0]))
    atoms.set_array("spacegroup_kinds", np.arange(2))
    clean = clean_frame(atoms)
    assert not clean.constraints
    assert set(clean.arrays) == {"numbers", "positions"}
    assert "spacegroup" not in clean.info
    assert frame_id(clean) == frame_id(atoms)


def test_unique_frames_keeps_the_first() -> None:
    first, second = bulk("Si"), bulk("Ge")
    again = bulk("Si")
    assert unique_frames([first, second, again]) == [first, second]
    assert unique_frames([first, second, again])[0] is first
