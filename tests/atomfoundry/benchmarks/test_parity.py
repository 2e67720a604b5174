from __future__ import annotations

import json

import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.benchmarks import Parity
from atomfoundry.benchmarks.labelling import single_point
from atomfoundry.errors import ConfigurationError, StructureError


def copper(n: int = 6) -> list:
    frames = []
    for seed in range(n):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05 + 0.02 * seed, seed=seed)
        frame = single_point(atoms, EMT())
        frame.info["frame_id"] = f"id{seed}"
        frames.append(frame)
    return frames


def with_errors(frames, *, energy=0.0, forces=0.0, stress=0.0) -> list:
    changed = []
    for frame in frames:
        copy = frame.copy()
        results = frame.calc.results
        copy.calc = SinglePointCalculator(
            copy,
            energy=results["energy"] + energy * len(frame),
            forces=results["forces"] + forces,
            stress=results["stress"] + stress,
        )
        changed.append(copy)
    return changed


def test_own_labels_are_perfect():
    doc = Parity().run(EMT(), copper())
    assert (doc.n_items, doc.n_failed) == (6, 0)
    for quantity in ("energy", "forces", "stress"):
        assert doc.summary[f"{quantity}_mae"] < 1e-12
        assert doc.summary[f"{quantity}_r2"] == pytest.approx(1)
    assert doc.summary["forces_n"] == 6 * 4 * 3
    frames = [record for record in doc.records if record["kind"] == "frame"]
    assert [record["item"] for record in frames] == [f"id{i}" for i in range(6)]
    json.dumps(doc.model_dump(mode="json"), allow_nan=False)


def test_known_errors_come_back():
    frames = copper()
    doc = Parity().evaluate(with_errors(frames, energy=0.01, forces=-0.2, stress=0.003), frames)
    for quantity, size in (("energy", 0.01), ("forces", 0.2), ("stress", 0.003)):
        for metric in ("mae", "rmse", "max", "p50", "p90"):
            assert doc.summary[f"{quantity}_{metric}"] == pytest.approx(size)
    truth = np.concatenate([frame.calc.results["forces"].ravel() for frame in frames])
    assert doc.summary["forces_r2"] == pytest.approx(1 - 0.04 / truth.var())


def test_cumulative_errors():
    frames = copper(11)
    predictions = []
    for i, frame in enumerate(frames):
        predictions += with_errors([frame], energy=0.01 * i)
    doc = Parity(n_cdf=11).evaluate(predictions, frames)
    curve = next(r for r in doc.records if r["kind"] == "cdf" and r["quantity"] == "energy")
    assert curve["fraction"] == pytest.approx(np.linspace(0, 1, 11))
    assert curve["error"] == pytest.approx(0.01 * np.arange(11))
    assert doc.summary["energy_p80"] == pytest.approx(0.08)


def test_scatter_is_a_seeded_sample():
    frames = copper()
    few = [Parity(max_points=10, seed=seed).evaluate(frames, frames) for seed in (0, 0, 1)]
    scatters = [next(r for r in doc.records if r["kind"] == "scatter" and r["quantity"] == "forces") for doc in few]
    assert len(scatters[0]["reference"]) == len(scatters[0]["predicted"]) == 10
    assert scatters[0] == scatters[1] != scatters[2]
    assert few[0].summary["forces_n"] == 72


def test_isolated_energies_change_only_the_picture():
    frames = copper()
    predictions = with_errors(frames, energy=0.02)
    plain = Parity().evaluate(predictions, frames).summary
    shifted = Parity(isolated_energies={"Cu": -5.0}).evaluate(predictions, frames)
    assert shifted.summary["energy_mae"] == pytest.approx(plain["energy_mae"])
    record = shifted.records[0]
    assert record["energy_reference"] == pytest.approx(frames[0].get_potential_energy() / 4 + 5)
    with pytest.raises(ConfigurationError, match="Cu"):
        Parity(isolated_energies={"Si": 0.0}).evaluate(predictions, frames)


def test_missing_labels_are_left_out_and_failures_count(calculators):
    frames = copper(4)
    frames[0].calc = SinglePointCalculator(frames[0], energy=frames[0].get_potential_energy())
    frames[1].calc = None
    broken = calculators.crashing(EMT(), when=lambda call, _: call == 3)
    doc = Parity().run(broken, frames)
    assert (doc.n_items, doc.n_failed) == (4, 2)
    assert {failure["reason"] for failure in doc.failures} == {"crashed", "unlabelled"}
    assert doc.summary["energy_n"] == 2
    assert doc.summary["forces_n"] == 12
    assert "forces_mae" not in doc.records[0]
    nothing = Parity().evaluate([None] * 4, frames)
    assert nothing.n_failed == 4 and nothing.summary == {"n_frames": 0}


def test_molecules_have_no_stress():
    water = single_point(molecule("N2"), EMT())
    doc = Parity().run(EMT(), [water])
    assert "stress_mae" not in doc.summary
    assert doc.summary["energy_r2"] is None


def test_frames_out_of_order_are_refused():
    frames = [*copper(1), single_point(molecule("N2"), EMT())]
    with pytest.raises(StructureError, match="order"):
        Parity().evaluate(frames[::-1], frames)
    with pytest.raises(StructureError, match="1 predictions"):
        Parity().evaluate(frames[:1], frames)
