from __future__ import annotations

import os
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from atomfoundry.datasets import frame_id, labels_of, write_extxyz
from atomfoundry.errors import StructureError
from atomfoundry.sources import fetch_structures, load_preset, preset_names, standard_cell

CIF = """data_test
_cell_length_a {a}
_cell_length_b 4.0
_cell_length_c 4.0
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_symmetry_space_group_name_H-M 'P 1'
{extra}
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Cs1 Cs 0 0 0 1
Cl1 Cl 0.5 0.5 0.5 {occupancy}
"""


def write_cif(path: Path, *, a: float = 4.0, occupancy: float = 1, extra: str = "") -> Path:
    path.write_text(CIF.format(a=a, occupancy=occupancy, extra=extra))
    return path


def test_silicon_preset() -> None:
    (silicon,) = load_preset("silicon")
    expected = bulk("Si", a=5.468, cubic=True)
    assert len(silicon) == 8
    assert silicon.pbc.all()
    assert np.allclose(silicon.cell.array, expected.cell.array, atol=1e-12)
    assert sorted(silicon.get_all_distances(mic=True)[0])[1] == pytest.approx(5.468 * 3**0.5 / 4)
    assert silicon.info["source"] == "silicon.cif"
    assert silicon.info["group_id"] == "silicon"
    assert silicon.info["frame_id"] == frame_id(silicon)
    (primitive,) = load_preset("silicon", cell="primitive")
    assert len(primitive) == 2
    assert primitive.get_volume() == pytest.approx(silicon.get_volume() / 4)
    assert primitive.info["source"] == "silicon.cif"
    (again,) = [standard_cell(primitive, "conventional")]
    assert len(again) == 8


def test_other_presets() -> None:
    (tin,) = load_preset("silicon_beta_tin")
    assert len(tin) == 4
    # Four neighbours, and two a little further along c.
    neighbours = neighbor_list("i", tin, 2.55), neighbor_list("i", tin, 2.7)
    assert [len(list_) // 4 for list_ in neighbours] == [4, 6]
    assert len(load_preset("silicon_beta_tin", cell="primitive")[0]) == 2
    silanes = load_preset("silanes")
    assert [atoms.get_chemical_formula() for atoms in silanes] == ["H4Si", "H6Si2", "H2"]
    assert len({atoms.info["group_id"] for atoms in silanes}) == 3
    assert not any(atoms.pbc.any() or atoms.cell.any() for atoms in silanes)
    assert np.allclose(silanes[0].positions, molecule("SiH4").positions, atol=1e-5)
    assert preset_names() == ["silanes", "silicon", "silicon_beta_tin"]
    with pytest.raises(StructureError, match="silanes, silicon"):
        load_preset("gold")


@pytest.mark.parametrize(
    "name", ["a.cif", "POSCAR", "CONTCAR.gz", "b.vasp", "c.extxyz", "d.xyz", "e.traj", "f.json"]
)
def test_formats(tmp_path: Path, name: str) -> None:
    crystal = bulk("NaCl", "rocksalt", a=5.64)
    kind = {"POSCAR": "vasp", "CONTCAR.gz": "vasp", "b.vasp": "vasp", "c.extxyz": "extxyz", "d.xyz": "extxyz"}
    ase.io.write(tmp_path / name, crystal, format=kind.get(name))
    (atoms,) = fetch_structures(tmp_path / name)
    assert atoms.get_chemical_formula() == "ClNa"
    assert atoms.get_volume() == pytest.approx(crystal.get_volume(), rel=1e-5)
    assert atoms.pbc.all()
    assert set(atoms.arrays) == {"numbers", "positions"}
    assert not atoms.constraints
    assert atoms.calc is None


def test_frames_are_numbered_and_grouped(tmp_path: Path) -> None:
    frames = []
    for step in range(3):
        atoms = bulk("Ge", cubic=True)
        atoms.rattle(0.01, seed=step)
        frames.append(atoms)
    ase.io.write(tmp_path / "run.extxyz", frames)
    ase.io.write(tmp_path / "mixed.xyz", [molecule("H2O"), molecule("CH4")])
    found = fetch_structures([str(tmp_path / "run.extxyz"), tmp_path / "mixed.xyz"])
    assert [atoms.info["source"] for atoms in found] == [
        "run.extxyz#0",
        "run.extxyz#1",
        "run.extxyz#2",
        "mixed.xyz#0",
        "mixed.xyz#1",
    ]
    assert [atoms.info["group_id"] for atoms in found] == ["run", "run", "run", "mixed:H2O", "mixed:CH4"]


def test_patterns_equal_names_and_repetitions(tmp_path: Path) -> None:
    for number, folder in enumerate(("one", "two", "three")):
        (tmp_path / folder).mkdir()
        write_cif(tmp_path / folder / "POSCAR.cif", a=4.0 + 0.1 * min(number, 1))
    found = fetch_structures([tmp_path / "*/POSCAR.cif", str(tmp_path / "one" / "*.cif")])
    assert [atoms.info["group_id"] for atoms in found] == ["one/POSCAR", "three/POSCAR"]
    with pytest.raises(StructureError, match="No file matches"):
        fetch_structures(tmp_path / "*.nothing")


def test_our_own_files_keep_charge_and_group_but_not_labels(tmp_path: Path) -> None:
    atoms = molecule("CH3")
    atoms.info.update(charge=1, spin_multiplicity=1, group_id="mine", level="abc", sampling="rattle")
    write_extxyz(tmp_path / "a.extxyz", [atoms])
    (found,) = fetch_structures(tmp_path / "a.extxyz")
    assert frame_id(found) == frame_id(atoms)
    assert (found.info["charge"], found.info["spin_multiplicity"]) == (1, 1)
    assert (found.info["group_id"], found.info["sampling"], found.info["level"]) == ("mine", "rattle", "")
    assert labels_of(found) == (None, None, None)


def test_missing_folder_empty_and_unreadable(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="no structure file"):
        fetch_structures(tmp_path / "nothing.cif")
    with pytest.raises(StructureError, match="is a folder"):
        fetch_structures(tmp_path)
    with pytest.raises(StructureError, match="No structure file was named"):
        fetch_structures([])
    for name in ("empty.cif", "empty.extxyz", "POSCAR", "empty.weird"):
        (tmp_path / name).write_text("")
        with pytest.raises(StructureError, match=name):
            fetch_structures(tmp_path / name)
    (tmp_path / "bad.cif").write_text("this is not a CIF\n")
    with pytest.raises(StructureError, match=r"bad\.cif.*cannot be read as a CIF"):
        fetch_structures(tmp_path / "bad.cif")


def test_disorder_and_missing_atoms_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StructureError, match="partially occupied"):
        fetch_structures(write_cif(tmp_path / "a.cif", occupancy=0.5))
    with pytest.raises(StructureError, match="Missing elements"):
        fetch_structures(write_cif(tmp_path / "b.cif", extra="_chemical_formula_sum 'Cs Cl H2'"))
    fetch_structures(write_cif(tmp_path / "c.cif", extra="_chemical_formula_sum 'Cs Cl'"))


