from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.curation import find_mixtures, hold_out, leaked
from atomfoundry.datasets import Dataset
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError


def labelled(atoms, per_atom, **info):
    atoms = atoms.copy()
    atoms.info.update(info)
    atoms.calc = SinglePointCalculator(atoms, energy=per_atom * len(atoms), forces=np.zeros((len(atoms), 3)))
    return atoms


def test_magnetic_orders_are_found_and_the_lowest_is_named(tmp_path):
    iron = bulk("Fe", cubic=True)
    frames = [
        labelled(iron, -8.0, group_id="mp-13"),
        labelled(iron * (1, 1, 2), -7.7, group_id="mp-13"),  # the same crystal, not magnetic
        labelled(bulk("Fe", a=2.9, cubic=True), -7.6, group_id="mp-13"),  # another volume may well differ
        labelled(bulk("Cu", cubic=True), -3.5, group_id="mp-30"),
        labelled(bulk("Cu", cubic=True) * (1, 1, 2), -3.5, group_id="mp-30"),
    ]
    (mixture,) = find_mixtures(Dataset.create(tmp_path / "d", frames))
    assert (mixture.kind, mixture.what, mixture.frames, mixture.lowest) == ("magnetic_orders", "mp-13", (0, 1), (0,))
    assert mixture.spread == pytest.approx(0.3)


def test_hubbard_u_on_some_frames_only(tmp_path):
    oxide, metal, zinc = bulk("FeO", "rocksalt", a=4.3), bulk("Fe"), bulk("ZnO", "wurtzite", a=3.25, c=5.2)
    frames = [labelled(a, -5.0, group_id=str(i)) for i, a in enumerate([oxide, metal, zinc, bulk("Zn")])]
    (mixture,) = find_mixtures(Dataset.create(tmp_path / "d", frames))
    assert (mixture.kind, mixture.what, mixture.frames) == ("hubbard_u", "Fe", (0, 1))
    said = LevelOfTheory(code="vasp", method="PBE+U", hubbard_u={"Fe": 5.3})
    assert find_mixtures(Dataset.create(tmp_path / "e", frames, level=said)) == []


def test_several_levels(tmp_path):
    levels = [LevelOfTheory(code="vasp", method=m) for m in ("PBE", "r2SCAN")]
    frames = [labelled(bulk("Cu", a=3.6 + 0.01 * i), -3.5, group_id=str(i), level=levels[i % 2].id) for i in range(5)]
    (mixture,) = find_mixtures(Dataset.create(tmp_path / "d", frames, levels=levels))
    assert mixture.kind == "levels"
    assert "PBE (vasp): 3" in mixture.what
    assert "r2SCAN (vasp): 2" in mixture.what


@pytest.fixture
def mixed(tmp_path):
    parents = {
        "NaCl": bulk("NaCl", "rocksalt", a=5.6),
        "NaF": bulk("NaF", "rocksalt", a=4.6),
        "KCl": bulk("KCl", "rocksalt", a=6.3),
    }
    frames = []
    for name, parent in parents.items():
        for i in range(10):
            atoms = parent * (1, 1, 1 + i % 3)
            atoms.rattle(0.05, seed=i)
            frames.append(labelled(atoms, -3.0, group_id=f"{name}{i // 2}", source="old" if i < 6 else "new"))
    return Dataset.create(tmp_path / "mixed", frames)


@pytest.mark.parametrize(
    ("axis", "values", "n_test"),
    [("element", ["K"], 10), ("formula", ["FNa"], 10), ("source", ["new"], 12), ("size", 4, 9)],
)
def test_what_is_held_out_is_in_no_other_split(mixed, axis, values, n_test):
    parts = hold_out(mixed, axis, values, seed=1)
    assert len(parts["test"]) == n_test
    groups = mixed.column("group_id")
    used = {name: {groups[i] for i in rows} for name, rows in parts.items()}
    assert not used["test"] & (used["train"] | used["valid"])
    assert not used["train"] & used["valid"]
    assert parts["train"]
    assert hold_out(mixed, axis, values, seed=1) == parts
    if axis == "element":
        assert all("K" not in mixed[i].symbols for i in parts["train"])
    if axis == "size":
        assert max(len(mixed[i]) for i in parts["train"]) <= 4 < min(len(mixed[i]) for i in parts["test"])


@pytest.mark.parametrize(
    ("axis", "values"),
    [("element", ["Xx"]), ("element", ["Au"]), ("formula", ["Q9"]), ("size", ["a"]), ("source", "new")],
)
def test_impossible_holdouts(mixed, axis, values):
    with pytest.raises(DatasetError):
        hold_out(mixed, axis, values)


def test_leaks_into_a_benchmark_are_found(tmp_path):
    water = molecule("H2O")
    water.rotate(50, (1, 2, 3))
    training = Dataset.create(
        tmp_path / "t", [molecule("CH4"), water[[2, 0, 1]], bulk("Si", cubic=True), bulk("Cu", a=3.7), Atoms("H")]
    )
    benchmark = Dataset.create(tmp_path / "b", [bulk("Cu", a=3.6), molecule("H2O"), bulk("Si"), molecule("NH3")])
    assert leaked(training, benchmark) == [(1, 1), (2, 2)]
