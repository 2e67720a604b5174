from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from atomfoundry.benchmarks import EquationOfState, compare
from atomfoundry.benchmarks.labelling import single_point
from atomfoundry.errors import ConfigurationError, StructureError
from atomfoundry.units import EV_PER_A3_IN_GPA


def test_lennard_jones_anchor(calculators, lj_fcc):
    doc = EquationOfState(max_strain=0.01).run(calculators.lattice_sum(), lj_fcc)
    assert doc.summary["a"] == pytest.approx(1.541737, rel=5e-4)
    assert doc.summary["E0"] == pytest.approx(-8.6102, rel=5e-3)
    assert doc.summary["B0"] / EV_PER_A3_IN_GPA == pytest.approx(75.19, rel=5e-3)
    assert doc.summary["energy_flips"] == 1
    assert doc.summary["tortuosity"] == pytest.approx(1)
    assert doc.summary["spearman_compression"] == pytest.approx(-1)
    assert doc.summary["spearman_tension"] == pytest.approx(1)
    assert doc.summary["spearman_slope_compression"] == pytest.approx(1)
    assert doc.summary["extrapolated"] is False
    assert (doc.n_items, doc.n_failed) == (11, 0)


def test_pressure_matches_the_energy(calculators, lj_fcc):
    doc = EquationOfState(max_strain=0.001, n_points=3 + 2).run(calculators.lattice_sum(), lj_fcc)
    volumes, energies, pressures = (
        np.array([record[key] for record in doc.records]) for key in ("volume", "energy", "pressure")
    )
    slopes = -(energies[2:] - energies[:-2]) / (volumes[2:] - volumes[:-2]) * EV_PER_A3_IN_GPA
    assert pressures[1:-1] == pytest.approx(slopes, abs=2e-3 * np.abs(pressures).max())


def test_copper_with_emt_is_what_ase_gives():
    doc = EquationOfState().run(EMT(), bulk("Cu"))
    assert doc.calculator == "emt"
    assert doc.system == "Cu"
    assert doc.summary["a"] == pytest.approx(3.59, abs=0.005)
    assert doc.summary["B0"] == pytest.approx(134, rel=0.02)
    json.dumps(doc.model_dump(mode="json"), allow_nan=False)
    assert all(type(record["volume"]) is float for record in doc.records)


def test_lattice_parameter_is_the_conventional_one(calculators, lj_fcc):
    turned = lj_fcc.copy()
    turned.rotate(31, (1, 2, 3), rotate_cell=True)
    for atoms in (lj_fcc, turned):
        doc = EquationOfState(max_strain=0.01).run(calculators.lattice_sum(), atoms)
        assert doc.summary["a"] == pytest.approx(1.541737, rel=5e-4)
    hcp = bulk("Mg", "hcp", a=3.2, c=5.2)
    labelled = [
        single_point(frame, LennardJones(sigma=2.85, epsilon=0.1)) for frame in EquationOfState().structures(hcp)
    ]
    assert EquationOfState().evaluate(labelled, hcp).summary["a"] is None


def test_labels_from_elsewhere_give_the_same_document(calculators, lj_fcc):
    benchmark = EquationOfState(max_strain=0.02)
    here = benchmark.run(calculators.lattice_sum(), lj_fcc)
    frames = [single_point(frame, calculators.lattice_sum()) for frame in benchmark.structures(lj_fcc)]
    stranger = single_point(bulk("Ar", "fcc", a=2.0), calculators.lattice_sum())
    order = np.random.default_rng(0).permutation(len(frames))
    there = benchmark.evaluate([stranger] + [frames[i] for i in order], lj_fcc, calculator_name="engine")
    assert there.summary == here.summary
    assert there.settings_hash == here.settings_hash
    assert there.calculator == "engine"
    sources = [frame.info["source"] for frame in benchmark.structures(lj_fcc)]
    assert len(set(sources)) == len(sources)


def test_missing_labels_count_with_their_reason(calculators, lj_fcc):
    benchmark = EquationOfState(max_strain=0.02)
    structures = benchmark.structures(lj_fcc)
    frames = [single_point(frame, calculators.lattice_sum()) for frame in structures[2:]]
    reason = {"source": structures[0].info["source"], "reason": "unconverged", "message": "SCF"}
    doc = benchmark.evaluate(frames, lj_fcc, failures=[reason])
    assert (doc.n_items, doc.n_failed) == (11, 2)
    assert [failure["reason"] for failure in doc.failures] == ["unconverged", "missing"]
    assert [record["status"] for record in doc.records] == ["failed"] * 2 + ["ok"] * 9
    assert doc.records[0]["energy"] is None
    assert doc.summary["n_points"] == 9


