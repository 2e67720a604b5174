"""Bond terms: their derivatives, what they can say that shifts cannot, and when they are refused."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.alignment import Alignment, AlignmentSettings, PairBasis, PairTerms, fit_alignment
from atomfoundry.alignment.pairs import merge_terms, pair_features, pair_name
from atomfoundry.datasets import attach_labels, labels_of
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError

SOURCE = LevelOfTheory(code="test", method="low")
TARGET = LevelOfTheory(code="test", method="high")
BASIS = PairBasis(n_radial=3)
TERMS = PairTerms(
    basis=BASIS,
    coefficients={"H-O": [0.31, -0.7, 1.1], "H-H": [-0.1, 0.2, 0.4], "C-O": [0.5, 0.1, -0.9], "H-C": [0.2, 0.3, 0.1]},
)
NAMES = ("H2O", "CH4", "CH3OH", "H2CO", "CO2", "C2H6", "C2H4", "C2H2", "HCOOH", "CH3CHO", "CH3CH2OH", "CH3OCH3")


def rattled(name: str, seed: int, scale: float = 0.08) -> Atoms:
    shape = molecule(name)
    rng = np.random.default_rng(seed)
    return Atoms(shape.numbers, positions=shape.positions + rng.normal(scale=scale, size=shape.positions.shape))


def test_names_have_the_lighter_element_first() -> None:
    assert pair_name("O", "H") == pair_name("H", "O") == "H-O"
    assert pair_name("C", "C") == "C-C"


def test_basis_is_smooth_and_its_slope_right() -> None:
    x = np.linspace(0.5, 1.8, 4001)
    values, slopes = BASIS.values(x)
    assert np.abs(np.gradient(values, x, axis=0)[2:-2] - slopes[2:-2]).max() < 1e-4
    assert (values[x >= BASIS.cutoff] == 0).all()
    assert (values[x <= 0.8, 0] == 1).all()
    assert np.abs(np.gradient(slopes, x, axis=0)[:, 0]).max() < 12


def test_forces_and_stress_are_the_derivatives() -> None:
    atoms = rattled("CH3OH", 0)
    _, forces, stress = TERMS.evaluate(atoms)
    assert np.isnan(stress).all()
    step = 1e-5
    for i in range(len(atoms)):
        for axis in range(3):
            energies = []
            for sign in (1, -1):
                moved = atoms.copy()
                moved.positions[i, axis] += sign * step
                energies.append(TERMS.energy(moved))
            assert -(energies[0] - energies[1]) / (2 * step) == pytest.approx(forces[i, axis], abs=1e-7)
    crystal = bulk("MgO", "rocksalt", a=4.0).repeat((1, 1, 2))
    crystal.rattle(0.05, seed=1)
    terms = PairTerms(basis=PairBasis(n_radial=2, cutoff=1.6), coefficients={"O-Mg": [0.3, -0.2], "Mg-Mg": [0.1, 0.1]})
    stress = terms.evaluate(crystal)[2]
    voigt = [(0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)]
    for k, (i, j) in enumerate(voigt):
        energies = []
        for sign in (1, -1):
            strain = np.zeros((3, 3))
            strain[i, j] += sign * step / 2
            strain[j, i] += sign * step / 2
            strained = crystal.copy()
            strained.set_cell(crystal.cell.array @ (np.eye(3) + strain), scale_atoms=True)
            energies.append(terms.energy(strained))
        assert (energies[0] - energies[1]) / (2 * step) / crystal.get_volume() == pytest.approx(stress[k], abs=1e-8)


def test_energy_is_features_times_coefficients_and_additive() -> None:
    atoms = rattled("HCOOH", 3)
    features = pair_features(atoms, BASIS)
    expected = sum(float(features[pair] @ TERMS.coefficients.get(pair, [0, 0, 0])) for pair in features)
    assert TERMS.energy(atoms) == pytest.approx(expected, abs=1e-12)
    (both,) = merge_terms([TERMS, TERMS.scaled(0.5)])
    assert both.energy(atoms) == pytest.approx(1.5 * expected, abs=1e-12)
    far = Atoms("OH", positions=[[0, 0, 0], [0, 0, 3.0]])
    assert TERMS.energy(far) == 0
    assert TERMS.energy(Atoms("O")) == 0


def _levels(noise: float = 0.0) -> tuple[list[Atoms], list[Atoms]]:
    """Two levels that differ by shifts, a scale and exactly our bond terms."""
    rng = np.random.default_rng(1)
    source, target = [], []
    low, high = {"H": -13.0, "C": -1030.0, "O": -2041.0}, {"H": -12.8, "C": -150.0, "O": -430.0}
    for number, name in enumerate(NAMES * 4):
        atoms = rattled(name, number)
        atomization = -3.5 * len(atoms) + rng.normal()
        forces = rng.normal(size=(len(atoms), 3))
        more, more_forces, _ = TERMS.evaluate(atoms)
        source.append(attach_labels(atoms, sum(low[s] for s in atoms.symbols) + atomization, forces))
        energy = sum(high[s] for s in atoms.symbols) + 1.03 * atomization + more + noise * len(atoms) * rng.normal()
        target.append(attach_labels(atoms, energy, 1.03 * forces + more_forces))
    return source, target


def _fit(source: list[Atoms], target: list[Atoms], **options: object) -> Alignment:
    return fit_alignment(
        source,
        target=target,
        source_level=SOURCE,
        target_level=TARGET,
        source_isolated_energies={"H": -13.0, "C": -1030.0, "O": -2041.0},
        mode="pairs",
        **options,  # type: ignore[arg-type]
    )


def test_pairs_recover_what_the_levels_differ_by() -> None:
    source, target = _levels()
    settings = AlignmentSettings(pair_prior=1e-7)
    alignment = _fit(source, target, settings=settings, target_isolated_energies={"H": -12.8, "C": -150.0, "O": -430.0})
    assert alignment.scale == pytest.approx(1.03, abs=1e-5)
    for before, after in zip(source, target, strict=True):
        aligned = alignment.apply(before)
        assert labels_of(aligned)[0] == pytest.approx(labels_of(after)[0], abs=1e-4)
        assert np.abs(labels_of(aligned)[1] - labels_of(after)[1]).max() < 1e-3
        restored = alignment.invert(aligned)
        assert labels_of(restored)[0] == pytest.approx(labels_of(before)[0], abs=1e-9)
        assert np.allclose(labels_of(restored)[1], labels_of(before)[1], atol=1e-12)
    metrics = alignment.report.metrics
    assert metrics["cross_validated"].rmse < metrics["affine_cross_validated"].rmse / 10
    with pytest.raises(AlignmentError, match="bond terms"):
        alignment.energy(-1.0, {"H": 2})


def test_noise_is_not_taken_for_bonds() -> None:
    """Where levels differ by noise only, cross-validation says that bond terms do not help."""
    rng = np.random.default_rng(0)
    source, _ = _levels()
    target = [attach_labels(a, (labels_of(a)[0] or 0) + 0.02 * len(a) * rng.normal()) for a in source]
    alignment = _fit(source, target, force=True)
    metrics = alignment.report.metrics
    assert metrics["cross_validated"].rmse > 0.9 * metrics["affine_cross_validated"].rmse
    assert all(abs(b) < 0.5 for terms in alignment.pair_terms for bs in terms.coefficients.values() for b in bs)


def test_file_keeps_the_terms(tmp_path) -> None:  # type: ignore[no-untyped-def]
    source, target = _levels(0.01)
    alignment = _fit(source, target, force=True)
    again = Alignment.load(alignment.save(tmp_path / "a.json"))
    assert again == alignment
    assert labels_of(again.apply(source[0]))[0] == labels_of(alignment.apply(source[0]))[0]
