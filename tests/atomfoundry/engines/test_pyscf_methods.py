from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import molecule
from ase.io import read

from atomfoundry.engines import get_engine
from atomfoundry.engines.pyscf.methods import parse_method
from atomfoundry.errors import ConfigurationError, LabelError, UnsupportedElementError
from atomfoundry.units import HARTREE, HARTREE_PER_BOHR

COARSE = {"grid_level": 1, "nonlocal_grid_level": 0}
"""With the response of the grid, forces are exact on any grid."""


def hydrogen_fluoride() -> Atoms:
    return Atoms("FH", [[0, 0, 0], [0.1, 0.3, 0.9]])


def amidogen() -> Atoms:
    """A doublet whose ground state is not degenerate, so that energies are smooth."""
    return Atoms("NH2", [[0, 0, 0], [0.1, 0.2, 1.0], [0.95, 0.1, -0.25]])


def slope_error(engine, atoms, step=1e-3) -> float:
    """Difference of force and energy slope along a random direction, eV/A."""
    direction = np.random.default_rng(0).normal(size=(len(atoms), 3))
    direction /= np.linalg.norm(direction)
    energies = []
    for sign in (1, -1):
        moved = atoms.copy()
        moved.positions += sign * step * direction
        energies.append(engine.single_point(moved).energy)
    forces = engine.single_point(atoms).forces
    assert np.abs(forces.sum(axis=0)).max() < 1e-6
    return float((forces * direction).sum() + (energies[0] - energies[1]) / (2 * step))


@pytest.mark.parametrize(
    "functional",
    [
        "wb97x-d3bj",
        "r2scan-d4",
        "pbe0-d3zero",
        "hf",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("wb97x-d4", "pbe0-d3bjatm", "pbe-d3bjm", "b3lyp-d4", "hf-d3bj")
        ),
    ],
)
def test_forces_are_the_slope_of_the_energy(functional):
    engine = get_engine("pyscf", functional=functional, basis="6-31g", **COARSE)
    engine.check_available()
    assert abs(slope_error(engine, hydrogen_fluoride())) < 1e-4


@pytest.mark.parametrize("functional", ["wb97m-v", "b97m-v"])
@pytest.mark.slow
def test_nonlocal_correlation_has_its_forces(functional):
    engine = get_engine("pyscf", functional=functional, basis="sto-3g", **COARSE)
    engine.check_available()
    assert engine.level.dispersion == "VV10"
    assert abs(slope_error(engine, hydrogen_fluoride())) < 1e-4


@pytest.mark.parametrize(
    ("method", "frozen_core"),
    [
        ("mp2", True),
        ("mp2", False),
        ("ccsd", True),
        pytest.param("ccsd(t)", True, marks=pytest.mark.slow),
        pytest.param("ccsd(t)", False, marks=pytest.mark.slow),
    ],
)
def test_correlated_forces(method, frozen_core):
    """PySCF's default lambda amplitudes for CCSD(T) are those of CCSD, whose forces are wrong by 3e-4 eV/A."""
    engine = get_engine("pyscf", functional=method, basis="6-31g", frozen_core=frozen_core)
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    assert abs(slope_error(engine, water)) < 3e-5
    assert engine.level.extra == {"density_fitting": False, "frozen_core": frozen_core}


@pytest.mark.slow
def test_open_shells():
    for settings in (
        {"functional": "mp2"},
        {"functional": "ccsd"},
        {"functional": "hf", "open_shell": "restricted"},
        {"functional": "pbe", "open_shell": "restricted", **COARSE},
        {"functional": "pbe0-d4", "density_fitting": True, **COARSE},
    ):
        engine = get_engine("pyscf", basis="sto-3g", **settings)
        assert abs(slope_error(engine, amidogen())) < 1e-4, settings
    restricted = get_engine("pyscf", functional="hf", basis="6-31g", open_shell="restricted")
    unrestricted = get_engine("pyscf", functional="hf", basis="6-31g")
    assert restricted.level.id != unrestricted.level.id
    assert unrestricted.single_point(amidogen()).energy < restricted.single_point(amidogen()).energy


