"""Snapshots of molecular dynamics with any calculator."""

from __future__ import annotations

import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from atomfoundry.checkpoint import opened
from atomfoundry.checkpoint.dynamics import (
    describe_step,
    dynamics_state,
    restore_dynamics,
    steps_of,
    structure_identity,
)
from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.distances import collides

if TYPE_CHECKING:
    from ase.md.md import MolecularDynamics

    from atomfoundry.checkpoint import Checkpoints, Saved

_HOTTEST = 20.0
"""A run whose temperature is this many times the one asked for has exploded."""


def md_snapshots(
    atoms: Atoms,
    calculator: Calculator,
    *,
    temperature: float,
    n: int,
    interval: int,
    seed: int,
    timestep: float = 1.0,
    equilibration: int = 0,
    ensemble: str = "nvt",
    friction: float = 0.01,
    pressure: float = 0.0,
    barostat_time: float = 500.0,
    min_distance_factor: float = 0.4,
    checkpoints: Checkpoints | None = None,
) -> list[Atoms]:
    """Return snapshots of a molecular dynamics run.

    Parameters
    ----------
    atoms
        Where the run starts; velocities are drawn for twice the temperature in ``"nve"``, half of which goes into
        the potential energy of a structure at its minimum, and for the temperature in ``"nvt"`` and ``"npt"``.
    calculator
        Any ASE calculator with forces.
    temperature
        K.
    n, interval
        Number of snapshots and steps between them.
    seed
        Of the velocities and of the Langevin forces.
    timestep
        fs.
    equilibration
        Steps before the first interval.
    ensemble
        ``"nvt"`` (Langevin), ``"nve"`` (velocity Verlet) or ``"npt"`` (Langevin for atoms and all of the cell: Quigley
        and Probert, J. Chem. Phys. 120, 11432; integrated as in Leimkuhler and Matthews, J. Chem. Phys. 138, 174102).
    friction
        Langevin friction, 1/fs.
    pressure
        Of ``"npt"``, eV/A^3, positive where it compresses.
    barostat_time
        Of ``"npt"``: period of the cell's fluctuations, fs.
    min_distance_factor
        A snapshot with atoms nearer than this times the sum of their covalent radii ends the run as exploded.
    checkpoints
        Where the run is kept, so that it can be interrupted at any step and goes on bit for bit; None: nowhere.

    Returns
    -------
    list of ase.Atoms
        ``sampling`` is ``"md"``; one run of one structure is one group, as its snapshots are correlated.
        ``info["deformation"]`` has the step, the temperature asked for and the instantaneous one, K.

    Raises
    ------
    StructureError
        If an argument is impossible, or the run explodes: no snapshot of it is returned.
    NoTimeLeftError
        If the process must end; the same call goes on from the checkpoint.
    CheckpointError
        If the checkpoint is corrupt.
    """
    from ase.md.velocitydistribution import Stationary, thermalize_momenta

    if n < 0 or interval < 1 or equilibration < 0 or not temperature > 0 or not timestep > 0:
        raise StructureError(
            f"{n} snapshots every {interval} steps of {timestep} fs at {temperature} K are not possible.",
            remedy="Give n >= 0, interval >= 1, equilibration >= 0 and positive temperature and timestep.",
        )
    if ensemble not in ("nvt", "nve", "npt"):
        raise StructureError(f"There is no ensemble '{ensemble}'.", remedy="Use 'nvt', 'nve' or 'npt'.")
    if ensemble == "npt" and not (atoms.pbc.all() and barostat_time > 0):
        raise StructureError(
            f"{atoms.get_chemical_formula()} cannot run at constant pressure.",
            remedy="Give a structure that is periodic in three dimensions, and a positive barostat_time.",
        )
    base = with_metadata(clean_frame(atoms))
    settings = {
        "temperature": temperature,
        "n": n,
        "interval": interval,
        "seed": seed,
        "timestep": timestep,
        "equilibration": equilibration,
        "ensemble": ensemble,
        "friction": friction,
        "pressure": pressure,
        "barostat_time": barostat_time,
        "min_distance_factor": min_distance_factor,
    }
    checkpoint = opened(
        checkpoints,
        "md",
        lambda: {"settings": settings, "calculator": type(calculator).__name__, **structure_identity(base)},
    )
    work = base.copy()
    work.calc = calculator
    rng = np.random.default_rng([seed, int(base.info["frame_id"][:16], 16), round(temperature * 1e3)])
    total = equilibration + n * interval
    label = f"MD of {base.get_chemical_formula()} at {temperature:g} K"
    taken = _Taken()
    saved = checkpoint.load()
    with checkpoint.guard(label):
        if saved is None:
            drawn = 2 * temperature if ensemble == "nve" else temperature
            thermalize_momenta(work, temperature_K=drawn, rng=rng)
            Stationary(work, preserve_temperature=False)
        elif len(saved.arrays["snapshots/temperatures"]) == n:  # no step is left: no forces are needed
            return _frames(base, _Taken.of(saved), settings)
        dynamics = _integrator(work, settings, rng)
        if saved is not None:
            restore_dynamics(dynamics, saved)
            taken = _Taken.of(saved)
        collect = partial(_collect, dynamics, taken)
        for step in steps_of(dynamics, total if n else 0, continued=saved is not None):
            now = float(work.get_temperature())
            if step > equilibration and (step - equilibration) % interval == 0:
                if not (np.isfinite(work.positions).all() and now < _HOTTEST * temperature) or collides(
                    work, min_distance_factor
                ):
                    raise StructureError(
                        f"The dynamics of {base.get_chemical_formula()} at {temperature:g} K exploded before step "
                        f"{step} ({now:.3g} K).",
                        remedy="Lower the timestep, relax the structure first, or check the calculator.",
                    )
                taken.add(work, now)
            if step < total:
                checkpoint.tell(partial(describe_step, label, step, total, now, step * timestep / 1000), step / total)
                checkpoint.keep(collect, what=f"{label}, step {step} of {total}")
        checkpoint.finish(collect())
    return _frames(base, taken, settings)


