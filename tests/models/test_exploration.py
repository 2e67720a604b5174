"""Dynamics that watch their uncertainty, and the choice of frames."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.errors import InputError
from atomfoundry.models.allegro.config import AllegroConfig, HeadConfig
from atomfoundry.models.descriptors import structure_descriptors
from atomfoundry.models.exploration import explore, select_frames, too_close
from atomfoundry.models.training.settings import TrainingSettings
from atomfoundry.models.training.trainer import train
from atomfoundry.models.uncertainty.llpr import fit_uncertainty


def crystals(n, seed):
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=4.1 * rng.uniform(0.97, 1.06)) * (2, 1, 1)
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=2.6, epsilon=0.3, rc=6.0, smooth=True)
        results = (atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress())
        atoms.calc = SinglePointCalculator(atoms, **dict(zip(("energy", "forces", "stress"), results, strict=True)))
        frames.append(atoms)
    return frames


@pytest.fixture(scope="module")
def uncertainty():
    config = AllegroConfig(
        type_names=["Ar"],
        cutoff=4.5,
        num_channels=4,
        l_max=1,
        n_layers=1,
        two_body_dims=[8, 8],
        latent_dims=[8, 8],
        edge_energy_dims=[8],
        avg_num_neighbors=16.0,
        heads=[HeadConfig(isolated_energies={"Ar": 0.0}, scale=0.5)],
    )
    frames = crystals(12, 0)
    result = train(config, frames, settings=TrainingSettings(max_epochs=8, batch_size=3, lr=0.01))
    return fit_uncertainty(result.model, {"pt": frames}, {"pt": crystals(12, 1)})


START = bulk("Ar", "fcc", a=4.1) * (2, 1, 1)


def run(uncertainty, **changes):
    values = {"temperature": 100.0, "n_steps": 20, "timestep": 2.0, "interval": 5, "seed": 1}
    return explore(START, uncertainty, **(values | changes))


def test_the_same_seed_runs_the_same(uncertainty):
    first, second = (run(uncertainty).record for _ in range(2))
    assert first == second
    assert first.stop_reason == "finished"
    assert first.n_steps == 20
    assert first.times == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert len(first.sigma_max) == len(first.temperatures) == 5
    assert run(uncertainty, seed=2).record.sigma_max != first.sigma_max


def test_frames_between_the_thresholds_are_flagged(uncertainty):
    found = run(uncertainty, thresholds={"low": 0.0, "high": 1e9})
    sigmas = found.record.sigma_max
    assert found.record.n_flagged == len(found.flagged) == sum(s > 0 for s in sigmas)
    frame = found.flagged[-1]
    assert frame.info["sigma_forces_max"] == sigmas[-1]
    assert frame.info["sampling"] == "md"
    assert frame.calc is None
    assert not frame.has("momenta")
    none = run(uncertainty, thresholds={"low": 1e8, "high": 1e9})
    assert none.flagged == []
    assert none.record.stop_reason == "finished"


def test_three_lost_evaluations_end_the_run(uncertainty):
    lost = run(uncertainty, thresholds={"low": -2.0, "high": -1.0})
    assert lost.record.stop_reason == "uncertain"
    assert len(lost.record.sigma_max) == 3
    assert lost.flagged == []
    assert lost.last_good is None


def test_collisions_and_bad_numbers_end_the_run(uncertainty):
    close = Atoms("Ar2", positions=[[0, 0, 0], [0.5, 0, 0]])
    found = explore(close, uncertainty, temperature=100.0, n_steps=5)
    assert found.record.stop_reason == "min_distance"
    assert found.record.n_steps == 0
    with pytest.raises(InputError):
        run(uncertainty, temperature=-1.0)


def test_overheating_ends_the_run(uncertainty):
    strained = bulk("Ar", "fcc", a=3.4) * (2, 1, 1)
    strained.rattle(0.2, seed=1)
    hot = explore(strained, uncertainty, temperature=1.0, n_steps=200, timestep=5.0)
    assert hot.record.stop_reason == "temperature"


def test_too_close_counts_periodic_images():
    assert not too_close(bulk("Ar", a=5.2))
    assert too_close(bulk("Ar", a=1.2))


def points(rows):
    return np.array(rows, dtype=float)


def candidates(n):
    frames = []
    for i in range(n):
        frames.append(Atoms("Ar2", positions=[[0, 0, 0], [3.0 + 0.1 * i, 0, 0]]))
        frames[-1].info["source"] = "a" if i % 2 else "b"
    return frames


LIMITS = {"low": 1.0, "high": 5.0}


def test_selection_refuses_and_says_why():
    frames = [*candidates(5), Atoms("Ar2", positions=[[0, 0, 0], [0.5, 0, 0]])]
    selection = select_frames(
        frames,
        10,
        sigmas=[0.5, 9.0, 2.0, 3.0, 2.5, 2.0],
        descriptors=points([[1, 0], [1, 0], [1, 0], [0, 1], [0.001, 1], [1, 1]]),
        training_descriptors=points([[1, 1]]),
        thresholds=LIMITS,
    )
    assert selection.indices == [3, 2]
    assert selection.n_rejected == {"certain": 1, "lost": 1, "min_distance": 1, "duplicate": 1}


def test_selection_weighs_sigma_with_distance():
    values = {
        "descriptors": points([[10, 0], [0, 3], [7, 7]]),
        "training_descriptors": points([[5, 1]]),
        "thresholds": LIMITS,
    }
    sure = select_frames(candidates(3), 1, sigmas=[2.0, 2.0, 2.0], **values)
    assert sure.indices == [2]
    unsure = select_frames(candidates(3), 1, sigmas=[2.0, 4.0, 2.0], **values)
    assert unsure.indices == [1]
    assert unsure.n_rejected == {"surplus": 2}


def test_selection_keeps_quotas_and_temperatures():
    rows = points(np.eye(4))
    selection = select_frames(
        candidates(4),
        4,
        sigmas=[2.0, 2.0, 3.0, 3.0],
        descriptors=rows,
        training_descriptors=np.zeros((0, 4)),
        thresholds=LIMITS,
        quota=1,
    )
    assert sorted(f.info["source"] for f in selection.frames) == ["a", "b"]
    assert selection.n_rejected == {"quota": 2}
    hot = select_frames(
        candidates(2),
        2,
        sigmas=[2.0, 2.0],
        descriptors=rows[:2],
        training_descriptors=rows[2:],
        thresholds=LIMITS,
        temperatures=[300.0, 3100.0],
        target_temperature=300.0,
    )
    assert hot.indices == [0]
    assert hot.n_rejected == {"temperature": 1}


def test_nothing_to_choose_from_is_fine():
    selection = select_frames(
        [], 3, sigmas=[], descriptors=np.zeros((0, 1)), training_descriptors=np.eye(3), thresholds=LIMITS
    )
    assert selection.frames == []


def test_descriptors_are_invariant(uncertainty):
    atoms = crystals(1, 3)[0]
    turned = atoms.copy()
    turned.rotate(40, (1, 2, 3), rotate_cell=True)
    rows = structure_descriptors(uncertainty.model, [atoms, turned, atoms * (2, 1, 1), atoms[::-1]])
    assert np.allclose(rows, rows[0], atol=1e-4)
    assert not np.allclose(structure_descriptors(uncertainty.model, crystals(1, 4)), rows[0], atol=1e-4)
