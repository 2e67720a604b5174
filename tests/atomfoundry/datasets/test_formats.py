from __future__ import annotations

import gzip
import json
import os
import tracemalloc
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import spglib
from ase import Atoms
from ase.build import bulk, molecule
from ase.db import connect
from scipy.linalg import logm

from atomfoundry.alignment import PairBasis, PairTerms
from atomfoundry.datasets import Dataset, attach_labels, frame_id, labels_of, read_extxyz, write_extxyz
from atomfoundry.datasets.archives import read_ase_db, read_npz, write_ase_db, write_npz
from atomfoundry.datasets.convert import guess_format, import_dataset, read_frames, write_frames
from atomfoundry.datasets.foreign import (
    MATPES_LEVELS,
    MPTRJ_CORRECTED,
    MPTRJ_PBE,
    MPTRJ_PBE_U,
    read_matpes,
    read_mlearn,
    read_mptrj,
)
from atomfoundry.datasets.jsonstream import stream_items
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError
from atomfoundry.units import KBAR

DATA = Path(os.environ.get("ATOMFOUNDRY_TEST_DATA", Path(__file__).parents[4] / "shared" / "data"))


def real(name: str) -> Path:
    path = DATA / "datasets" / name if not name.startswith("reference") else DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not there (ATOMFOUNDRY_TEST_DATA)")
    return path


def frames() -> list[Atoms]:
    rng = np.random.default_rng(0)
    crystal, silane, atom = bulk("Si"), molecule("SiH4"), Atoms("Si", info={"sampling": "isolated_atom"})
    for atoms in (crystal, silane):
        atoms.positions += rng.normal(size=atoms.positions.shape)
    crystal.info.update(group_id="mp-149", flags=["x", "y"], level="123", weight=0.25)
    silane.info.update(charge=1, spin_multiplicity=2)
    return [
        attach_labels(crystal, rng.normal(), rng.normal(size=(2, 3)), rng.normal(size=6)),
        attach_labels(silane, rng.normal(), rng.normal(size=(5, 3))),
        attach_labels(atom, -101.5),
        silane,
    ]


def assert_same(one: Atoms, other: Atoms, tolerance: float = 0.0) -> None:
    assert frame_id(one) == frame_id(other)
    for old, new in zip(labels_of(one), labels_of(other), strict=True):
        assert (old is None) == (new is None)
        assert old is None or np.allclose(old, new, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["extxyz", "mace", "nequip", "atompronet", "ase-db", "npz", "dataset"])
def test_every_format_there_and_back(tmp_path: Path, kind: str) -> None:
    path = tmp_path / {"ase-db": "x.db", "npz": "x.npz", "dataset": "x"}.get(kind, "x.xyz")
    if kind == "dataset":
        Dataset.create(path, frames())
    else:
        assert write_frames(path, iter(frames()), format=kind) == 4
    read = list(read_frames(path, format=kind))
    assert len(read) == 4
    # A virial is the stress times the volume and back.
    for before, after in zip(frames(), read, strict=True):
        assert_same(before, after, 1e-14 if kind == "atompronet" else 0.0)
        for key, value in before.info.items():
            assert after.info[key] == value
    assert [item.name for item in tmp_path.iterdir()] == [path.name]


def test_mace_keys(tmp_path: Path) -> None:
    write_extxyz(tmp_path / "mace.xyz", frames(), keys="mace")
    crystal, _, atom, _ = ase.io.read(tmp_path / "mace.xyz", ":")
    energy, forces, stress = labels_of(frames()[0])
    assert crystal.info["REF_energy"] == energy
    assert np.array_equal(crystal.arrays["REF_forces"], forces)
    assert np.array_equal(np.ravel(crystal.info["REF_stress"])[[0, 4, 8, 5, 2, 1]], stress)
    assert (crystal.info["config_weight"], atom.info["config_type"]) == (0.25, "IsolatedAtom")
    # And a file that MACE's users wrote, with virials and without our metadata.
    volume = bulk("Si").cell.volume
    foreign = bulk("Si")
    foreign.info.update(REF_energy=-1.0, REF_virials=np.diag([3.0, 2.0, 1.0]), config_type="liquid", config_weight=2.0)
    foreign.arrays["REF_forces"] = np.ones((2, 3))
    ase.io.write(tmp_path / "foreign.xyz", foreign)
    (read,) = read_extxyz(tmp_path / "foreign.xyz", keys="mace", level="abc")
    assert np.allclose(labels_of(read)[2], [-3 / volume, -2 / volume, -1 / volume, 0, 0, 0])
    assert (read.info["sampling"], read.info["weight"], read.info["level"]) == ("liquid", 2.0, "abc")
    with pytest.raises(DatasetError, match="key convention 'mase'"):
        list(read_extxyz(tmp_path / "foreign.xyz", keys="mase"))


