"""Molecular dynamics with a trained model keeps its energy: forces belong to energies, the cutoff is smooth."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk

sys.path.insert(0, str(Path(__file__).parent))
from argon import config, labelled, settings

from atomfoundry.benchmarks import NVEDrift
from atomfoundry.models import FoundryCalculator
from atomfoundry.models.training import train

CUTOFF = 5.0
"""A. The third shell lies at 5.06 A: its edges come and go all the time."""
LATTICE = 4.13


def shaken(n, seed):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=LATTICE * rng.uniform(0.97, 1.04), cubic=True)
        atoms.positions += rng.normal(0, rng.uniform(0.05, 0.15), atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


class Watched(FoundryCalculator):
    """Remembers how many edges each step had."""

    def __init__(self, model):
        super().__init__(model)
        self.edges = []

    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        self.edges.append(self.graph.num_edges)


class Careless(FoundryCalculator):
    """Its forces are off by a little along the velocities: they belong to no energy."""

    def calculate(self, *arguments, **named):
        super().calculate(*arguments, **named)
        self.results["forces"] = self.results["forces"] + 1e-5 * self.atoms.get_momenta()


@pytest.fixture(scope="module")
def trained():
    changes = {"cutoff": CUTOFF, "num_channels": 8, "l_max": 2, "n_layers": 2, "avg_num_neighbors": 30.0}
    held = shaken(8, seed=2)
    result = train(
        config(dtype="float64", **changes), shaken(40, seed=1), held, settings=settings(max_epochs=40, batch_size=4)
    )
    return result.model, held


@pytest.fixture(scope="module")
def crystal():
    return bulk("Ar", "fcc", a=LATTICE, cubic=True) * (2, 2, 2)


def dynamics(picoseconds):
    return NVEDrift(temperature=300.0, timestep=2.0, duration=1000 * picoseconds, equilibration=500.0, start="langevin")


@pytest.mark.slow
def test_a_trained_model_does_not_drift(trained, crystal):
    model, held = trained
    calculator = Watched(model)
    errors = np.concatenate([calculator.get_forces(frame) - frame.get_forces() for frame in held])
    forces = np.concatenate([frame.get_forces() for frame in held])
    assert np.sqrt((errors**2).mean()) < 0.1 * np.sqrt((forces**2).mean())  # it knows the potential
    calculator.edges.clear()
    document = dynamics(4.0).run(calculator, crystal)
    assert document.failures == []
    assert len(set(calculator.edges)) > 20
    assert document.summary["mean_temperature"] == pytest.approx(300.0, rel=0.25)
    assert document.summary["drift"] < 0.01
    assert document.summary["fluctuation"] < 0.05


@pytest.mark.slow
def test_such_a_run_tells_forces_that_belong_to_no_energy(trained, crystal):
    document = dynamics(1.0).run(Careless(trained[0]), crystal)
    assert document.summary["signed_drift"] > 0.05