class _Taken:
    """Snapshots taken so far: what differs between them."""

    def __init__(self) -> None:
        self.positions: list[np.ndarray] = []
        self.cells: list[np.ndarray] = []
        self.temperatures: list[float] = []

    @classmethod
    def of(cls, saved: Saved) -> _Taken:
        taken = cls()
        taken.positions = list(saved.arrays["snapshots/positions"])
        taken.cells = list(saved.arrays["snapshots/cells"])
        taken.temperatures = saved.arrays["snapshots/temperatures"].tolist()
        return taken

    def add(self, work: Atoms, temperature: float) -> None:
        self.positions.append(work.positions.copy())
        self.cells.append(work.cell.array.copy())
        self.temperatures.append(temperature)


def _integrator(work: Atoms, settings: dict[str, Any], rng: np.random.Generator) -> MolecularDynamics:
    from ase.md.langevin import Langevin
    from ase.md.langevinbaoab import LangevinBAOAB
    from ase.md.verlet import VelocityVerlet

    timestep, friction = settings["timestep"] * units.fs, settings["friction"] / units.fs
    temperature = settings["temperature"]
    if settings["ensemble"] == "nvt":
        return Langevin(work, timestep, temperature_K=temperature, friction=friction, rng=rng, fixcm=False)
    if settings["ensemble"] == "nve":
        return VelocityVerlet(work, timestep)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Using heuristic P_mass")
        return LangevinBAOAB(
            work,
            timestep,
            temperature_K=temperature,
            externalstress=-settings["pressure"],
            T_tau=units.fs / settings["friction"],
            P_tau=settings["barostat_time"] * units.fs,
            rng=rng,
        )


def _collect(dynamics: MolecularDynamics, taken: _Taken) -> Saved:
    saved = dynamics_state(dynamics)
    n_atoms = len(dynamics.atoms)
    saved.arrays |= {
        "snapshots/positions": np.array(taken.positions).reshape(-1, n_atoms, 3),
        "snapshots/cells": np.array(taken.cells).reshape(-1, 3, 3),
        "snapshots/temperatures": np.array(taken.temperatures),
    }
    return saved


def _frames(base: Atoms, taken: _Taken, settings: dict[str, Any]) -> list[Atoms]:
    temperature, seed = settings["temperature"], settings["seed"]
    frames = []
    for number, (positions, cell, now) in enumerate(
        zip(taken.positions, taken.cells, taken.temperatures, strict=True), start=1
    ):
        snapshot = Atoms(base.numbers, positions, cell=cell, pbc=base.pbc)
        snapshot.info = dict(base.info)
        frames.append(
            with_metadata(
                snapshot,
                sampling="md",
                group_id=f"{base.info['group_id']}:md-{temperature:.0f}K-{seed}",
                deformation={
                    "kind": "md",
                    "ensemble": settings["ensemble"],
                    "temperature": temperature,
                    "instantaneous_temperature": now,
                    "step": settings["equilibration"] + number * settings["interval"],
                    "timestep": settings["timestep"],
                    "seed": seed,
                },
            )
        )
    return unique_frames(frames)