def test_crashes_count(calculators, lj_fcc):
    broken = calculators.crashing(calculators.lattice_sum(), when=lambda call, _: call == 3)
    doc = EquationOfState(max_strain=0.01, relax_positions=False).run(broken, lj_fcc)
    assert (doc.n_items, doc.n_failed) == (11, 1)
    assert doc.failures[0]["reason"] == "crashed"
    assert "the code fell over" in doc.failures[0]["message"]
    assert doc.summary["B0"] / EV_PER_A3_IN_GPA == pytest.approx(75.19, rel=5e-3)


@pytest.mark.parametrize("nan", [False, True])
def test_nothing_works(calculators, lj_fcc, nan):
    broken = calculators.crashing(calculators.lattice_sum(), when=lambda *_: True, nan=nan)
    doc = EquationOfState().run(broken, lj_fcc)
    assert (doc.n_items, doc.n_failed) == (11, 11)
    assert {failure["reason"] for failure in doc.failures[:11]} == {"nan" if nan else "crashed"}
    assert doc.failures[11]["item"] == "analysis"
    assert doc.summary == {}
    assert len(doc.records) == 11


def test_failed_cell_relaxation_fails_every_item(calculators, lj_fcc):
    broken = calculators.crashing(calculators.lattice_sum(), when=lambda *_: True)
    doc = EquationOfState(relax_cell=True).run(broken, lj_fcc)
    assert (doc.n_items, doc.n_failed) == (11, 11)


def test_cell_relaxation_moves_the_grid(calculators):
    start = bulk("Ar", "fcc", a=1.60)
    doc = EquationOfState(relax_cell=True, max_strain=0.01, fmax=1e-4).run(calculators.lattice_sum(), start)
    middle = doc.records[5]
    assert middle["strain"] == 0
    assert middle["volume"] == pytest.approx(1.541737**3 / 4, rel=1e-3)


def test_positions_are_relaxed_only_where_there_are_forces(calculators, lj_fcc):
    doc = EquationOfState(n_points=5).run(calculators.lattice_sum(), lj_fcc)
    assert all(record["relaxation_steps"] == 0 for record in doc.records)
    shifted = bulk("Cu", cubic=True)
    shifted.positions[0] += (0.1, 0.05, 0.0)
    relaxed = EquationOfState(n_points=5, max_strain=0.01).run(EMT(), shifted)
    clamped = EquationOfState(n_points=5, max_strain=0.01, relax_positions=False).run(EMT(), shifted)
    assert all(record["relaxation_steps"] > 0 for record in relaxed.records)
    assert relaxed.summary["E0"] < clamped.summary["E0"]
    stopped = EquationOfState(n_points=5, max_strain=0.01, max_steps=1).run(EMT(), shifted)
    assert {failure["reason"] for failure in stopped.failures[:5]} == {"unconverged"}


def test_comparison(calculators, lj_fcc):
    benchmark = EquationOfState(max_strain=0.02)
    reference = benchmark.run(calculators.lattice_sum(), lj_fcc, calculator_name="truth")
    same = benchmark.run(calculators.lattice_sum(), lj_fcc, reference=reference)
    assert same.reference == "truth"
    assert same.summary["B0_relative_error"] == 0
    assert same.summary["delta"] == pytest.approx(0)
    assert same.reference_summary == reference.summary
    assert same.reference_records == reference.records
    other = benchmark.run(LennardJones(rc=2.5, smooth=False), lj_fcc)
    judged = compare(other, reference)
    assert judged.summary["V0_error"] == pytest.approx(other.summary["V0"] - reference.summary["V0"])
    assert judged.summary["B0_relative_error"] == pytest.approx(other.summary["B0"] / reference.summary["B0"] - 1)
    assert judged.summary["delta"] > 0
    assert "B0_error" not in other.summary


def test_bad_input():
    with pytest.raises(StructureError, match="periodic"):
        EquationOfState().run(EMT(), Atoms("Cu2", positions=[[0, 0, 0], [0, 0, 2.5]]))
    with pytest.raises(ConfigurationError, match="at least 4"):
        EquationOfState(n_points=3)
    with pytest.raises(ConfigurationError):
        EquationOfState(strains=(0.0, 0.0, 0.1, 0.2))