def test_triples_of_open_shell_molecules_are_refused_but_not_of_atoms():
    engine = get_engine("pyscf", functional="CCSD(T)", basis="6-31g")
    with pytest.raises(LabelError, match="'ccsd'") as caught:
        engine.compute(amidogen())
    assert caught.value.reason == "unsupported"
    oxygen, hydrogen = engine.single_point(Atoms("O")), engine.single_point(Atoms("H"))
    assert oxygen.energy < get_engine("pyscf", functional="ccsd", basis="6-31g").single_point(Atoms("O")).energy
    # one electron: Hartree-Fock is exact
    assert hydrogen.energy == get_engine("pyscf", functional="hf", basis="6-31g").single_point(Atoms("H")).energy


@pytest.mark.parametrize("density_fitting", [True, "coulomb"])
@pytest.mark.slow
def test_density_fitting(density_fitting):
    engine = get_engine("pyscf", functional="pbe0", basis="6-31g", density_fitting=density_fitting, **COARSE)
    exact = get_engine("pyscf", functional="pbe0", basis="6-31g", **COARSE)
    atoms = hydrogen_fluoride()
    assert abs(slope_error(engine, atoms)) < 1e-4
    difference = engine.single_point(atoms).energy - exact.single_point(atoms).energy
    assert 1e-7 < abs(difference) < 1e-2
    assert engine.level.id != exact.level.id
    named = get_engine(
        "pyscf", functional="pbe0", density_fitting=density_fitting, auxiliary_basis="def2-universal-jkfit"
    )
    assert named.level.extra["auxiliary_basis"] == "def2-universal-jkfit"


def test_core_potentials_of_heavy_elements():
    iodide = Atoms("HI", [[0, 0, 0], [0.1, 0.3, 1.6]])
    assert get_engine("pyscf")._mean_field(iodide).mol.nelectron == 54 - 28
    assert abs(slope_error(get_engine("pyscf", functional="hf", basis="lanl2dz"), iodide)) < 1e-4
    with pytest.raises(UnsupportedElementError, match="I"):
        get_engine("pyscf", basis="sto-3g").compute(iodide)
    with pytest.raises(UnsupportedElementError, match="cannot compute K"):
        get_engine("pyscf", basis="cc-pvdz").check_elements(["K", "H"])


def test_dispersion_energy_is_that_of_the_program_alone():
    from pyscf import gto
    from pyscf.dispersion import dftd4

    atoms = Atoms("Ar2", [[0, 0, 0], [0, 0, 4.0]])
    settings = {"basis": "sto-3g", **COARSE}
    with_d4 = get_engine("pyscf", functional="r2scan-d4", **settings).single_point(atoms)
    without = get_engine("pyscf", functional="r2scan", **settings).single_point(atoms)
    pair = gto.M(atom="Ar 0 0 0; Ar 0 0 4", basis="sto-3g", verbose=0)
    alone = dftd4.DFTD4Dispersion(pair, xc="r2scan", atm=True).get_dispersion(grad=True)
    assert with_d4.energy - without.energy == pytest.approx(float(alone["energy"]) * HARTREE, abs=1e-7)
    assert with_d4.forces - without.forces == pytest.approx(-alone["gradient"] * HARTREE_PER_BOHR, abs=1e-6)


def test_dispersion_of_an_ion_knows_its_charge():
    ion = Atoms("OH", [[0, 0, 0], [0, 0, 0.97]], info={"charge": -1})
    engine = get_engine("pyscf", functional="hf-d4", basis="6-31g")
    assert abs(slope_error(engine, ion)) < 1e-4
    plain = get_engine("pyscf", functional="hf", basis="6-31g")
    neutral = Atoms("OH", ion.positions, info={"spin_multiplicity": 2})
    ours, theirs = (engine.single_point(atoms).energy - plain.single_point(atoms).energy for atoms in (ion, neutral))
    assert abs(ours - theirs) > 1e-4


