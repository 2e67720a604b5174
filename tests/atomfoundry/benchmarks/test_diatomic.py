from __future__ import annotations

import json

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.emt import EMT
from ase.data import covalent_radii, vdw_radii

from atomfoundry.benchmarks import Diatomic, compare
from atomfoundry.benchmarks.labelling import single_point
from atomfoundry.errors import ConfigurationError, StructureError

DEPTH, WIDTH, BOND = 3.0, 1.5, 2.3


def morse(r):
    return DEPTH * ((1 - np.exp(-WIDTH * (r - BOND))) ** 2 - 1)


def morse_slope(r):
    decay = np.exp(-WIDTH * (r - BOND))
    return 2 * DEPTH * WIDTH * (1 - decay) * decay


def wiggle(r):
    return 0.4 * np.exp(-(((r - 3.0) / 0.15) ** 2))


def wiggle_slope(r):
    return -2 * (r - 3.0) / 0.15**2 * wiggle(r)


def test_morse_is_smooth(calculators):
    doc = Diatomic(pair=("Si", "Si")).run(calculators.pair_curve(morse, morse_slope))
    summary = doc.summary
    assert doc.system == "SiSi"
    assert (summary["force_flips"], summary["energy_flips"]) == (1, 1)
    assert summary["tortuosity"] == pytest.approx(1, abs=1e-12)
    assert summary["repulsion_pass"] is True
    assert summary["r_min"] == pytest.approx(BOND, abs=1e-5)
    last = doc.records[-1]["distance"]
    assert summary["well_depth"] == pytest.approx(DEPTH + morse(last), abs=1e-6)
    for key, sign in (
        ("spearman_repulsion_energy", -1),
        ("spearman_attraction_energy", 1),
        ("spearman_descending_force", -1),
        ("spearman_ascending_force", 1),
    ):
        assert summary[key] == pytest.approx(sign)
    assert summary["conservation_deviation"] < 0.01
    json.dumps(doc.model_dump(mode="json"), allow_nan=False)


def test_default_grid():
    distances = Diatomic().distance_grid(("Si", "Si"))
    assert distances[0] == pytest.approx(0.3 * covalent_radii[14])
    assert distances[-1] <= 3.1 * vdw_radii[14] < distances[-1] + 0.01
    assert np.allclose(np.diff(distances), 0.01)
    mixed = Diatomic().distance_grid(("Si", "H"))
    assert mixed[0] == pytest.approx(0.15 * (covalent_radii[14] + covalent_radii[1]))


def test_a_wiggle_is_flagged(calculators):
    wavy = calculators.pair_curve(lambda r: morse(r) + wiggle(r), lambda r: morse_slope(r) + wiggle_slope(r))
    smooth = Diatomic(pair=("Si", "Si")).run(calculators.pair_curve(morse, morse_slope)).summary
    summary = Diatomic(pair=("Si", "Si")).run(wavy).summary
    assert summary["force_flips"] == 3 and summary["energy_flips"] == 3
    assert summary["tortuosity"] > 1.0001
    assert summary["spearman_attraction_energy"] < 1
    assert summary["force_jump"] > smooth["force_jump"]


def test_wrong_forces_show(calculators):
    doc = Diatomic(pair=("Si", "Si")).run(calculators.pair_curve(morse, lambda r: 0.9 * morse_slope(r)))
    assert doc.summary["conservation_deviation"] > 0.1


def test_a_hole_at_short_distance_fails_the_repulsion_check(calculators):
    hole = calculators.pair_curve(
        lambda r: morse(r) - 200 * np.exp(-(((r - 0.8) / 0.1) ** 2)),
        lambda r: morse_slope(r) + 400 * (r - 0.8) / 0.01 * np.exp(-(((r - 0.8) / 0.1) ** 2)),
    )
    assert Diatomic(pair=("Si", "Si")).run(hole).summary["repulsion_pass"] is False
    beyond = Diatomic(pair=("Si", "Si"), start=0.9).run(calculators.pair_curve(morse, morse_slope))
    assert beyond.summary["repulsion_pass"] is None


def test_purely_repulsive_pair(calculators):
    doc = Diatomic(pair=("He", "He")).run(calculators.pair_curve(lambda r: 5 / r, lambda r: -5 / r**2))
    assert doc.summary["r_min"] is None
    assert doc.summary["force_flips"] == 0
    assert doc.summary["repulsion_pass"] is True


def test_coarse_reference_beside_a_fine_curve(calculators):
    engine = Diatomic(pair=("Si", "Si"), distances=(1.8, 2.1, 2.3, 2.6, 3.2, 4.0, 6.0))
    frames = [single_point(f, calculators.pair_curve(morse, morse_slope)) for f in engine.structures()]
    reference = engine.evaluate(frames, calculator_name="engine")
    assert reference.summary["r_min"] == pytest.approx(BOND, abs=1e-6)
    shifted = calculators.pair_curve(lambda r: 1.1 * morse(r) + 7, lambda r: 1.1 * morse_slope(r))
    doc = Diatomic(pair=("Si", "Si")).run(shifted, reference=reference)
    energies = np.array([morse(r) - morse(6.0) for r in engine.distances])
    assert doc.summary["energy_mae"] == pytest.approx(0.1 * np.abs(energies).mean(), rel=1e-3)
    forces = np.array([morse_slope(r) for r in engine.distances])
    assert doc.summary["force_mae"] == pytest.approx(0.1 * np.abs(forces).mean(), rel=1e-3)
    assert len(doc.reference_records) == 7
    assert doc.summary["r_min_error"] == pytest.approx(0, abs=1e-5)
    assert doc.summary["well_depth_relative_error"] == pytest.approx(0.1, abs=0.01)
    assert compare(reference, reference).summary["energy_mae"] == pytest.approx(0, abs=1e-12)


def test_box_and_free_dimers_agree():
    settings = {"pair": ("Cu", "Cu"), "distances": (1.9, 2.2, 2.5, 3.0, 4.0)}
    free = Diatomic(**settings).run(EMT())
    boxed = Diatomic(**settings, box=20.0).run(EMT())
    assert not Diatomic(**settings).structures()[0].pbc.any()
    for left, right in zip(free.records, boxed.records, strict=True):
        assert right["energy"] == pytest.approx(left["energy"], abs=1e-10)
        assert right["force"] == pytest.approx(left["force"], abs=1e-10)


def test_pair_from_the_structure_and_failures(calculators):
    atoms = Atoms("SiH", positions=[[0, 0, 0], [0, 0, 1.5]])
    broken = calculators.crashing(calculators.pair_curve(morse, morse_slope), when=lambda call, _: call in (2, 7))
    doc = Diatomic(distances=(1.5, 1.8, 2.1, 2.3, 2.6, 3.2, 4.0)).run(broken, atoms)
    assert doc.system == "SiH"
    assert (doc.n_items, doc.n_failed) == (7, 2)
    assert doc.records[1]["energy"] is None
    # the farthest one that is left counts as zero
    assert doc.records[5]["energy"] == 0
    nothing = Diatomic(pair=("Si", "H")).run(calculators.crashing(broken, when=lambda *_: True))
    assert nothing.n_failed == nothing.n_items
    assert nothing.failures[-1]["reason"] == "too_few_points"


def test_bad_input():
    with pytest.raises(ConfigurationError, match="pair"):
        Diatomic(pair=("Si", "Xx"))
    with pytest.raises(ConfigurationError, match="distances"):
        Diatomic(distances=(1.0, 1.0))
    with pytest.raises(StructureError, match="pair"):
        Diatomic().structures(Atoms("Si"))
