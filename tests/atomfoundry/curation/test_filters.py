from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.curation import FilterSettings, boltzmann_weights, curate_dataset
from atomfoundry.datasets import Dataset
from atomfoundry.errors import DatasetError
from atomfoundry.units import KB


def labelled(atoms, energy, forces=None, stress=None, **info):
    atoms = atoms.copy()
    atoms.info.update(info)
    labels = {"energy": energy, "forces": np.zeros((len(atoms), 3)) if forces is None else forces}
    if stress is not None:
        labels["stress"] = stress
    atoms.calc = SinglePointCalculator(atoms, **labels)
    return atoms


def copper(i, energy=None, **more):
    atoms = bulk("Cu", a=3.6 + 1e-3 * i, cubic=True)
    return labelled(atoms, -16.0 + 0.001 * (i % 5) if energy is None else energy, group_id=f"cu{i}", **more)


@pytest.fixture
def dataset(tmp_path):
    pull = np.zeros((4, 3))
    pull[0, 0], pull[1, 0] = 60.0, -60.0
    net = np.zeros((4, 3))
    net[0, 0] = 0.1
    broken = molecule("CH3CH2OH")
    del broken[-1]
    frames = [copper(i) for i in range(30)]
    frames += [
        copper(40, energy=-12.0),  # 1 eV/atom above its class
        copper(41, forces=pull),
        copper(42, forces=net),
        copper(43, stress=np.array([0.7, 0, 0, 0, 0, 0])),
        copper(3),
        labelled(broken, -200.0, group_id="ethanol"),
        labelled(Atoms("Ar"), 0.0, group_id="argon"),
    ]
    return Dataset.create(
        tmp_path / "raw", frames, isolated_energies={"Cu": -1.0}, splits={"train": [0, 30, 1], "test": [2, 31]}
    )


def test_every_filter_counts_what_it_refused(dataset, tmp_path):
    settings = FilterSettings(check_valence=True, excluded_elements=("Ar",))
    good, report = curate_dataset(dataset, tmp_path / "good", settings=settings, rejected=tmp_path / "bad")
    assert report.reasons == {
        "duplicate": 1,
        "energy_outlier": 1,
        "excluded_element": 1,
        "exploded": 1,
        "large_stress": 1,
        "net_force": 1,
        "valence": 1,
    }
    assert (report.n_frames, report.n_kept, len(good)) == (37, 30, 30)
    assert {e.reason for e in report.examples} == set(report.reasons)
    bad = Dataset.open(tmp_path / "bad")
    assert len(bad) == 7
    assert sorted(flag for atoms in bad for flag in atoms.info["flags"]) == sorted(report.reasons)
    # nothing lost: what was kept and what was refused is what there was
    assert sorted([*good.column("frame_id"), *bad.column("frame_id")]) == sorted(dataset.column("frame_id"))
    assert good.splits == {"train": [0, 1], "test": [2]}
    assert good.isolated_energies == {"Cu": -1.0}


def test_small_classes_have_no_outliers(dataset, tmp_path):
    _, report = curate_dataset(dataset, tmp_path / "good", settings=FilterSettings(outlier_class_size=60))
    assert "energy_outlier" not in report.reasons


def test_weights_fall_with_the_energy(dataset, tmp_path):
    settings = FilterSettings(weight_temperature=3000.0, energy_outlier_mad=None)
    good, _ = curate_dataset(dataset, tmp_path / "good", settings=settings)
    weights, energies = good.column("weight"), good.column("energy")
    cu = np.array([set(atoms.symbols) == {"Cu"} for atoms in good])
    expected = np.exp(-(energies[cu] + 16.0) / 4 / (KB * 3000.0))
    np.testing.assert_allclose(weights[cu], np.maximum(expected, 0.01), rtol=1e-12)
    assert weights[cu].max() == 1.0
    assert weights[cu].min() < 0.03  # the frame 1 eV/atom up


def test_nothing_good_writes_nothing(tmp_path):
    raw = Dataset.create(tmp_path / "raw", [labelled(Atoms("Ar"), 0.0)])
    good, report = curate_dataset(raw, tmp_path / "good", settings=FilterSettings(excluded_elements=("Ar",)))
    assert good is None
    assert report.n_kept == 0
    assert not (tmp_path / "good").exists()


def test_existing_folders_are_left_alone(dataset, tmp_path):
    (tmp_path / "good").mkdir()
    with pytest.raises(DatasetError, match="good exists"):
        curate_dataset(dataset, tmp_path / "good")


def test_boltzmann_weights():
    w = boltzmann_weights([-2.0, -1.0, 5.0, np.nan], [2, 2, 1, 3], ["a", "a", "b", "a"], temperature=0.5 / KB)
    np.testing.assert_allclose(w, [1.0, np.exp(-1.0), 1.0, 1.0])
    assert boltzmann_weights([0.0, 99.0], [1, 1], ["a", "a"])[1] == 0.01
    with pytest.raises(DatasetError):
        boltzmann_weights([0.0], [1], ["a"], temperature=0.0)
