"""Makers that sample structures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from jobflow import Maker

from atomfoundry.documents import StructureSetDoc
from atomfoundry.makers.frames import open_dataset, sort_elements, structure_set
from atomfoundry.makers.job import foundry_job


@dataclass
class SampleMaker(Maker):
    """Strain and rattle structures.

    Periodic structures are strained hydrostatically and sheared, and every strained cell is rattled; non-periodic
    ones are only rattled. Larger cells may be rattled besides.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    hydrostatic
        Start, stop and number of linear strains, e.g. AtomProNet's ``(-0.1, 0.1, 11)``.
    shear
        Start, stop and number of shear strains.
    shear_planes
        Planes that each of them is applied to.
    rattle_stdevs
        Standard deviations (A) of the Gaussian displacements.
    n_rattle
        Rattled copies of every (strained) structure and standard deviation.
    n_rattle_sheared
        Rattled copies of every sheared structure and standard deviation.
    supercells
        Repetitions, e.g. ``[[2, 2, 1]]``, of larger cells that are rattled too.
    enlarge_to
        Also rattle a nearly cubic cell of at least so many atoms.
    n_rattle_supercell
        Rattled copies of every larger cell and standard deviation.
    supercell_strains
        Linear strains of the larger cells.
    keep_input
        Keep the unsampled structures.
    seed
        Seed of the displacements.
    """

    name: str = "sample structures"
    hydrostatic: tuple[float, float, int] | None = (-0.1, 0.1, 11)
    shear: tuple[float, float, int] | None = (-0.06, 0.06, 2)
    shear_planes: list[str] = field(default_factory=lambda: ["yz", "xz", "xy"])
    rattle_stdevs: list[float] = field(default_factory=lambda: [0.1])
    n_rattle: int = 2
    n_rattle_sheared: int = 1
    supercells: list[list[int]] = field(default_factory=list)
    enlarge_to: int | None = None
    n_rattle_supercell: int = 1
    supercell_strains: list[float] = field(default_factory=lambda: [0.0])
    keep_input: bool = True
    seed: int = 0

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: StructureSetDoc) -> StructureSetDoc:
        """Sample a structure set.

        Parameters
        ----------
        structures
            What to start from.
        """
        from atomfoundry.sampling.campaign import sample_structures

        frames = sample_structures(
            list(open_dataset(structures.structures).frames()),
            hydrostatic=self.hydrostatic,
            shear=self.shear,
            shear_planes=self.shear_planes,
            rattle_stdevs=self.rattle_stdevs,
            n_rattle=self.n_rattle,
            n_rattle_sheared=self.n_rattle_sheared,
            supercells=[(a, b, c) for a, b, c in self.supercells],
            enlarge_to=self.enlarge_to,
            n_rattle_supercell=self.n_rattle_supercell,
            supercell_strains=self.supercell_strains,
            keep_input=self.keep_input,
            seed=self.seed,
        )
        return structure_set(frames, name=self.name, lineage={"structures": structures.structures.sha256})


@dataclass
class IsolatedAtomsMaker(Maker):
    """One free atom of every element of some structure sets."""

    name: str = "isolated atoms"

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: list[StructureSetDoc]) -> StructureSetDoc:
        """Make the atoms.

        Parameters
        ----------
        structures
            Structure sets whose elements are wanted.
        """
        from atomfoundry.sampling import isolated_atoms

        elements = sort_elements(symbol for doc in structures for symbol in doc.elements)
        return structure_set(isolated_atoms(elements), name=self.name)


@dataclass
class StrainMaker(Maker):
    """Strain crystals on grids.

    A grid is a mapping of ``start``, ``stop`` and ``step``, a list of strains, or ``(start, stop, number)``.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    hydrostatic, uniaxial, triaxial, shear
        Grids, see :func:`atomfoundry.sampling.strain_structures`.
    uniaxial_axes, shear_planes
        Axes and planes that each strain is applied to.
    keep_input
        Keep the unstrained structures.
    """

    name: str = "strain structures"
    hydrostatic: dict[str, float] | list[float] | None = None
    uniaxial: dict[str, float] | list[float] | None = None
    triaxial: dict[str, float] | list[float] | None = None
    shear: dict[str, float] | list[float] | None = None
    uniaxial_axes: list[str] = field(default_factory=lambda: ["x", "y", "z"])
    shear_planes: list[str] = field(default_factory=lambda: ["yz", "xz", "xy"])
    keep_input: bool = False

    @classmethod
    def alumina(cls, *, name: str = "alumina study") -> Self:
        """Make the grid of the alumina study: 2001 hydrostatic strains of every structure (AtomProNet, 3.1)."""
        from atomfoundry.sampling import ALUMINA_GRID

        return cls(name=name, hydrostatic=dict(zip(("start", "stop", "step"), ALUMINA_GRID, strict=True)))

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: StructureSetDoc) -> StructureSetDoc:
        """Strain a structure set.

        Parameters
        ----------
        structures
            What to start from.
        """
        from atomfoundry.datasets import unique_frames
        from atomfoundry.sampling import strain_structures

        parents = list(open_dataset(structures.structures).frames())
        frames = strain_structures(
            parents,
            hydrostatic=self.hydrostatic,
            uniaxial=self.uniaxial,
            triaxial=self.triaxial,
            shear=self.shear,
            uniaxial_axes=self.uniaxial_axes,
            shear_planes=self.shear_planes,
        )
        kept = unique_frames([*parents, *frames]) if self.keep_input else frames
        return structure_set(kept, name=self.name, lineage={"structures": structures.structures.sha256})


@dataclass
class MonteCarloRattleMaker(Maker):
    """Displace atoms by a random walk that keeps them apart.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    step, n_sweeps
        Standard deviation of one move (A) and number of sweeps.
    n
        Copies of each structure.
    min_distance_factor, width
        Where moves are refused, see :func:`atomfoundry.sampling.monte_carlo_rattle`.
    seed
        Seed of the moves.
    """

    name: str = "Monte-Carlo rattle"
    step: float = 0.03
    n_sweeps: int = 20
    n: int = 5
    min_distance_factor: float = 0.75
    width: float = 0.1
    seed: int = 0

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: StructureSetDoc) -> StructureSetDoc:
        """Rattle a structure set.

        Parameters
        ----------
        structures
            What to start from.
        """
        from atomfoundry.sampling import monte_carlo_rattle

        frames = monte_carlo_rattle(
            open_dataset(structures.structures).frames(),
            step=self.step,
            n_sweeps=self.n_sweeps,
            n=self.n,
            seed=self.seed,
            min_distance_factor=self.min_distance_factor,
            width=self.width,
        )
        return structure_set(frames, name=self.name, lineage={"structures": structures.structures.sha256})


@dataclass
class DimersMaker(Maker):
    """Dimers of all elements of some structure sets.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    distances
        A; by default 12 from 0.7 to 2.5 times the sum of the covalent radii.
    pairs
        ``"all"`` or ``"equal"``.
    """

    name: str = "dimers"
    distances: list[float] | None = None
    pairs: str = "all"

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: list[StructureSetDoc]) -> StructureSetDoc:
        """Make the dimers.

        Parameters
        ----------
        structures
            Structure sets whose elements are wanted.
        """
        from atomfoundry.sampling import dimers

        elements = sort_elements(symbol for doc in structures for symbol in doc.elements)
        return structure_set(dimers(elements, distances=self.distances, pairs=self.pairs), name=self.name)


@dataclass
class RandomStructuresMaker(Maker):
    """Random crystals of a composition.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    composition
        Formula.
    n, seed
        Number of structures and seed.
    formula_units, volume_per_atom, min_distance_factor, min_distances, space_groups
        See :func:`atomfoundry.sampling.random_structures`.
    """

    name: str = "random structures"
    composition: str = ""
    n: int = 10
    seed: int = 0
    formula_units: list[int] = field(default_factory=lambda: [1, 2, 3, 4])
    volume_per_atom: tuple[float, float] | None = None
    min_distance_factor: float = 0.8
    min_distances: dict[str, float] = field(default_factory=dict)
    space_groups: list[int] | str | None = None

    @foundry_job(output_schema=StructureSetDoc)
    def make(self) -> StructureSetDoc:
        """Make the structures."""
        from atomfoundry.sampling import random_structures

        frames = random_structures(
            self.composition,
            n=self.n,
            seed=self.seed,
            formula_units=self.formula_units,
            volume_per_atom=self.volume_per_atom,
            min_distance_factor=self.min_distance_factor,
            min_distances=self.min_distances,
            space_groups=self.space_groups,
        )
        return structure_set(frames, name=self.name)
