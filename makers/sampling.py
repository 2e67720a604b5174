"""Makers that sample structures."""

from __future__ import annotations

from dataclasses import dataclass, field

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
            supercells=[tuple(s) for s in self.supercells],
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
