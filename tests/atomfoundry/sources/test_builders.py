from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.constraints import FixAtoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from atomfoundry.datasets import frame_id
from atomfoundry.errors import ConfigurationError, StructureError
from atomfoundry.sources import (
    expand_paths,
    fetch_structures,
    molecules_by_name,
    molecules_by_smiles,
    prototype,
    prototype_names,
    repeated_cell,
)

LATTICE = "2.0 0.1 0\n0 2.5 0\n0 0 3.0\n"


def poscar(scale: str, *, cartesian: bool, selective: bool = False) -> str:
    head = f"comment\n{scale}\n{LATTICE}Cs Cl\n1 1\n" + ("Selective dynamics\n" if selective else "")
    flags = " T F T" if selective else ""
    second = "1.0 1.3 1.5" if cartesian else "0.5 0.5 0.5"
    return head + ("Cartesian\n" if cartesian else "Direct\n") + f"0 0 0{flags}\n{second}{flags}\n"


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize("cartesian", [False, True])
@pytest.mark.parametrize(
    ("scale", "factors"),
    [
        ("2.0", (2, 2, 2)),
        ("2.0  ! a comment", (2, 2, 2)),
        ("-120.0", (2, 2, 2)),
        ("2.0 3.0 1.5", (2, 3, 1.5)),
        (" 1.5d0", (1.5, 1.5, 1.5)),
    ],
)
def test_poscar_scales(
    tmp_path: Path, scale: str, factors: tuple[float, ...], cartesian: bool, selective: bool
) -> None:
    path = tmp_path / "CONTCAR"
    path.write_text(poscar(scale, cartesian=cartesian, selective=selective))
    (atoms,) = fetch_structures(path)
    lattice = np.array([[2.0, 0.1, 0], [0, 2.5, 0], [0, 0, 3.0]]) * np.array(factors)
    assert atoms.cell.array == pytest.approx(lattice)
    # both kinds of coordinates name the body's centre
    assert atoms.positions == pytest.approx(np.array([np.zeros(3), lattice.sum(axis=0) / 2]))
    assert not atoms.constraints


@pytest.mark.parametrize("scale", ["0", "nan", "1 1 -1", "-1 -1 -1"])
def test_impossible_scales(tmp_path: Path, scale: str) -> None:
    path = tmp_path / "POSCAR"
    path.write_text(poscar(scale, cartesian=True))
    with pytest.raises(StructureError, match=r"POSCAR' (has the scale|cannot be read|is refused)"):
        fetch_structures(path)


def test_ase_poscars_with_constraints_come_back(tmp_path: Path) -> None:
    atoms = bulk("MgO", "rocksalt", a=4.2, cubic=True)
    atoms.set_constraint(FixAtoms([0, 1]))
    for direct in (True, False):
        ase.io.write(tmp_path / "POSCAR", atoms, format="vasp", direct=direct, sort=False)
        (found,) = fetch_structures(tmp_path / "POSCAR")
        assert found.positions == pytest.approx(atoms.positions, abs=1e-10)


