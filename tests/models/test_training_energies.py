"""Isolated-atom energies, force scale, neighbour statistics."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.errors import ConfigurationError, TrainingError
from atomfoundry.models.training.energies import (
    average_num_neighbors,
    fit_reference_energies,
    force_rms,
    force_rms_by_element,
    force_scale,
    isolated_energies_of,
)

TRUE = {"H": -13.6, "C": -1029.0, "O": -2041.5}


def labelled(atoms, energy, forces=None):
    results = {"energy": energy} | ({} if forces is None else {"forces": forces})
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def additive(formula):
    atoms = Atoms(formula, positions=np.random.default_rng(0).normal(size=(len(Atoms(formula)), 3)))
    return labelled(atoms, sum(TRUE[s] for s in atoms.get_chemical_symbols()))


def test_least_squares_recovers_additive_energies():
    frames = [additive(f) for f in ("H2O", "CH4", "CO2", "C2H6O", "H2O2")]
    fit = fit_reference_energies(frames, ["H", "C", "O"], policy="lstsq")
    assert fit.rank == 3
    assert fit.undetermined == []
    assert fit.rmse == pytest.approx(0.0, abs=1e-9)
    for element, energy in TRUE.items():
        assert fit.energies[element] == pytest.approx(energy, abs=1e-8)


def test_a_fixed_ratio_is_reported_and_solved_with_the_smallest_numbers():
    frames = [additive(f) for f in ("CO", "C2O2", "C3O3")]
    fit = fit_reference_energies(frames, ["C", "O"], policy="lstsq")
    assert fit.rank == 1
    assert fit.undetermined == ["C", "O"]
    assert len(fit.null_space) == 1
    assert fit.energies["C"] == pytest.approx(fit.energies["O"])
    assert fit.energies["C"] + fit.energies["O"] == pytest.approx(TRUE["C"] + TRUE["O"])


def test_an_absent_element_is_undetermined_and_zero():
    fit = fit_reference_energies([additive("H2O"), additive("H2O2")], ["H", "C", "O"], policy="lstsq")
    assert fit.undetermined == ["C"]
    assert fit.energies["C"] == pytest.approx(0.0, abs=1e-9)


def test_mean_gives_all_elements_the_mean_per_atom():
    fit = fit_reference_energies([additive("H2O"), additive("CO")], ["H", "C", "O"], policy="mean")
    expected = np.mean([(2 * TRUE["H"] + TRUE["O"]) / 3, (TRUE["C"] + TRUE["O"]) / 2])
    assert list(fit.energies.values()) == pytest.approx([expected] * 3)


def test_foundation_corrected_moves_old_energies_by_the_misfit():
    frames = [additive(f) for f in ("H2O", "CO", "CH4")]
    old = {"H": -13.0, "C": -1030.0, "O": -2040.0}
    predicted = [sum(old[s] for s in f.get_chemical_symbols()) for f in frames]
    fit = fit_reference_energies(
        frames,
        ["H", "C", "O"],
        policy="foundation_corrected",
        foundation_energies=old,
        foundation_predictions=predicted,
    )
    for element, energy in TRUE.items():
        assert fit.energies[element] == pytest.approx(energy, abs=1e-8)
    with pytest.raises(TrainingError, match="foundation_energies"):
        fit_reference_energies(frames, ["H", "C", "O"], policy="foundation_corrected")


def test_isolated_energies_come_from_single_atoms_or_the_caller():
    frames = [labelled(Atoms("H"), -13.6), additive("H2O")]
    fit = fit_reference_energies(frames, ["H", "O"], isolated_energies={"O": -2041.0})
    assert fit.energies == {"H": -13.6, "O": -2041.0}
    with pytest.raises(TrainingError, match="of O"):
        fit_reference_energies(frames, ["H", "O"])


def test_a_periodic_single_atom_is_no_isolated_atom():
    assert isolated_energies_of([labelled(bulk("Al"), -3.0)]) == {}


def test_contradicting_isolated_atoms_are_an_error():
    with pytest.raises(TrainingError, match="Two isolated H"):
        isolated_energies_of([labelled(Atoms("H"), -13.6), labelled(Atoms("H"), -12.5)])


def test_force_rms():
    water = molecule("H2O")
    frames = [labelled(water, 0.0, np.full((3, 3), 2.0)), additive("CO")]
    assert force_rms(frames) == pytest.approx(2.0)
    with pytest.raises(TrainingError, match="zero"):
        force_rms([additive("CO")])


def test_force_rms_by_element():
    water = labelled(molecule("H2O"), 0.0, [[4.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.0, 0.0, -3.0]])
    carbon = labelled(Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]), 0.0, [[0.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    frames = [water, carbon, additive("CO")]
    found = force_rms_by_element(frames, ["H", "C", "O", "Ar"])
    overall = force_rms(frames)
    assert overall == pytest.approx((38 / 15) ** 0.5)
    assert found == {
        "H": pytest.approx((18 / 6) ** 0.5),
        "C": overall,  # at rest
        "O": pytest.approx((20 / 6) ** 0.5),
        "Ar": overall,  # not there
    }
    assert force_scale(frames, ["H", "C"], policy="per_element") == {"H": found["H"], "C": overall}
    assert force_scale(frames, ["H", "C"]) == overall
    with pytest.raises(TrainingError, match="zero"):
        force_rms_by_element([additive("CO")], ["C", "O"])
    with pytest.raises(ConfigurationError, match="no scale 'per-type'"):
        force_scale(frames, ["H"], policy="per-type")


def test_neighbour_average_leaves_isolated_atoms_out():
    frames = [bulk("Al", cubic=True), Atoms("Al")]
    assert average_num_neighbors(frames, cutoff=3.0) == pytest.approx(12.0)
    assert average_num_neighbors([molecule("H2O"), *frames[:0]], cutoff=3.0) == pytest.approx(2.0)
    with pytest.raises(TrainingError, match="neighbour"):
        average_num_neighbors([Atoms("Al")], cutoff=3.0)
