from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.morse import MorsePotential

from atomfoundry.benchmarks import Elasticity, EquationOfState, compare
from atomfoundry.benchmarks.labelling import single_point
from atomfoundry.errors import ConfigurationError
from atomfoundry.units import EV_PER_A3_IN_GPA as GPA


def positive_tensor(seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(6, 6))
    return matrix @ matrix.T / 10 + np.eye(6)


def tensor_of(doc, ions: str = "clamped") -> np.ndarray:
    return np.array(next(r["C"] for r in doc.records if r["kind"] == "tensor" and r["ions"] == ions))


def triclinic():
    atoms = bulk("Si", "diamond", a=5.43)
    atoms.set_cell(atoms.cell.array + np.array([[0, 0.1, 0], [0.2, 0, 0], [0.05, 0, 0.3]]), scale_atoms=True)
    return atoms


def test_a_linear_solid_returns_its_own_tensor(calculators):
    atoms, tensor = triclinic(), positive_tensor()
    doc = Elasticity(ions="clamped").run(calculators.linear_elastic(atoms, tensor), atoms)
    assert doc.n_items == 25
    assert np.abs(tensor_of(doc) / GPA - tensor).max() < 1e-8
    assert doc.summary["C16"] == pytest.approx(tensor[0, 5] * GPA)
    assert doc.summary["residual_stress"] == 0
    json.dumps(doc.model_dump(mode="json"), allow_nan=False)


def test_a_hyperelastic_solid_returns_its_own_tensor_for_small_strains(calculators):
    atoms, tensor = triclinic(), positive_tensor(1)
    small = Elasticity(ions="clamped", normal_strains=(-1e-5, 1e-5), shear_strains=(-1e-5, 1e-5))
    doc = small.run(calculators.linear_elastic(atoms, tensor, hyperelastic=True), atoms)
    assert np.abs(tensor_of(doc) / GPA - tensor).max() < 1e-8


def test_relaxed_ions(calculators):
    atoms, tensor = triclinic(), positive_tensor(2)
    coupling = 0.3 * np.random.default_rng(7).normal(size=(3, 6))
    solid = calculators.linear_elastic(atoms, tensor, coupling=coupling, stiffness=0.8)
    strains = {"normal_strains": (-1e-4, 1e-4), "shear_strains": (-1e-4, 1e-4)}
    doc = Elasticity(ions="relaxed", fmax=1e-8, max_steps=2000, **strains).run(solid, atoms)
    assert doc.failures == []
    relaxed = tensor - coupling.T @ coupling / 0.8
    assert np.abs(tensor_of(doc, "clamped") / GPA - tensor).max() < 1e-8
    assert np.abs(tensor_of(doc, "relaxed") / GPA - relaxed).max() < 1e-5
    clamped = Elasticity(ions="clamped", **strains).run(solid, atoms)
    assert doc.summary["clamped_C11"] == pytest.approx(clamped.summary["C11"], rel=1e-10)
    assert doc.summary["C11"] < doc.summary["clamped_C11"]


def test_lennard_jones_anchor(calculators, lj_fcc):
    strains = {"normal_strains": (-1e-3, 1e-3), "shear_strains": (-1e-3, 1e-3)}
    doc = Elasticity(**strains).run(calculators.lattice_sum(), lj_fcc)
    assert doc.summary["C11"] / GPA == pytest.approx(105.19, rel=5e-3)
    assert doc.summary["C12"] / GPA == pytest.approx(60.19, rel=5e-3)
    assert doc.summary["C44"] / GPA == pytest.approx(60.19, rel=5e-3)
    assert doc.summary["C44"] == pytest.approx(doc.summary["C12"], rel=2e-3)
    assert doc.summary["K_VRH"] / GPA == pytest.approx(75.19, rel=5e-3)
    assert doc.summary["G_VRH"] / GPA == pytest.approx(40.58, rel=5e-3)
    assert doc.summary["stable"] is True


def test_shear_amplitudes_extrapolate_to_the_same_constant(calculators, lj_fcc):
    def c44(amplitude: float) -> float:
        benchmark = Elasticity.small(shear_strains=(-amplitude, amplitude))
        return float(benchmark.run(calculators.lattice_sum(), lj_fcc).summary["C44"])

    def limit(amplitudes: list[float]) -> float:
        return float(np.polyfit(np.square(amplitudes), [c44(a) for a in amplitudes], len(amplitudes) - 1)[-1])

    assert limit([0.06, 0.03, 0.015]) == pytest.approx(c44(1e-4), rel=2e-3)


def test_small_profile_costs_four_labels_and_agrees(calculators, lj_fcc):
    small = Elasticity.small()
    assert [frame.info["source"].split(":")[-1] for frame in small.structures(lj_fcc)] == [
        "xx -0.01000",
        "xx +0.01000",
        "yz -0.01000",
        "yz +0.01000",
    ]
    few = small.run(calculators.lattice_sum(), lj_fcc)
    same = Elasticity(normal_strains=(-0.01, 0.01), shear_strains=(-0.01, 0.01), ions="clamped")
    many = same.run(calculators.lattice_sum(), lj_fcc)
    assert (few.n_items, many.n_items) == (4, 13)
    for key in ("C11", "C12", "C44", "K_VRH", "G_VRH", "nu"):
        assert few.summary[key] == pytest.approx(many.summary[key], rel=1e-3)