def test_nequip_reads_total_energy(tmp_path: Path) -> None:
    atoms = bulk("Si")
    atoms.info["total_energy"] = -3.5
    atoms.arrays["forces"] = np.ones((2, 3))
    ase.io.write(tmp_path / "x.xyz", atoms)
    (read,) = read_extxyz(tmp_path / "x.xyz", keys="nequip")
    assert labels_of(read)[0] == -3.5
    assert np.array_equal(labels_of(read)[1], np.ones((2, 3)))


def test_one_virial_for_all_is_refused(tmp_path: Path) -> None:
    def write(different: bool) -> None:
        lines = []
        for number in range(4):
            virial = number if different else 7
            lines += [
                "1",
                f'Lattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3:forces:R:3 energy={number} '
                f'virial="{virial} 0 0 0 1 0 0 0 1" pbc="T T T"',
                f"H {number / 10} 0 0 0 0 0",
            ]
        (tmp_path / "x.xyz").write_text("\n".join(lines) + "\n")

    write(different=True)
    read = list(read_extxyz(tmp_path / "x.xyz", keys="atompronet"))
    assert [labels_of(atoms)[2][0] for atoms in read] == [0, -1 / 27, -2 / 27, -3 / 27]
    write(different=False)
    with pytest.raises(DatasetError, match="one and the same virial"):
        list(read_extxyz(tmp_path / "x.xyz", keys="atompronet"))


def test_atompronets_own_file() -> None:
    read = list(read_extxyz(real("atompronet/DFT_data.extxyz"), keys="atompronet"))
    assert len(read) == 8
    assert labels_of(read[0])[0] == -549.99729565
    # Compressed alumina: it pushes, the stress is negative.
    assert np.allclose(labels_of(read[0])[2][:3] * read[0].get_volume(), [-331.24616, -321.19686, -304.05797])


def test_ase_databases_of_others(tmp_path: Path) -> None:
    with connect(tmp_path / "x.db") as database:
        for atoms in frames():
            database.write(atoms.copy() if atoms.calc is None else atoms, name="mine", step=3)
    read = list(read_ase_db(tmp_path / "x.db", group_id="g"))
    for before, after in zip(frames(), read, strict=True):
        assert np.array_equal(before.positions, after.positions)
        assert (after.info["name"], after.info["step"], after.info["group_id"]) == ("mine", 3, "g")
    assert labels_of(read[0])[0] == labels_of(frames()[0])[0]
    with pytest.raises(DatasetError, match="no ASE database"):
        list(read_ase_db(tmp_path / "y.db"))
    (tmp_path / "z.db").write_bytes(b"not a database, but long enough to look at" * 100)
    with pytest.raises(DatasetError, match=r"z\.db"):
        list(read_ase_db(tmp_path / "z.db"))


def test_npz_is_plain_numpy(tmp_path: Path) -> None:
    write_npz(tmp_path / "x.npz", frames())
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["n_atoms"].tolist() == [2, 5, 1, 5]
        assert arrays["positions"].shape == (13, 3)
        assert np.isnan(arrays["forces"][7:]).all()
        assert arrays["energy"][0] == labels_of(frames()[0])[0]
    content = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "y.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(DatasetError, match=r"y\.npz"):
        list(read_npz(tmp_path / "y.npz"))
    np.savez(tmp_path / "z.npz", positions=np.zeros((2, 3)))
    with pytest.raises(DatasetError, match="joined arrays"):
        list(read_npz(tmp_path / "z.npz"))