def test_folders_are_read_through(tmp_path: Path) -> None:
    for number, name in enumerate(("a/POSCAR", "b/CONTCAR.relaxed", "b/c/x.extxyz", "y.cif", ".hidden/z.cif")):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {"cif": "cif", "extxyz": "extxyz"}.get(name.rsplit(".", 1)[-1], "vasp")
        ase.io.write(path, bulk("Si", a=5.4 + 0.01 * number), format=kind)
    (tmp_path / "b" / "notes.txt").write_text("no structure")
    (tmp_path / "b" / "OUTCAR").write_text("no structure either")
    found = fetch_structures(tmp_path)
    assert [atoms.info["group_id"] for atoms in found] == ["POSCAR", "CONTCAR.relaxed", "x", "y"]
    assert len(fetch_structures(tmp_path / "b")) == 2
    assert (
        len(fetch_structures([tmp_path / "b", tmp_path / "b" / "c" / "x.extxyz", tmp_path / "*"])) == 3
    )  # two in b, y.cif
    assert [path.name for path in expand_paths(tmp_path / "*.cif")] == ["y.cif"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(StructureError, match="folder without structure files"):
        fetch_structures(tmp_path / "empty")
    # One bad file in a folder is told, not left out.
    (tmp_path / "b" / "POSCAR").write_text("broken")
    with pytest.raises(StructureError, match="cannot be read as a POSCAR"):
        fetch_structures(tmp_path)


def test_supercells() -> None:
    salt = bulk("MgO", "rocksalt", a=4.2)
    salt.info["group_id"] = "salt"
    large = repeated_cell(salt, (2, 2, 1))
    assert len(large) == 8
    assert large.info["group_id"] == "salt"
    assert large.info["frame_id"] == frame_id(large)
    cubic = repeated_cell(salt, [[-1, 1, 1], [1, -1, 1], [1, 1, -1]])
    assert cubic.cell.array == pytest.approx(np.eye(3) * 4.2)
    assert len(cubic) == 8
    for wrong in ((0, 1, 1), (-1, 1, 1), (1.5, 1, 1), [[1, 0, 0], [1, 0, 0], [0, 0, 1]], (2, 2)):
        with pytest.raises(StructureError, match="not possible"):
            repeated_cell(salt, wrong)  # type: ignore[arg-type]
    with pytest.raises(StructureError, match="not periodic"):
        repeated_cell(molecule("H2O"), (2, 1, 1))


ELEMENTS = {
    "perovskite": ["Sr", "Ti", "O"],
    "heusler": ["Cu", "Mn", "Al"],
    "fluorite": ["Ca", "F"],
    "antifluorite": ["Li", "O"],
    "l12": ["Au", "Cu"],
    "a15": ["Si", "V"],
    "zincblende": ["Zn", "S"],
    "rocksalt": ["Mg", "O"],
    "cesiumchloride": ["Cs", "Cl"],
    "wurtzite": ["Zn", "O"],
}
FORMULAS = {
    "perovskite": "O3SrTi",
    "heusler": "AlCu2Mn",
    "fluorite": "CaF2",
    "antifluorite": "Li2O",
    "l12": "AuCu3",
    "a15": "Si2V6",
    "wurtzite": "O2Zn2",
}
GROUPS = {
    "sc": 221,
    "fcc": 225,
    "bcc": 229,
    "hcp": 194,
    "diamond": 227,
    "zincblende": 216,
    "rocksalt": 225,
    "cesiumchloride": 221,
    "wurtzite": 186,
    "fluorite": 225,
    "antifluorite": 225,
    "perovskite": 221,
    "l12": 221,
    "a15": 223,
    "heusler": 225,
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", prototype_names())
def test_prototypes(name: str) -> None:
    import spglib

    atoms = prototype(name, ELEMENTS.get(name, ["Si"]))
    if name in FORMULAS:
        assert atoms.get_chemical_formula() == FORMULAS[name]
    found = spglib.get_spacegroup((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), symprec=1e-4)
    assert found.endswith(f"({GROUPS[name]})")
    first, second, lengths = neighbor_list("ijd", atoms, 6.0)
    radii = covalent_radii[atoms.numbers]
    assert (lengths / (radii[first] + radii[second])).min() == pytest.approx(1.0)
    assert atoms.info["group_id"] == f"{name}:{'-'.join(ELEMENTS.get(name, ['Si']))}"


def test_prototype_lattice_constants_and_refusals() -> None:
    assert prototype("rocksalt", ["Mg", "O"], a=4.21, conventional=True).cell.lengths() == pytest.approx([4.21] * 3)
    assert len(prototype("rocksalt", ["Mg", "O"], a=4.21, conventional=True)) == 8
    assert prototype("hcp", "Mg", a=3.2, c=5.2).cell.lengths() == pytest.approx([3.2, 3.2, 5.2])
    assert prototype("element", "Cu").get_volume() == pytest.approx(bulk("Cu").get_volume())
    for arguments, message in (
        (("rocksalt", ["Mg"]), "has 2 elements"),
        (("garnet", ["Mg"]), "no prototype 'garnet'"),
        (("fcc", ["Qq"]), "no element 'Qq'"),
        (("element", ["N"]), "No element of N"),
    ):
        with pytest.raises(StructureError, match=message):
            prototype(*arguments)
    with pytest.raises(StructureError, match="not possible"):
        prototype("fcc", "Cu", a=-1.0)


def test_molecules_by_name() -> None:
    found = molecules_by_name(["H2O", "O2", "CH3", "H2O"])
    assert [atoms.get_chemical_formula() for atoms in found] == ["H2O", "O2", "CH3"]
    assert [atoms.info["spin_multiplicity"] for atoms in found] == [None, 3, 2]
    assert found[0].info["source"] == "molecule:H2O"
    with pytest.raises(StructureError, match=r"no molecule 'CH3CH2OOH'.*CH3CH2OH"):
        molecules_by_name("CH3CH2OOH")


def test_smiles_name_the_extra_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "rdkit"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rdkit", None)
    with pytest.raises(ConfigurationError, match=r"atomfoundry\[smiles\]"):
        molecules_by_smiles("CCO")


@pytest.mark.skipif(importlib.util.find_spec("rdkit") is None, reason="RDKit (extra 'smiles') is not installed")
def test_smiles() -> None:
    found = molecules_by_smiles(["CCO", "[NH4+]", "[CH3]"], seed=1)
    assert [atoms.get_chemical_formula() for atoms in found] == ["C2H6O", "H4N", "CH3"]
    assert [atoms.info["charge"] for atoms in found] == [0, 1, 0]
    assert [atoms.info["spin_multiplicity"] for atoms in found] == [None, None, 2]
    assert found[0].get_distance(0, 1) == pytest.approx(1.51, abs=0.03)
    assert [frame_id(a) for a in molecules_by_smiles(["CCO"], seed=1)] == [frame_id(found[0])]
    conformers = molecules_by_smiles("CCCCCO", n_conformers=4, seed=0)
    assert len(conformers) > 1
    assert {atoms.info["group_id"] for atoms in conformers} == {"smiles:CCCCCO"}
    for wrong in ("C(", "", "CQ"):
        with pytest.raises(StructureError, match="no valid SMILES"):
            molecules_by_smiles(wrong)
    with pytest.raises(StructureError, match="MMFF94 has no parameters"):
        molecules_by_smiles("[Fe]C")


def test_atoms_only(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_text("1\ncomment\nH 0 0 0\n")
    assert len(fetch_structures(tmp_path)) == 1
    assert isinstance(fetch_structures(tmp_path)[0], Atoms)