def test_cubic_constants_do_not_depend_on_the_orientation(lj_fcc, calculators):
    turned = lj_fcc.copy()
    turned.rotate(50, (1, 2, 3), rotate_cell=True)
    strains = {"normal_strains": (-1e-3, 1e-3), "shear_strains": (-1e-3, 1e-3)}
    for benchmark in (Elasticity.small(**strains), Elasticity(ions="clamped", **strains)):
        straight = benchmark.run(calculators.lattice_sum(), lj_fcc).summary
        rotated = benchmark.run(calculators.lattice_sum(), turned).summary
        for key in ("C11", "C12", "C44", "min_eigenvalue"):
            assert rotated[key] == pytest.approx(straight[key], rel=1e-3)


def test_bulk_modulus_is_that_of_the_equation_of_state():
    copper = bulk("Cu", a=EquationOfState(max_strain=0.01).run(EMT(), bulk("Cu")).summary["a"])
    elastic = Elasticity.small().run(EMT(), copper)
    curve = EquationOfState(max_strain=0.01).run(EMT(), copper)
    assert elastic.summary["K_VRH"] == pytest.approx(curve.summary["B0"], rel=0.01)


def test_labels_from_elsewhere_give_the_same_document(calculators, lj_fcc):
    benchmark = Elasticity.small()
    here = benchmark.run(calculators.lattice_sum(), lj_fcc)
    frames = [single_point(frame, calculators.lattice_sum()) for frame in benchmark.structures(lj_fcc)]
    there = benchmark.evaluate(frames[::-1], lj_fcc, calculator_name="engine")
    assert there.summary == here.summary
    assert there.records == here.records
    assert there.n_failed == 0
    judged = compare(here, there)
    assert judged.summary["C11_relative_error"] == 0
    assert judged.reference == "engine"


def test_a_frame_with_moved_ions_is_not_taken_for_the_clamped_one(silicon):
    benchmark = Elasticity.small()
    morse = MorsePotential(epsilon=1.0, r0=2.35, rho0=4.0, rcut1=3.0, rcut2=3.4)
    frames = [single_point(frame, morse) for frame in benchmark.structures(silicon)]
    moved = frames[2].copy()
    moved.positions[0] += 0.01
    doc = benchmark.evaluate([frames[0], frames[1], single_point(moved, morse), frames[3]], silicon)
    assert doc.n_failed == 1
    assert doc.failures[0]["reason"] == "missing"


def test_failures_count(calculators, lj_fcc):
    one = calculators.crashing(calculators.lattice_sum(), when=lambda call, _: call == 2)
    doc = Elasticity(ions="clamped", normal_strains=(-0.001, 0.001), shear_strains=(-0.001, 0.001)).run(one, lj_fcc)
    assert (doc.n_items, doc.n_failed) == (13, 1)
    assert doc.summary["C11"] / GPA == pytest.approx(105.19, rel=0.02)
    assert doc.records[1]["status"] == "failed" and doc.records[1]["reason"] == "crashed"
    sheared = calculators.crashing(
        calculators.lattice_sum(), when=lambda _, atoms: abs(atoms.cell.angles() - 60).max() > 0.5
    )
    doc = Elasticity.small().run(sheared, lj_fcc)
    assert doc.n_failed >= 2
    assert doc.failures[-1]["item"] == "analysis"
    assert doc.failures[-1]["reason"] == "too_few_points"
    assert "C44" not in doc.summary


def test_no_stress_is_a_failure(calculators, silicon):
    spring = calculators.harmonic_crystal(silicon, cutoff=2.5, spring=1.0)
    doc = Elasticity.small().run(spring, silicon)
    assert (doc.n_items, doc.n_failed) == (4, 4)
    assert {failure["reason"] for failure in doc.failures[:4]} == {"no_stress"}


def test_bad_input(calculators, lj_fcc):
    with pytest.raises(ConfigurationError, match="ions"):
        Elasticity(ions="frozen")
    with pytest.raises(ConfigurationError, match="normal_strains"):
        Elasticity(normal_strains=(0.01,), include_zero=False)
    with pytest.raises(ConfigurationError, match="clamped"):
        Elasticity(ions="relaxed").evaluate([], lj_fcc)
    clamped = Elasticity.small().run(calculators.lattice_sum(), lj_fcc)
    relaxed = Elasticity.small(ions="relaxed").run(calculators.lattice_sum(), lj_fcc)
    with pytest.raises(ConfigurationError, match="ions"):
        compare(relaxed, clamped)
    wider = Elasticity.small(shear_strains=(-0.06, 0.06)).run(calculators.lattice_sum(), lj_fcc)
    with pytest.raises(ConfigurationError, match="shear_strains"):
        compare(wider, clamped)
