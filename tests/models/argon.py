"""Small trainings for tests: crystals of Lennard-Jones argon, and a model and settings of seconds."""

from __future__ import annotations

import numpy as np
import torch
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.datasets import frame_id
from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.training.settings import TrainingSettings

CUTOFF = 4.5


def labelled(atoms, keys=("energy", "forces", "stress")):
    """Lennard-Jones argon-like labels."""
    atoms = atoms.copy()
    atoms.calc = LennardJones(sigma=2.6, epsilon=0.3, rc=6.0, smooth=True)
    results = {
        "energy": atoms.get_potential_energy(),
        "forces": atoms.get_forces(),
        "stress": atoms.get_stress() if atoms.pbc.all() else None,
    }
    atoms.calc = SinglePointCalculator(atoms, **{k: results[k] for k in keys if results[k] is not None})
    atoms.info["frame_id"] = frame_id(atoms)
    return atoms


def crystals(n=8, seed=0):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=4.1 * rng.uniform(0.97, 1.06)) * (2, 1, 1)
        atoms.positions += rng.normal(0, 0.08, atoms.positions.shape)
        frames.append(labelled(atoms))
    return frames


def config(heads=None, dtype="float32", **changes):
    values = {
        "type_names": ["Ar"],
        "cutoff": CUTOFF,
        "num_channels": 4,
        "l_max": 1,
        "n_layers": 1,
        "two_body_dims": [8, 8],
        "latent_dims": [8, 8],
        "edge_energy_dims": [8],
        "avg_num_neighbors": 16.0,
        "heads": heads or [HeadConfig(isolated_energies={"Ar": 0.0}, scale=0.5)],
        "dtype": dtype,
        "seed": 1,
    }
    return AllegroConfig(**(values | changes))


def settings(**changes):
    values = {"max_epochs": 6, "batch_size": 3, "lr": 0.01, "seed": 3}
    return TrainingSettings(**(values | changes))


def weights(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def equal(first, second):
    return all(torch.equal(first[name], second[name]) for name in first)


def losses(result):
    return [(r.epoch, r.train_loss, r.valid_loss, r.learning_rate) for r in result.history]


class Killed(Exception):
    pass
