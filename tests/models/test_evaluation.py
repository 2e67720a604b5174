"""Metrics and predictions against numbers by hand."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.errors import ModelError
from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.calculator import FoundryCalculator
from atomfoundry.models.evaluation import evaluate, write_predictions
from atomfoundry.models.training.monitor import ElementMonitor

E0 = {"Mg": -3.0, "O": -7.0}


@pytest.fixture(scope="module")
def model():
    return Allegro(
        AllegroConfig(
            type_names=["Mg", "O"],
            cutoff=3.5,
            num_channels=4,
            l_max=1,
            n_layers=1,
            two_body_dims=[8, 8],
            latent_dims=[8, 8],
            edge_energy_dims=[8],
            avg_num_neighbors=12.0,
            heads=[HeadConfig(isolated_energies=E0, scale=0.4)],
            dtype="float64",
        )
    )


def frame(model, *, energy_error=0.0, forces_error=None, stress_error=None, seed=0, supercell=1):
    """A frame whose labels are the model's prediction minus chosen errors."""
    atoms = bulk("MgO", "rocksalt", a=4.2) * (supercell, 1, 1)
    atoms.rattle(0.1, seed=seed)
    atoms.calc = FoundryCalculator(model)
    labels = {"energy": atoms.get_potential_energy() - energy_error}
    forces, stress = atoms.get_forces(), atoms.get_stress()
    if forces_error is not None:
        labels["forces"] = forces - forces_error
    if stress_error is not None:
        labels["stress"] = stress - stress_error
    atoms.calc = SinglePointCalculator(atoms, **labels)
    atoms.info["frame_id"] = f"frame-{seed}"
    return atoms


def test_metrics_by_hand(model):
    frames = [
        frame(model, energy_error=0.2, forces_error=0.1, stress_error=0.01, seed=0),
        frame(model, energy_error=-0.4, forces_error=-0.3, seed=1, supercell=2),
        frame(model, energy_error=0.0, seed=2),
    ]
    metrics, predictions = evaluate(model, frames, split="test", batch_size=2)
    assert (metrics.split, metrics.head, metrics.n_frames) == ("test", "pt", 3)
    assert metrics.energy_mae == pytest.approx((0.1 + 0.1 + 0.0) / 3)
    assert metrics.energy_rmse == pytest.approx(np.sqrt(0.02 / 3))
    assert metrics.forces_mae == pytest.approx((2 * 0.1 + 4 * 0.3) / 6)
    assert metrics.forces_rmse == pytest.approx(np.sqrt((2 * 0.01 + 4 * 0.09) / 6))
    assert metrics.stress_mae == pytest.approx(0.01)
    assert predictions.n_atoms.tolist() == [2, 4, 2]
    assert predictions.forces_ref[2] is None
    assert predictions.stress_ref[1] is None
    reference, predicted = predictions.energies()
    assert np.abs(predicted - reference).tolist() == pytest.approx([0.1, 0.1, 0.0], abs=1e-9)


def test_isolated_atoms_do_not_dilute(model):
    atom = Atoms("O")
    atom.calc = SinglePointCalculator(atom, energy=-7.0)
    frames = [frame(model, energy_error=0.2), atom]
    metrics, predictions = evaluate(model, frames)
    assert metrics.n_frames == 1
    assert metrics.energy_mae == pytest.approx(0.1)
    assert predictions.energy_pred[1] == -7.0
    with pytest.raises(ModelError, match="None of the frames"):
        evaluate(model, [atom])


def test_no_labels_no_numbers(model):
    metrics, _ = evaluate(model, [frame(model, energy_error=0.2)])
    assert metrics.forces_mae is None
    assert metrics.stress_rmse is None


def test_shifted_energies_forget_an_offset_per_element(model):
    frames = [frame(model, energy_error=2 * 0.7 * n, seed=n, supercell=n) for n in (1, 2, 3)]
    _, predictions = evaluate(model, frames)
    assert predictions.shifted_energy_rmse() == pytest.approx(0.0, abs=1e-9)


def test_predictions_file(model, tmp_path):
    frames = [frame(model, forces_error=0.1, stress_error=0.0, seed=1), frame(model, seed=2)]
    _, predictions = evaluate(model, frames, split="valid")
    table = pq.read_table(write_predictions(tmp_path / "p.parquet", [predictions])).to_pylist()
    assert [row["frame_id"] for row in table] == ["frame-1", "frame-2"]
    assert {row["formula"] for row in table} == {"MgO"}
    assert len(table[0]["forces_ref"]) == 6
    assert len(table[0]["stress_pred"]) == 6
    assert table[1]["forces_ref"] is None
    assert table[0]["baseline"] == pytest.approx(-10.0)
    assert [p.name for p in tmp_path.iterdir()] == ["p.parquet"]


def test_errors_by_element():
    monitor = ElementMonitor("pt")
    forces = np.array([[0.5, 0, 0], [2.0, 0, 0], [20.0, 0, 0]])
    error = np.array([[0.3] * 3, [0.1] * 3, [0.1] * 3])
    monitor.add(["O", "Mg", "Mg"], energy_error=0.6, forces=forces, forces_error=error)
    worst, best = monitor.report()
    assert (worst.element, best.element) == ("O", "Mg")
    assert worst.forces_rmse == pytest.approx(0.3)
    assert best.forces_mae == pytest.approx(0.1)
    assert worst.energy_mae == pytest.approx(0.6)
    assert worst.alerts == ("few_atoms",)
    assert [b["n_atoms"] for b in monitor.force_bins()] == [1, 1, 1, 0]