@pytest.mark.parametrize("write", [write_npz, write_ase_db, write_extxyz])
def test_a_failing_source_keeps_the_older_file(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "x.db"
    path.write_text("older")

    def broken() -> Any:
        yield frames()[0]
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        write(path, broken())
    assert path.read_text() == "older"
    assert [item.name for item in tmp_path.iterdir()] == ["x.db"]


# -- JSON in pieces --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        [1, 2.5, -3e-5, 'a,]}\\"b', None, True, [1, [2]], {"x": {}}],
        {"a": 1, "b": [1, 2], "c": {"d": "}"}},
        [12],
    ],
)
@pytest.mark.parametrize("indent", [None, 3])
@pytest.mark.parametrize("chunk", [1, 2, 7, 1000])
def test_items_are_those_of_json(
    tmp_path: Path, value: Any, indent: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from atomfoundry.datasets import jsonstream

    monkeypatch.setattr(jsonstream, "_CHUNK", chunk)
    path = tmp_path / "x.json.gz"
    with gzip.open(path, "wt") as stream:
        stream.write(json.dumps(value, indent=indent))
    assert list(stream_items(path)) == list(value.items() if isinstance(value, dict) else enumerate(value))


@pytest.mark.parametrize(
    "text", ['{"a": [1, 2], "b": [3', "[1, 2", '{"a"', "[1 2]", "3", "", "[1, nonsense, 3]", "[1,]"]
)
def test_broken_json_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"broken\.json"):
        list(stream_items(path))


def test_a_truncated_archive_is_named_after_its_good_items(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(json.dumps([list(range(1000))] * 50).encode())[:-30])
    with pytest.raises(DatasetError, match=r"x\.json\.gz"):
        list(stream_items(path))