def test_orca_is_reproduced_when_only_coulomb_is_fitted():
    """ORCA 5.0.4, H2, wB97X-D3BJ/def2-TZVP with RIJCOSX and def2/J, a recorded output of quacc's tests."""
    atoms = Atoms("H2", [[0, 0, 0.368583], [0, 0, -0.368583]])
    engine = get_engine(
        "pyscf",
        functional="wB97X-D3(BJ)",
        basis="def2-TZVP",
        density_fitting="coulomb",
        auxiliary_basis="def2-universal-jfit",
    )
    result = engine.single_point(atoms)
    assert result.energy / HARTREE == pytest.approx(-1.181452285549, abs=2e-6)
    assert result.forces[0, 2] / HARTREE_PER_BOHR == pytest.approx(0.004896031, abs=1e-5)


def test_stability_finds_the_broken_symmetry_of_a_stretched_bond():
    stretched = Atoms("H2", [[0, 0, 0], [0, 0, 2.5]])
    settings = {"functional": "hf", "basis": "6-31g"}
    saddle, minimum = get_engine("pyscf", **settings), get_engine("pyscf", stability=True, **settings)
    atoms = 2 * minimum.single_point(Atoms("H")).energy
    assert minimum.single_point(stretched).energy == pytest.approx(atoms, abs=0.05)
    assert saddle.single_point(stretched).energy > atoms + 2
    assert abs(slope_error(minimum, stretched)) < 1e-4
    assert minimum.level.id != saddle.level.id
    bonded = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]])
    assert minimum.single_point(bonded).energy == pytest.approx(saddle.single_point(bonded).energy, abs=1e-8)


@pytest.mark.slow
def test_second_order_solver_saves_what_diis_cannot_converge():
    """Four steps are too few for DIIS with and without level shift, and enough for the second-order solver."""
    water = molecule("H2O")
    water.rattle(0.05, seed=1)
    settings = {"functional": "pbe-d3bj", "basis": "6-31g", **COARSE}
    easy, hard = get_engine("pyscf", **settings), get_engine("pyscf", max_steps=4, **settings)
    field = hard._mean_field(water)
    field.kernel()
    assert not field.converged
    assert hard.single_point(water).energy == pytest.approx(easy.single_point(water).energy, abs=1e-6)
    assert hard.single_point(water).forces == pytest.approx(easy.single_point(water).forces, abs=2e-4)


