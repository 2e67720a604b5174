"""Errors by element as documents keep them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from argon import config, crystals, labelled
from ase import Atoms

from atomfoundry.models.allegro.config import HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.element_metrics import element_metrics
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.training.monitor import ElementMonitor


def test_isolated_atoms_do_not_dilute_and_missing_labels_are_none():
    heads = [HeadConfig(name="pt", isolated_energies={"Ar": 0.0, "Kr": 0.0})]
    model = Allegro(config(heads, type_names=["Ar", "Kr"]))
    krypton = crystals(1, seed=4)[0]
    krypton.symbols = "KrKr"
    del krypton.calc.results["forces"]
    box = Atoms("Ar", cell=[25.0] * 3, pbc=True)
    frames = [*crystals(2), labelled(Atoms("Ar")), krypton, labelled(box)]
    errors, predicted = evaluate(model, frames, split="valid")
    assert errors.n_frames == 3
    argon, other = element_metrics(predicted, [True, True, False, True, False])
    assert (argon.split, argon.head, argon.element, argon.n_atoms) == ("valid", "pt", "Ar", 4)
    assert argon.forces_rmse == pytest.approx(errors.forces_rmse, rel=1e-9)
    assert (other.element, other.n_atoms, other.forces_mae, other.forces_rmse) == ("Kr", 0, None, None)
    assert (2 * argon.energy_mae + other.energy_mae) / 3 == pytest.approx(errors.energy_mae, rel=1e-9)
    assert (argon.alerts, other.alerts) == (["few_atoms"], ["few_atoms"])


def test_components_without_a_label_do_not_count():
    symbols = ["Ar", "Kr", "Kr"]
    forces = np.array([[1.0, 2.0, 0.0], [0.0, np.nan, 20.0], [np.nan, np.nan, np.nan]])
    errors = np.array([[0.1, -0.2, 0.3], [0.4, np.nan, 0.5], [np.nan, np.nan, np.nan]])
    monitor = ElementMonitor("pt")
    monitor.add(symbols, forces=forces, forces_error=errors)
    found = {entry.element: entry for entry in monitor.report()}
    assert found["Ar"].forces_rmse == pytest.approx(np.sqrt((0.01 + 0.04 + 0.09) / 3))
    assert found["Kr"].forces_rmse == pytest.approx(np.sqrt((0.16 + 0.25) / 2))
    assert found["Kr"].forces_mae == pytest.approx(0.45)
    assert (found["Ar"].n_atoms, found["Kr"].n_atoms) == (1, 1)
    assert [each["n_atoms"] for each in monitor.force_bins()] == [0, 1, 0, 0]


def test_a_prediction_that_is_not_a_number_is_no_missing_label():
    monitor = ElementMonitor("pt")
    for _ in range(100):
        errors = np.array([[0.1, 0.1, 0.1], [0.1, np.nan, 0.1]])
        monitor.add(["Ar", "Kr"], forces=np.ones((2, 3)), forces_error=errors)
    found = {entry.element: entry for entry in monitor.report()}
    assert np.isnan(found["Kr"].forces_rmse)
    assert (found["Kr"].n_atoms, found["Kr"].alerts, found["Ar"].alerts) == (100, ("large_error",), ())


def test_every_frame_is_judged():
    model = Allegro(config())
    _, predicted = evaluate(model, crystals(2))
    with pytest.raises(ValueError, match="shorter"):
        element_metrics(predicted, [True])
