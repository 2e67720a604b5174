"""Energy conservation: the drift of the total energy in microcanonical molecular dynamics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from ase import units
from ase.md.langevin import Langevin
from ase.md.verlet import VelocityVerlet

from atomfoundry.benchmarks.base import Benchmark, calculator_label, system_label
from atomfoundry.benchmarks.labelling import calculator_boundary, consistent_energy
from atomfoundry.benchmarks.md_health import HealthCheck, degrees_of_freedom, remove_overall_motion
from atomfoundry.benchmarks.records import Failure
from atomfoundry.checkpoint import opened
from atomfoundry.checkpoint.dynamics import (
    describe_step,
    dynamics_state,
    restore_dynamics,
    steps_of,
    structure_identity,
)
from atomfoundry.errors import ConfigurationError, LabelError, StructureError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.checkpoint import Checkpoint, Checkpoints, Saved
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
        checkpoints: Checkpoints | None = None,
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
        checkpoints
            Where the run is kept, so that it can be interrupted at any step and goes on bit for bit; None: it
            begins from the start every time.

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
        NoTimeLeftError
            If the process must end; the same call goes on from the checkpoint.
        CheckpointError
            If the checkpoint is corrupt.
        """
        started = time.perf_counter()
        moving = self._supercell(atoms)
        label = calculator_label(calculator, calculator_name)
        checkpoint = opened(
            checkpoints,
            self.benchmark,
            lambda: {"settings": self.settings(), "calculator": label, **structure_identity(moving)},
        )
        course = _Course(self, moving, checkpoint)
        failures: list[Failure] = []
        try:
            with checkpoint.guard("NVE dynamics"), calculator_boundary("NVE dynamics"):
                moving.calc = calculator
                course.equilibrate()
                course.measure()
        except LabelError as error:
            failures.append(Failure(item="trajectory", reason=error.reason, message=str(error)))
        return self._document(
            started=started,
            calculator=label,
            system=system_label(atoms),
            name=name,
            records=course.curve.records(self.max_records),
            summary=self._summary(course.curve, failures, n_atoms=len(moving)),
            n_items=1,
            n_failed=len(failures),
            failures=failures,
            reference=reference,
            earlier_s=checkpoint.earlier_s,
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


class _Course:
    """The course of one run: equilibration, measurement, and where they go on."""

    def __init__(self, drift: NVEDrift, moving: Atoms, checkpoint: Checkpoint) -> None:
        self.drift, self.moving, self.checkpoint = drift, moving, checkpoint
        self.saved = checkpoint.load()
        self.curve = _Curve()

    def equilibrate(self) -> None:
        drift, moving = self.drift, self.moving
        if self.saved is not None and self.saved.state["stage"] != "equilibration":
            return
        rng = np.random.default_rng(drift.seed)
        if self.saved is None:
            self._draw_momenta(rng)
        steps = round(drift.equilibration / drift.timestep)
        if steps == 0:
            return
        if drift.start == "langevin":
            dynamics: Any = Langevin(
                moving,
                drift.timestep * units.fs,
                temperature_K=drift.temperature,
                friction=drift.friction / units.fs,
                fixcm=False,
                rng=rng,
            )
        else:
            dynamics = VelocityVerlet(moving, drift.timestep * units.fs)
        self._run(dynamics, steps, stage="equilibration")
        if drift.start == "langevin":
            remove_overall_motion(moving)

    def measure(self) -> None:
        dynamics = VelocityVerlet(self.moving, self.drift.timestep * units.fs)
        self._run(dynamics, round(self.drift.duration / self.drift.timestep), stage="measurement")

    def _draw_momenta(self, rng: np.random.Generator) -> None:
        drift, moving = self.drift, self.moving
        target = 2 * drift.temperature if drift.start == "double" else drift.temperature
        spread = np.sqrt(units.kB * target * moving.get_masses())[:, None]
        moving.set_momenta(spread * rng.standard_normal((len(moving), 3)))
        remove_overall_motion(moving)
        kinetic = moving.get_kinetic_energy()
        wanted = 0.5 * degrees_of_freedom(moving) * units.kB * target
        moving.set_momenta(moving.get_momenta() * np.sqrt(wanted / kinetic))

    def _run(self, dynamics: Any, steps: int, *, stage: str) -> None:
        moving, timestep = self.moving, self.drift.timestep
        measured = stage == "measurement"
        health = HealthCheck(moving, temperature=self.drift.temperature, interval=self.drift.check_interval)
        saved, self.saved = self.saved, None
        if saved is not None:
            restore_dynamics(dynamics, saved)
            health.previous = saved.state["previous"]
            self.curve = _Curve.of(saved)
        for step in steps_of(dynamics, steps, continued=saved is not None):
            energy = consistent_energy(moving) + moving.get_kinetic_energy()
            if measured:
                self.curve.add(step * timestep, energy / len(moving), health.temperature())
            health.check(step, energy, conserved=measured)
            if not (measured and step == steps):
                what, ps = f"NVE {stage} of {system_label(moving)}", step * timestep / 1000
                message = partial(describe_step, what, step, steps, health.temperature(), ps)
                self.checkpoint.tell(message, step / steps)
                self.checkpoint.keep(
                    partial(self._collect, dynamics, stage, health), what=f"NVE {stage}, step {step} of {steps}"
                )

    def _collect(self, dynamics: Any, stage: str, health: HealthCheck) -> Saved:
        saved = dynamics_state(dynamics)
        saved.arrays |= self.curve.arrays()
        saved.state |= {"stage": stage, "previous": health.previous}
        return saved


class _Curve:
    """Time (fs), total energy (eV/atom) and temperature (K) of every step."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.energies: list[float] = []
        self.temperatures: list[float] = []

    @classmethod
    def of(cls, saved: Saved) -> _Curve:
        curve = cls()
        curve.times, curve.energies, curve.temperatures = (
            saved.arrays[f"curve/{name}"].tolist() for name in ("times", "energies", "temperatures")
        )
        return curve

    def arrays(self) -> dict[str, np.ndarray]:
        return {
            "curve/times": np.array(self.times),
            "curve/energies": np.array(self.energies),
            "curve/temperatures": np.array(self.temperatures),
        }

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
