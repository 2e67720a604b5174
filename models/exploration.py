"""Molecular dynamics that watches its own uncertainty, and the choice of frames (ALGORITHMS 5.4, 5.5)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from atomfoundry.checkpoint import opened
from atomfoundry.checkpoint.dynamics import (
    describe_step,
    dynamics_state,
    restore_dynamics,
    steps_of,
    structure_identity,
)
from atomfoundry.documents.model import TrajectoryRecord
from atomfoundry.errors import InputError
from atomfoundry.models.watch import HOTTEST, Watch, too_close

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.checkpoint import Checkpoints, Saved
    from atomfoundry.models.uncertainty.committee import CommitteeUncertainty, NoUncertainty
    from atomfoundry.models.uncertainty.llpr import LLPRUncertainty

    ForceUncertainty = LLPRUncertainty | CommitteeUncertainty | NoUncertainty

SAME = 0.99999
"""Two structures with a larger cosine between their descriptors count as one (section 9.3). The 0.9995 of
5.4 is too coarse: any two silicon cells displaced by 0.08 A exceed it."""


@dataclass
class Exploration:
    """One run and what it found.

    Parameters
    ----------
    record
        Course of the run.
    flagged
        Frames with low < max sigma_F <= high, with ``info['sigma_forces_max']`` (eV/A),
        ``info['temperature']`` (K) and ``info['md_time']`` (fs).
    last_good
        Last frame below the high threshold.
    """

    record: TrajectoryRecord
    flagged: list[Atoms] = field(default_factory=list)
    last_good: Atoms | None = None


def explore(
    atoms: Atoms,
    uncertainty: ForceUncertainty,
    *,
    temperature: float,
    n_steps: int,
    timestep: float = 1.0,
    friction: float = 0.01,
    interval: int = 10,
    thresholds: Mapping[str, float] | None = None,
    head: str | None = None,
    n_samples: int = 16,
    name: str = "",
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
) -> Exploration:
    """Run Langevin dynamics with a model, and flag frames it is unsure about.

    The run ends early on three evaluations in a row above the high threshold ('uncertain'), above ten times
    the temperature ('temperature'), when atoms collide ('min_distance') or a force is not finite ('nan').

    Parameters
    ----------
    atoms
        Start; not changed.
    uncertainty
        Knows the model, or the committee of calculators.
    temperature
        K.
    n_steps, timestep
        Length, and fs.
    friction
        1/fs.
    interval
        Steps between two evaluations.
    thresholds
        'low' and 'high', eV/A; None: the calibrated ones. They are never lowered to find more frames.
    head
        None: the uncertainty's first.
    n_samples
        Draws of the readout an evaluation.
    name
        Of the start, for the records; None: its formula.
    seed
        Of velocities and thermostat.
    checkpoints
        Where the run is kept, so that it can be interrupted at any step and goes on bit for bit; None: nowhere.

    Raises
    ------
    InputError
        If a number is out of range.
    NoTimeLeftError
        If the process must end; the same call goes on from the checkpoint.
    CheckpointError
        If the checkpoint is corrupt.
    """
    from ase import units
    from ase.md.langevin import Langevin
    from ase.md.velocitydistribution import Stationary, thermalize_momenta

    if temperature <= 0 or n_steps < 1 or timestep <= 0 or interval < 1:
        raise InputError(
            f"Exploration of {n_steps} steps of {timestep} fs at {temperature} K, every {interval}: "
            "all must be positive."
        )
    chosen_head = uncertainty.head(head)
    limits = dict(thresholds) if thresholds is not None else uncertainty.thresholds(chosen_head)
    label = name or atoms.get_chemical_formula()
    settings = {
        "temperature": temperature,
        "n_steps": n_steps,
        "timestep": timestep,
        "friction": friction,
        "interval": interval,
        "thresholds": limits,
        "head": chosen_head,
        "n_samples": n_samples,
        "seed": seed,
        "uncertainty": getattr(uncertainty, "fingerprint", type(uncertainty).__name__),
    }
    checkpoint = opened(checkpoints, "explore", lambda: {"settings": settings, **structure_identity(atoms)})
    saved = checkpoint.load()
    system = atoms.copy()
    watch = Watch(uncertainty, limits, chosen_head, n_samples, temperature, label)
    if saved is not None:
        watch.restore(saved, system)
    reason, steps = (None, 0) if saved is None else (saved.state["reason"], int(saved.state["nsteps"]))
    if reason is None:
        system.calc = uncertainty.calculator(chosen_head)
        rng = np.random.default_rng(seed)
        if saved is None:
            thermalize_momenta(system, temperature, rng=rng)
            if len(system) > 1:
                Stationary(system)
        with checkpoint.guard(f"MD of {label}"):
            dynamics = Langevin(
                system,
                timestep * units.fs,
                temperature_K=temperature,
                friction=friction / units.fs,
                rng=rng,
                fixcm=False,
            )
            if saved is not None:
                restore_dynamics(dynamics, saved)

            def collect() -> Saved:
                return watch.collect(dynamics_state(dynamics), reason)

            for steps in steps_of(dynamics, n_steps, continued=saved is not None):
                reason = watch.glance(system) if steps else None
                if reason is None and (steps % interval == 0 or steps == n_steps):
                    reason = watch.look(system, time=steps * timestep)
                if reason is not None or steps == n_steps:
                    break
                kelvin, ps = float(system.get_temperature()), steps * timestep / 1000
                checkpoint.tell(partial(describe_step, f"MD of {label}", steps, n_steps, kelvin, ps), steps / n_steps)
                checkpoint.keep(collect, what=f"MD of {label}, step {steps} of {n_steps}")
            reason = reason or "finished"
            checkpoint.finish(collect())
    record = TrajectoryRecord(
        structure=label,
        temperature=temperature,
        n_steps=steps,
        timestep=timestep,
        stop_reason=reason,
        times=watch.times,
        temperatures=watch.temperatures,
        sigma_max=watch.sigmas,
        n_flagged=len(watch.flagged),
    )
    return Exploration(record, watch.flagged, watch.last_good)


@dataclass
class Selection:
    """Which candidates to label.

    Parameters
    ----------
    frames
        In the order chosen.
    indices
        Into the candidates.
    n_rejected
        Reason -> candidates: 'min_distance', 'temperature', 'certain', 'lost', 'duplicate', 'quota',
        'surplus'.
    """

    frames: list[Atoms]
    indices: list[int]
    n_rejected: dict[str, int]


def select_frames(
    candidates: Sequence[Atoms],
    n: int,
    *,
    sigmas: Sequence[float],
    descriptors: np.ndarray,
    training_descriptors: np.ndarray,
    thresholds: Mapping[str, float],
    temperatures: Sequence[float] | None = None,
    target_temperature: float | None = None,
    exponent: float = 1.0,
    quota: int | None = None,
    same: float = SAME,
) -> Selection:
    """Choose frames that are uncertain and unlike each other and the training set (ALGORITHMS 5.4).

    Refused are collisions, overheated frames, those at or below the low threshold ('certain') or above the
    high one ('lost'), and duplicates; then greedily the largest sigma^exponent x distance to what is known.

    Parameters
    ----------
    candidates
        Frames; those labelled 'last valid frame before failure' included.
    n
        How many at most. Fewer are returned if fewer qualify.
    sigmas
        max_i sigma_F,i of each candidate, eV/A.
    descriptors, training_descriptors
        (n_candidates, d) and (n_training, d), see `structure_descriptors`.
    thresholds
        'low' and 'high', eV/A.
    temperatures, target_temperature
        K, of each candidate and of the thermostat; None: not checked.
    exponent
        Weight of the uncertainty against the distance.
    quota
        Most frames of one ``info['source']``; None: no limit.
    same
        Cosine between descriptors above which two structures are duplicates.

    Raises
    ------
    InputError
        If lengths differ or `n` is negative.
    """
    if not len(candidates) == len(sigmas) == len(descriptors) or n < 0:
        raise InputError(
            f"Selection of {n} among {len(candidates)} candidates with {len(sigmas)} sigmas and "
            f"{len(descriptors)} descriptors: the lengths must agree."
        )
    rejected: dict[str, int] = {}

    def refuse(reason: str, count: int = 1) -> None:
        if count:
            rejected[reason] = rejected.get(reason, 0) + count

    pool = []
    for index, frame in enumerate(candidates):
        hot = (
            temperatures is not None
            and target_temperature is not None
            and temperatures[index] > HOTTEST * target_temperature
        )
        if too_close(frame):
            refuse("min_distance")
        elif hot:
            refuse("temperature")
        elif not sigmas[index] > thresholds["low"]:
            refuse("certain")
        elif sigmas[index] > thresholds["high"]:
            refuse("lost")
        else:
            pool.append(index)

    points = np.asarray(descriptors, dtype=float)
    known = np.asarray(training_descriptors, dtype=float).reshape(-1, points.shape[1] if len(points) else 1)
    chosen: list[int] = []
    per_source: dict[str, int] = {}
    alive = set(pool)
    nearest = dict.fromkeys(pool, np.inf)

    def learn(row: np.ndarray) -> None:
        for index in list(alive):
            if _cosine(points[index], row) > same:
                alive.discard(index)
                refuse("duplicate")
            else:
                nearest[index] = min(nearest[index], float(np.linalg.norm(points[index] - row)))

    for row in known:
        learn(row)
    while alive and len(chosen) < n:
        # without anything known all distances are infinite, and the uncertainty alone decides
        best = max(
            sorted(alive),
            key=lambda i: sigmas[i] ** exponent * (nearest[i] if np.isfinite(nearest[i]) else 1.0),
        )
        alive.discard(best)
        source = str(candidates[best].info.get("source", ""))
        if quota is not None and per_source.get(source, 0) >= quota:
            refuse("quota")
            continue
        per_source[source] = per_source.get(source, 0) + 1
        chosen.append(best)
        learn(points[best])
    refuse("surplus", len(alive))
    return Selection([candidates[i] for i in chosen], chosen, rejected)


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    norm = float(np.linalg.norm(first) * np.linalg.norm(second))
    return float(first @ second) / norm if norm > 0 else 1.0