def test_broken_poscars(tmp_path: Path) -> None:
    path = tmp_path / "POSCAR"
    body = "comment\n1.0\n4 0 0\n0 4 0\n0 0 4\n{species}Direct\n0 0 0\n0.5 0.5 0.5\n"
    path.write_text(body.format(species="Cs Cl\n1 1\n"))
    assert fetch_structures(path)[0].get_chemical_formula() == "ClCs"
    for species, message in (("1 1\n", "names no species"), ("Cs Cl\n2\n", "names 2 species .* 1 counts")):
        path.write_text(body.format(species=species))
        with pytest.raises(StructureError, match=message):
            fetch_structures(path)
    path.write_text(body.format(species="Cs Cl\n1 5\n"))
    with pytest.raises(StructureError, match="cannot be read as a POSCAR"):
        fetch_structures(path)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        (Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.1]]), r"0\.100 A apart"),
        (Atoms("H", cell=[0.2, 5, 5], pbc=True), "A apart"),
        (Atoms("H", positions=[[np.nan, 0, 0]]), "finite"),
        (
            Atoms("H2", positions=[[0, 0, 0], [0, 0, 2]], cell=[[1, 0, 0], [2, 0, 0], [0, 0, 1]], pbc=True),
            "volume",
        ),
        (Atoms("X", positions=[[0, 0, 0]]), "unknown element"),
    ],
)
def test_impossible_structures_are_refused(tmp_path: Path, atoms: Atoms, message: str) -> None:
    path = tmp_path / "a.traj"
    ase.io.write(path, [molecule("H2O"), atoms])
    with pytest.raises(StructureError, match=message) as caught:
        fetch_structures(path)
    assert "structure 1" in str(caught.value)


def test_unknown_cell() -> None:
    with pytest.raises(StructureError, match="'reduced'"):
        load_preset("silicon", cell="reduced")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cif/LiFePO4.cif", "Fe4Li4O16P4"),
        ("cif/OneLineSymmP1.cif", "Ga4O8Pb2"),
        ("cif/srycoo.cif", None),
        ("cif/site_type_symbol_test.cif", None),
        ("cif/Senegalite_implicit_hydrogen.cif", None),
        ("cif/bad_superflat_inf_loop.cif.gz", None),
        ("poscar/POSCAR_symbols_natoms_multilines", "Cr16Fe35Ni2"),
        ("poscar/POSCAR_no_species", None),
        ("poscar/POSCAR_overlap", None),
        ("poscar_malformed/missing_count", None),
    ],
)
def test_real_files(name: str, expected: str | None) -> None:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    file = folder / "structures" / name
    if expected is None:
        with pytest.raises(StructureError, match=file.name):
            fetch_structures(file)
    else:
        assert fetch_structures(file)[0].get_chemical_formula() == expected
