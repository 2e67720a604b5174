"""Snapshots of molecular dynamics with any calculator."""

from __future__ import annotations

import warnings

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import Calculator

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.distances import collides

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

    Returns
    -------
    list of ase.Atoms
        ``sampling`` is ``"md"``; one run of one structure is one group, as its snapshots are correlated.
        ``info["deformation"]`` has the step, the temperature asked for and the instantaneous one, K.

    Raises
    ------
    StructureError
        If an argument is impossible, or the run explodes: no snapshot of it is returned.
    """
    from ase.md.langevin import Langevin
    from ase.md.langevinbaoab import LangevinBAOAB
    from ase.md.velocitydistribution import Stationary, thermalize_momenta
    from ase.md.verlet import VelocityVerlet

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
    work = base.copy()
    work.calc = calculator
    rng = np.random.default_rng([seed, int(base.info["frame_id"][:16], 16), round(temperature * 1e3)])
    drawn = 2 * temperature if ensemble == "nve" else temperature
    thermalize_momenta(work, temperature_K=drawn, rng=rng)
    Stationary(work, preserve_temperature=False)
    if ensemble == "nvt":
        dynamics = Langevin(
            work, timestep * units.fs, temperature_K=temperature, friction=friction / units.fs, rng=rng, fixcm=False
        )
    elif ensemble == "npt":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Using heuristic P_mass")
            dynamics = LangevinBAOAB(
                work,
                timestep * units.fs,
                temperature_K=temperature,
                externalstress=-pressure,
                T_tau=units.fs / friction,
                P_tau=barostat_time * units.fs,
                rng=rng,
            )
    else:
        dynamics = VelocityVerlet(work, timestep * units.fs)
    frames: list[Atoms] = []
    steps = equilibration
    for _ in range(n):
        steps += interval
        dynamics.run(steps - dynamics.nsteps)
        now = float(work.get_temperature())
        if not (np.isfinite(work.positions).all() and now < _HOTTEST * temperature) or collides(
            work, min_distance_factor
        ):
            raise StructureError(
                f"The dynamics of {base.get_chemical_formula()} at {temperature:g} K exploded before step {steps} "
                f"({now:.3g} K).",
                remedy="Lower the timestep, relax the structure first, or check the calculator.",
            )
        snapshot = Atoms(work.numbers, work.positions, cell=work.cell, pbc=work.pbc)
        snapshot.info = dict(base.info)
        frames.append(
            with_metadata(
                snapshot,
                sampling="md",
                group_id=f"{base.info['group_id']}:md-{temperature:.0f}K-{seed}",
                deformation={
                    "kind": "md",
                    "ensemble": ensemble,
                    "temperature": temperature,
                    "instantaneous_temperature": now,
                    "step": steps,
                    "timestep": timestep,
                    "seed": seed,
                },
            )
        )
    return unique_frames(frames)
