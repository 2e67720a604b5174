"""Makers that sample with a calculator: normal modes and molecular dynamics, by an engine or a trained model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jobflow import Maker

from atomfoundry.documents import ModelDoc, StructureSetDoc
from atomfoundry.makers.checkpoints import job_checkpoints
from atomfoundry.makers.frames import open_dataset, structure_set
from atomfoundry.makers.job import foundry_job
from atomfoundry.makers.profiles import profile_of_engine
from atomfoundry.results import report_progress

if TYPE_CHECKING:
    from collections.abc import Callable

    from ase import Atoms
    from ase.calculators.calculator import Calculator


def _calculators(
    engine: str, settings: dict[str, Any], model: ModelDoc | None, head: str
) -> Callable[[Atoms], Calculator]:
    """Return what gives a structure its calculator: the model's where there is one, else the engine's."""
    if model is not None:
        from atomfoundry.makers.modelling import load_artifact_model
        from atomfoundry.models import FoundryCalculator

        trained = FoundryCalculator(load_artifact_model(model), head=head)
        return lambda atoms: trained
    from atomfoundry.engines import get_engine

    built = get_engine(engine, **settings)
    built.check_available()

    def of_engine(atoms: Atoms) -> Calculator:
        built.check_elements(atoms.get_chemical_symbols())
        return built.calculator(atoms)

    return of_engine


def _profile(
    maker: NormalModesMaker | MDSnapshotsMaker, structures: StructureSetDoc, model: ModelDoc | None = None
) -> str:
    """Return the resource profile: the engine's where that is more than dynamics needs (first principles)."""
    return "md" if model is not None else profile_of_engine(maker.engine, maker.settings, least="md")


@dataclass
class NormalModesMaker(Maker):
    """Structures displaced along normal modes as at some temperatures.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    engine, settings
        What computes the forces, where no model is given.
    head
        Readout head of the model.
    temperatures
        K.
    n
        Structures of each structure and temperature.
    quantum, softest, displacement
        See :func:`atomfoundry.sampling.normal_mode_structures`.
    seed
        Seed of the amplitudes.
    """

    name: str = "normal modes"
    engine: str = "xtb"
    settings: dict[str, Any] = field(default_factory=dict)
    head: str = "pt"
    temperatures: list[float] = field(default_factory=lambda: [300.0])
    n: int = 10
    quantum: bool = False
    softest: float = 50.0
    displacement: float = 0.01
    seed: int = 0

    @foundry_job(output_schema=StructureSetDoc, profile=_profile)
    def make(self, structures: StructureSetDoc, model: ModelDoc | None = None) -> StructureSetDoc:
        """Sample a structure set.

        Parameters
        ----------
        structures
            What to start from; near minima.
        model
            What computes the forces instead of the engine.

        Raises
        ------
        NoTimeLeftError
            If the process must end: the job goes on from its checkpoint.
        """
        from atomfoundry.datasets import unique_frames
        from atomfoundry.sampling.vibrations import displaced_structures, normal_modes

        calculator_of = _calculators(self.engine, self.settings, model, self.head)
        frames: list[Atoms] = []
        with job_checkpoints() as checkpoints:
            for atoms in open_dataset(structures.structures).frames():
                report_progress(f"normal modes of {atoms.get_chemical_formula()}")
                modes = normal_modes(
                    atoms, calculator_of(atoms), displacement=self.displacement, checkpoints=checkpoints
                )
                for temperature in self.temperatures:
                    frames += displaced_structures(
                        atoms,
                        modes,
                        temperature=temperature,
                        n=self.n,
                        seed=self.seed,
                        quantum=self.quantum,
                        softest=self.softest,
                    )
        return structure_set(
            unique_frames(frames), name=self.name, lineage={"structures": structures.structures.sha256}
        )


@dataclass
class MDSnapshotsMaker(Maker):
    """Snapshots of molecular dynamics.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    engine, settings
        What computes the forces, where no model is given.
    head
        Readout head of the model.
    temperatures
        K, one run of every structure each.
    min_atoms
        Smaller crystals run in a nearly cubic supercell of at least so many atoms.
    n, interval, equilibration, timestep, ensemble, friction, pressure, barostat_time
        See :func:`atomfoundry.sampling.md_snapshots`.
    seed
        Seed of the dynamics.
    """

    name: str = "MD snapshots"
    engine: str = "xtb"
    settings: dict[str, Any] = field(default_factory=dict)
    head: str = "pt"
    temperatures: list[float] = field(default_factory=lambda: [300.0])
    min_atoms: int = 1
    n: int = 10
    interval: int = 50
    equilibration: int = 100
    timestep: float = 1.0
    ensemble: str = "nvt"
    friction: float = 0.01
    pressure: float = 0.0
    barostat_time: float = 500.0
    seed: int = 0

    @foundry_job(output_schema=StructureSetDoc, profile=_profile)
    def make(self, structures: StructureSetDoc, model: ModelDoc | None = None) -> StructureSetDoc:
        """Run the dynamics.

        Parameters
        ----------
        structures
            What to start from.
        model
            What computes the forces instead of the engine.

        Raises
        ------
        NoTimeLeftError
            If the process must end: the job goes on from its checkpoint.
        """
        from atomfoundry.datasets import unique_frames
        from atomfoundry.sampling import md_snapshots
        from atomfoundry.sampling.enlarge import enlarge

        calculator_of = _calculators(self.engine, self.settings, model, self.head)
        frames: list[Atoms] = []
        with job_checkpoints() as checkpoints:
            for parent in open_dataset(structures.structures).frames():
                atoms = enlarge(parent, self.min_atoms)
                for temperature in self.temperatures:
                    report_progress(f"MD of {atoms.get_chemical_formula()} at {temperature:.0f} K")
                    frames += md_snapshots(
                        atoms,
                        calculator_of(atoms),
                        temperature=temperature,
                        n=self.n,
                        interval=self.interval,
                        seed=self.seed,
                        timestep=self.timestep,
                        equilibration=self.equilibration,
                        ensemble=self.ensemble,
                        friction=self.friction,
                        pressure=self.pressure,
                        barostat_time=self.barostat_time,
                        checkpoints=checkpoints,
                    )
        return structure_set(
            unique_frames(frames), name=self.name, lineage={"structures": structures.structures.sha256}
        )
