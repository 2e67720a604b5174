"""Energy conservation: the drift of the total energy in microcanonical molecular dynamics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from atomfoundry.benchmarks.base import Benchmark, calculator_label, system_label
from atomfoundry.benchmarks.labelling import calculator_boundary, consistent_energy
from atomfoundry.benchmarks.md_health import HealthCheck, degrees_of_freedom, remove_overall_motion
from atomfoundry.benchmarks.records import Failure
from atomfoundry.errors import ConfigurationError, LabelError, StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.documents import BenchmarkDoc

MINIMUM_STEPS = 3
"""Steps that a fit of the drift needs at least."""


@dataclass(kw_only=True)
class NVEDrift(Benchmark):
    """Drift and fluctuation of the total energy under velocity Verlet.

    Parameters
    ----------
    temperature
        Target temperature, K.
    timestep
        fs; 0.5 is advised with hydrogen.
    duration
        Length of the measured run, fs.
    equilibration
        Length of the run before it, fs.
    start
        ``"double"``: velocities of twice the temperature, half of which goes into the potential energy, and
        the equilibration is NVE; ``"langevin"``: velocities of the temperature, and the equilibration is
        NVT.
    friction
        Of the Langevin equilibration, 1/fs.
    seed
        Of the velocities and of the Langevin noise.
    repeat
        Supercell of the structure given.
    max_records
        At most so many points are kept of the energy curve; the fit uses every step.
    check_interval
        Steps between two checks of the interatomic distances.
    """

    temperature: float = 300.0
    timestep: float = 1.0
    duration: float = 5000.0
    equilibration: float = 200.0
    start: Literal["double", "langevin"] = "double"
    friction: float = 0.01
    seed: int = 0
    repeat: tuple[int, int, int] = (1, 1, 1)
    max_records: int = 200
    check_interval: int = 10

    benchmark: ClassVar[str] = "nve_drift"
    units: ClassVar[dict[str, str]] = {
        "drift": "meV/atom/ps",
        "signed_drift": "meV/atom/ps",
        "fluctuation": "meV/atom",
        "mean_temperature": "K",
        "simulated_time": "ps",
        "t_failure": "ps",
    }

    def __post_init__(self) -> None:
        self.repeat = (int(self.repeat[0]), int(self.repeat[1]), int(self.repeat[2]))
        if self.start not in ("double", "langevin"):
            raise ConfigurationError(
                f"NVE drift: start='{self.start}' is unknown.", remedy="Use 'double' or 'langevin'."
            )
        positive = self.temperature > 0 and self.timestep > 0 and min(self.repeat) >= 1 and self.check_interval >= 1
        if not positive or self.equilibration < 0 or self.max_records < 2:
            raise ConfigurationError(
                f"NVE drift: a setting is out of range in {self.settings()}.",
                remedy="All but equilibration are positive, max_records is 2 or more.",
            )
        if round(self.duration / self.timestep) < MINIMUM_STEPS:
            raise ConfigurationError(
                f"NVE drift: {self.duration} fs are fewer than {MINIMUM_STEPS} steps of {self.timestep} fs.",
                remedy="Set a longer duration.",
            )

    def run(
        self,
        calculator: BaseCalculator,
        atoms: Atoms,
        *,
        reference: BenchmarkDoc | None = None,
        name: str = "",
        calculator_name: str = "",
    ) -> BenchmarkDoc:
        """Run the dynamics and fit the drift.

        Parameters
        ----------
        calculator
            Any ASE calculator.
        atoms
            The structure, two atoms or more; constraints are dropped.
        reference
            Document of the same benchmark to compare with.
        name
            Name of the document.
        calculator_name
            How the document names the calculator; default: its own name.

        Returns
        -------
        BenchmarkDoc
            ``drift`` is the magnitude of the least-squares slope of the total energy, ``fluctuation`` its
            standard deviation, both per atom. A run that breaks down is one failed item; its summary has
            ``failure`` and ``t_failure`` and the drift up to there.

        Raises
        ------
        StructureError
            If there are fewer than two atoms.
        """
        started = time.perf_counter()
        moving = self._supercell(atoms)
        curve = _Curve()
        failures: list[Failure] = []
        try:
            with calculator_boundary("NVE dynamics"):
                moving.calc = calculator
                self._equilibrate(moving)
                self._measure(moving, curve)
        except LabelError as error:
            failures.append(Failure(item="trajectory", reason=error.reason, message=str(error)))
        return self._document(
            started=started,
            calculator=calculator_label(calculator, calculator_name),
            system=system_label(atoms),
            name=name,
            records=curve.records(self.max_records),
            summary=self._summary(curve, failures, n_atoms=len(moving)),
            n_items=1,
            n_failed=len(failures),
            failures=failures,
            reference=reference,
        )

    def _supercell(self, atoms: Atoms) -> Atoms:
        moving = atoms.copy()
        if self.repeat != (1, 1, 1):
            moving = moving.repeat(self.repeat)
        if len(moving) < 2:
            raise StructureError(
                f"NVE drift of {moving.get_chemical_formula()} needs at least two atoms.",
                remedy="Set repeat, e.g. (3, 3, 3).",
            )
        moving.set_constraint()
        return moving

    def _equilibrate(self, moving: Atoms) -> None:
        rng = np.random.default_rng(self.seed)
        target = 2 * self.temperature if self.start == "double" else self.temperature
        spread = np.sqrt(units.kB * target * moving.get_masses())[:, None]
        moving.set_momenta(spread * rng.standard_normal((len(moving), 3)))
        remove_overall_motion(moving)
        kinetic = moving.get_kinetic_energy()
        wanted = 0.5 * degrees_of_freedom(moving) * units.kB * target
        moving.set_momenta(moving.get_momenta() * np.sqrt(wanted / kinetic))
        steps = round(self.equilibration / self.timestep)
        if steps == 0:
            return
        if self.start == "langevin":
            dynamics: Any = Langevin(
                moving,
                self.timestep * units.fs,
                temperature_K=self.temperature,
                friction=self.friction / units.fs,
                fixcm=False,
                rng=rng,
            )
        else:
            dynamics = VelocityVerlet(moving, self.timestep * units.fs)
        health = HealthCheck(moving, temperature=self.temperature, interval=self.check_interval)
        for step, _ in enumerate(dynamics.irun(steps)):
            health.check(step, consistent_energy(moving) + moving.get_kinetic_energy(), conserved=False)
        if self.start == "langevin":
            remove_overall_motion(moving)

    def _measure(self, moving: Atoms, curve: _Curve) -> None:
        dynamics = VelocityVerlet(moving, self.timestep * units.fs)
        health = HealthCheck(moving, temperature=self.temperature, interval=self.check_interval)
        for step, _ in enumerate(dynamics.irun(round(self.duration / self.timestep))):
            energy = consistent_energy(moving) + moving.get_kinetic_energy()
            curve.add(step * self.timestep, energy / len(moving), health.temperature())
            health.check(step, energy, conserved=True)

    def _summary(self, curve: _Curve, failures: Sequence[Failure], *, n_atoms: int) -> dict[str, Any]:
        slope, fluctuation = curve.fit()
        last = curve.times[-1] / 1000 if curve.times else 0.0
        return {
            "drift": abs(slope),
            "signed_drift": slope,
            "fluctuation": fluctuation,
            "mean_temperature": float(np.mean(curve.temperatures)) if curve.times else None,
            "simulated_time": last,
            "n_atoms": n_atoms,
            "failure": failures[0].reason if failures else None,
            "t_failure": last if failures else None,
        }


class _Curve:
    """Time (fs), total energy (eV/atom) and temperature (K) of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.energies: list[float] = []
        self.temperatures: list[float] = []

    def add(self, time_fs: float, energy: float, temperature: float) -> None:
        self.times.append(time_fs)
        self.energies.append(energy)
        self.temperatures.append(temperature)

    def fit(self) -> tuple[float, float]:
        """Return slope (meV/atom/ps) and standard deviation (meV/atom); NaN where there are too few steps."""
        times, energies = np.array(self.times) / 1000, np.array(self.energies)
        finite = np.isfinite(energies)
        times, energies = times[finite], energies[finite]
        if len(times) < MINIMUM_STEPS:
            return float("nan"), float("nan")
        energies = 1000 * (energies - energies.mean())
        times = times - times.mean()
        return float(times @ energies / (times @ times)), float(energies.std())

    def records(self, at_most: int) -> list[dict[str, Any]]:
        """Return evenly spaced points, the last one among them."""
        count = len(self.times)
        if count == 0:
            return []
        chosen = np.unique(np.linspace(0, count - 1, min(count, at_most)).round().astype(int))
        return [
            {
                "kind": "point",
                "time": self.times[i] / 1000,
                "energy": self.energies[i],
                "temperature": self.temperatures[i],
            }
            for i in chosen
        ]