@pytest.mark.slow
def test_streaming_needs_the_memory_of_an_item(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with path.open("w") as stream:
        item = json.dumps([0.123456789] * 2000)
        stream.write("[" + ",".join([item] * 1000) + "]")
    assert path.stat().st_size > 25e6
    tracemalloc.start()
    assert sum(len(value) for _, value in stream_items(path)) == 2_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8e6


# -- published sets --------------------------------------------------------------------------------


def structure(atoms: Atoms) -> dict[str, Any]:
    return {
        "lattice": {"matrix": atoms.cell.tolist()},
        "charge": None,
        "sites": [
            {"species": [{"element": symbol, "occu": 1}], "abc": abc.tolist(), "xyz": xyz.tolist()}
            for symbol, abc, xyz in zip(atoms.symbols, atoms.get_scaled_positions(), atoms.positions, strict=True)
        ],
    }


def mptrj_item(atoms: Atoms) -> dict[str, Any]:
    return {
        "structure": structure(atoms),
        "uncorrected_total_energy": -10.0,
        "corrected_total_energy": -12.0,
        "energy_per_atom": -6.0,
        "force": [[0.1, 0.2, 0.3]] * len(atoms),
        "stress": [[10.0, 1.0, 2.0], [1.0, 20.0, 3.0], [2.0, 3.0, 30.0]],
        "magmom": [0.5] * len(atoms) if "Fe" in atoms.symbols else None,
        "bandgap": 1.5,
        "mp_id": "mp-1",
    }


def test_mptrj(tmp_path: Path) -> None:
    oxide = bulk("FeO", "rocksalt", a=4.3)
    path = tmp_path / "MPtrj_2022.9_full.json"
    content = {"mp-1": {"mp-1-0-0": mptrj_item(bulk("Si")), "mp-1-0-1": mptrj_item(bulk("Fe"))}}
    path.write_text(json.dumps(content | {"mp-2": {"mp-2-0-0": mptrj_item(oxide)}}))
    silicon, iron, rust = read_mptrj(path)
    assert [labels_of(atoms)[0] for atoms in (silicon, iron, rust)] == [-10.0] * 3
    assert np.allclose(labels_of(silicon)[2], -KBAR * np.array([10, 20, 30, 3, 2, 1]))
    assert np.array_equal(silicon.positions, bulk("Si").positions)
    assert [atoms.info["level"] for atoms in (silicon, iron, rust)] == [MPTRJ_PBE.id, MPTRJ_PBE.id, MPTRJ_PBE_U.id]
    assert [atoms.info["group_id"] for atoms in (silicon, iron, rust)] == ["mp-1", "mp-1", "mp-2"]
    assert (rust.info["flags"], rust.info["magmoms"], rust.info["bandgap"]) == (["hubbard_u"], [0.5, 0.5], 1.5)
    raw = import_dataset(tmp_path / "raw", path)
    assert raw.level is None
    assert {record.id for record in raw.levels} == {MPTRJ_PBE.id, MPTRJ_PBE_U.id}
    joined = import_dataset(tmp_path / "joined", path, energy="corrected")
    assert joined.level == MPTRJ_CORRECTED
    assert joined.column("energy").tolist() == [-12.0] * 3
    with pytest.raises(DatasetError, match="no 'odd' energies"):
        import_dataset(tmp_path / "x", path, energy="odd")
    path.write_text(path.read_text()[:-400])
    with pytest.raises(DatasetError, match="after 1 items: it breaks off"):
        import_dataset(tmp_path / "x", path)
    assert not (tmp_path / "x").exists()
    item = mptrj_item(bulk("Si"))
    item["structure"]["sites"][0]["species"][0]["occu"] = 0.5
    path.write_text(json.dumps({"mp-1": {"mp-1-0-0": item}}))
    with pytest.raises(DatasetError, match=r"mp-1-0-0.*occupied by 0\.5"):
        list(read_mptrj(path))


def test_matpes_element_references(tmp_path: Path) -> None:
    for functional in ("PBE", "r2SCAN"):
        path = real(f"reference/two_levels/MatPES-{functional}-Element-Refs.json.gz")
        read = list(read_matpes(path))
        assert len(read) == 89
        actinium = read[0]
        assert actinium.get_chemical_formula() == "Ac4"
        assert {atoms.info["level"] for atoms in read} == {MATPES_LEVELS[functional].id}
        if functional == "PBE":
            assert labels_of(actinium)[0] == -16.23482621
            stress = labels_of(actinium)[2]
            assert np.allclose(stress, KBAR * np.array([4.35495829, 4.35495772, 1.60255929, 0, 0, -6.7e-07]))
            assert np.allclose(actinium.get_positions()[2], [0, 0, 6.50851824])
        dataset = import_dataset(tmp_path / functional, path)
        assert dataset.level == MATPES_LEVELS[functional]
        assert dataset.levels == [MATPES_LEVELS[functional]]


def test_mlearn_units_agree_with_its_energies() -> None:
    """The work of the stress along a strain is the difference of the energies, which fixes unit, sign and order."""
    path = real("mlearn/Si/training.json.gz")
    elastic = [atoms for atoms in read_mlearn(path) if atoms.info["sampling"] == "Elastic"]
    assert len(elastic) == 55
    ratios: dict[str, list[float]] = {}
    for before, after in pairwise(elastic):
        mode = before.info["description"].partition(", strain")[0]
        if not after.info["description"].startswith(mode):
            continue
        gradient = np.linalg.solve(before.cell.array, after.cell.array)
        strain = np.real(logm(gradient))
        strain = (strain + strain.T) / 2
        # Frames lie up to 0.04 apart, where the stress is far from linear: the smaller steps are enough.
        if np.abs(strain).max() > 0.025:
            continue
        work = sum(atoms.cell.volume * (atoms.get_stress(voigt=False) * strain).sum() / 2 for atoms in (before, after))
        difference = labels_of(after)[0] - labels_of(before)[0]
        if abs(difference) > 0.3:
            ratios.setdefault(mode, []).append(work / difference)
    assert len(ratios) >= 4
    for mode, values in ratios.items():
        assert np.allclose(values, 1, atol=0.06), (mode, values)


@pytest.mark.parametrize(
    ("name", "group"),
    [(f"{part}", group) for part in ("Li/test", "Si/test", "Cu/test") for group in ("AIMD-NVT", "Vacancy")],
)
def test_mlearn_stress_is_the_virial_of_its_forces(name: str, group: str) -> None:
    """A pair potential fitted to the forces has a virial, which tells unit, sign and order of the stress."""
    chosen = [a for a in read_mlearn(real(f"mlearn/{name}.json.gz")) if a.info["sampling"] == group][:5]
    element, basis = chosen[0].symbols[0], PairBasis(n_radial=6, cutoff=2.4)
    terms = [PairTerms(basis=basis, coefficients={f"{element}-{element}": np.eye(6)[k].tolist()}) for k in range(6)]
    columns = [[term.evaluate(atoms) for term in terms] for atoms in chosen]
    design = np.vstack([np.stack([forces.ravel() for _, forces, _ in row], axis=1) for row in columns])
    fitted = np.linalg.lstsq(design, np.hstack([a.get_forces().ravel() for a in chosen]), rcond=None)[0]
    shear = np.array([np.stack([stress for *_, stress in row], axis=1) @ fitted for row in columns])[:, 3:]
    labels = np.array([a.get_stress() for a in chosen])[:, 3:]

    def agreement(order: list[int]) -> float:
        return float(np.corrcoef(shear[:, order].ravel(), labels.ravel())[0, 1])

    right = agreement([0, 1, 2])
    assert right > 0.75
    assert right > max(agreement(list(order)) for order in permutations(range(3)) if order != (0, 1, 2)) + 0.1
    # A pair potential has the size right to a third or so, kBar and eV/A^3 are a factor of 1602 apart.
    assert 0.5 < (shear * labels).sum() / (shear**2).sum() < 2


@pytest.mark.parametrize("name", ["Li/training", "Li/test", "Si/training", "Si/test", "Cu/test"])
def test_mlearn_sheared_cells_resist(name: str) -> None:
    """The largest shear stress of a sheared cubic crystal is where the shear is, and has its sign (Li: too soft)."""
    checked = 0
    for atoms in read_mlearn(real(f"mlearn/{name}.json.gz")):
        if atoms.info["sampling"] != "Elastic":
            continue
        shear = np.array([atoms.cell[i, j] + atoms.cell[j, i] for i, j in ((1, 2), (0, 2), (0, 1))])
        if np.abs(shear).max() > 1e-6:
            stress = atoms.get_stress()[3:]
            place = int(np.abs(shear).argmax())
            assert int(np.abs(stress).argmax()) == place, atoms.info["description"]
            assert stress[place] * shear[place] > 0 or atoms.symbols[0] == "Li"
            checked += 1
    assert checked == {"Li/training": 10, "Li/test": 2, "Si/training": 27, "Si/test": 3, "Cu/test": 5}[name]


def symmetric_part(atoms: Atoms, tensor: np.ndarray) -> np.ndarray:
    """Return the mean of a tensor over the rotations of a crystal."""
    rotations = spglib.get_symmetry((atoms.cell.array, atoms.get_scaled_positions(), atoms.numbers), 1e-3)["rotations"]
    cell = atoms.cell.array.T
    turned = [cell @ rotation @ np.linalg.inv(cell) for rotation in rotations]
    return np.mean([turn @ tensor @ turn.T for turn in turned], axis=0)


def test_matpes_stress_has_the_symmetry_of_its_crystals() -> None:
    """Which fixes the order of its components: in these rhombohedral cells every other one breaks the symmetry."""
    told = 0
    for atoms in read_matpes(real("reference/two_levels/MatPES-PBE-Element-Refs.json.gz")):
        if atoms.symbols[0] not in ("As", "Sb", "Bi"):
            continue
        broken = {}
        for order in permutations(range(3)):
            xx, yy, zz, yz, xz, xy = atoms.get_stress()[[0, 1, 2, *(3 + k for k in order)]]
            tensor = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
            broken[order] = float(np.abs(symmetric_part(atoms, tensor) - tensor).max())
        right = broken.pop((0, 1, 2))
        assert right < 0.02 * np.abs(tensor).max()
        assert right < 0.1 * min(broken.values())
        told += 1
    assert told == 3


def test_formats_by_name(tmp_path: Path) -> None:
    for name, kind in {
        "a.xyz": "extxyz",
        "a.extxyz.gz": "extxyz",
        "a.db": "ase-db",
        "a.npz": "npz",
        "MPtrj_2022.9_full.json": "mptrj",
        "MatPES-PBE-2025.1.json.gz": "matpes",
        "folder": "dataset",
    }.items():
        assert guess_format(tmp_path / name) == kind
    with pytest.raises(DatasetError, match=r"training\.json"):
        guess_format("training.json")
    with pytest.raises(DatasetError, match="input format 'odd'"):
        read_frames("x", format="odd")
    with pytest.raises(DatasetError, match="output format 'mptrj'"):
        write_frames(tmp_path / "x", [], format="mptrj")


def test_a_dataset_converted_is_the_same_dataset(tmp_path: Path) -> None:
    level = LevelOfTheory(code="espresso", method="PBE")
    old = Dataset.create(
        tmp_path / "old", [frames()[1], frames()[2]], level=level, isolated_energies={"Si": -1.0}, splits={"train": [1]}
    )
    new = import_dataset(tmp_path / "new", old.path)
    assert new.content_hash == old.content_hash
    assert new.name == "old"
    written = import_dataset(tmp_path / "leveled", _xyz(tmp_path), level=level)
    assert written.level == level
    assert set(written.column("level")) == {level.id, ""}


def _xyz(folder: Path) -> Path:
    path = folder / "plain.xyz"
    bare = [atoms.copy() for atoms in frames()]
    for atoms in bare:
        atoms.info = {}
    labelled = attach_labels(bare[0], 1.0)
    labelled.info = {}
    ase.io.write(path, [labelled, bare[1]])
    return path