def test_time_limits(monkeypatch):
    water = molecule("H2O")
    for settings in ({"functional": "pbe"}, {"functional": "ccsd"}):
        with pytest.raises(LabelError, match="Raise 'timeout'") as caught:
            get_engine("pyscf", basis="6-31g", timeout=1e-3, **settings).compute(water)
        assert caught.value.reason == "timeout"
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", "1.0")
    with pytest.raises(LabelError, match="batch job") as caught:
        get_engine("pyscf", basis="6-31g").compute(water)
    assert caught.value.reason == "timeout"
    assert get_engine("pyscf", timeout=5.0).level.id == get_engine("pyscf").level.id


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"functional": "wb97x-d3"}, "not offered"),
        ({"functional": "b97-3c"}, "not offered"),
        ({"functional": "wb97m-v-d3bj"}, "twice"),
        ({"functional": "lc-vv10"}, "not offered"),
        ({"functional": "vv10"}, "has the nonlocal VV10 term"),
        ({"functional": "b2plyp"}, "needs forces"),
        ({"functional": "m06-2x-d3bj"}, r"no D3\(BJ\) parameters for 'm06-2x'"),
        ({"functional": "mgga_x_br89"}, "Laplacian"),
        ({"basis": "def2-svpp"}, "def2svp"),
        ({"functional": "mp2", "density_fitting": True}, "neither"),
        ({"functional": "ccsd", "open_shell": "restricted"}, "neither"),
        ({"open_shell": "closed"}, "unrestricted"),
        ({"auxiliary_basis": "weigend"}, "density_fitting"),
        ({"density_fitting": "exchange"}, "coulomb"),
        ({"nonlocal_grid_level": 12}, "0 to 9"),
        ({"timeout": 0.0}, "positive"),
    ],
)
def test_wrong_settings_are_named(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        get_engine("pyscf", **settings).check_available()


def test_names_have_one_spelling():
    for name in ("wB97M-V", "wb97m_v", "WB97M-V"):
        assert get_engine("pyscf", functional=name).level.label == "wB97M-V/def2-SVP (pyscf)"
    for name in ("wB97M-D3(BJ)", "wb97m-d3bj", "wB97M-D3-BJ"):
        assert get_engine("pyscf", functional=name) == get_engine("pyscf")
    assert parse_method("wb97x-d4").exchange_correlation == "wb97x_v"
    assert parse_method("wb97x-d4").dispersion_method == "d4:wb97x"
    assert get_engine("pyscf", functional="PBE0-D3(0)").level.dispersion == "D3(0)"
    assert get_engine("pyscf", functional="CCSD(T)").level.method == "CCSD(T)"


def test_level_ids_of_earlier_versions_stay():
    """Labels in existing projects are found by these."""
    known = {
        "713f4e69d06d5ff7": {},
        "b2ac26c30637de84": {"functional": "PBE", "basis": "def2-SVP"},
        "73f251b9225834e9": {"functional": "b3lyp-d4", "basis": "def2-tzvp"},
        "ced4a47a081fb76f": {"density_fitting": True},
        "fe934fd75d5a4ba0": {"functional": "r2scan", "grid_level": 5, "basis": "6-31g*"},
    }
    assert {get_engine("pyscf", **settings).level.id for settings in known.values()} == set(known)
    assert get_engine("xtb").level.id == "89d19a3f9e93137f"
    assert get_engine("xtb", method="GFN2-xTB").level.id == "b51dbe24047d3fb0"


def published(name: str) -> Path:
    folder = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    root = Path(folder) if folder else Path(__file__).parents[4] / "shared" / "data"
    path = root / "datasets" / name
    if not path.is_file():
        pytest.skip(f"no {path}; set ATOMFOUNDRY_TEST_DATA")
    return path


@pytest.mark.slow
def test_spice_is_reproduced():
    """Acetylene and a sodium ion at wB97M-D3(BJ)/def2-TZVPPD; SPICE's forces (Psi4) sum to 4e-3 eV/A."""
    frame = next(atoms for atoms in read(published("spice/SPICE-1.1.4_n2.extxyz.gz"), ":") if len(atoms) == 5)
    frame.info["charge"] = 1
    engine = get_engine("pyscf", functional="wB97M-D3(BJ)", basis="def2-TZVPPD", density_fitting=True)
    result = engine.single_point(frame)
    assert result.energy == pytest.approx(frame.get_potential_energy(), abs=1e-3)
    assert result.forces == pytest.approx(frame.get_forces(), abs=1e-2)


@pytest.mark.slow
def test_ani_is_reproduced_with_cartesian_d_functions_only():
    """wB97X/6-31G* by Gaussian, whose d functions are six; five are 0.24 eV away."""
    frames = read(published("ani1ccx/ani1_n5_wb97x_dz.extxyz"), ":")
    frame = min(frames, key=lambda atoms: atoms.numbers.sum())
    settings = {"functional": "wb97x", "basis": "6-31g*", "density_fitting": True}
    result = get_engine("pyscf", cartesian=True, **settings).single_point(frame)
    assert result.energy == pytest.approx(frame.get_potential_energy(), abs=5e-3)
    assert result.forces == pytest.approx(frame.get_forces(), abs=1e-2)
