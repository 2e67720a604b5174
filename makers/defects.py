"""Makers of point defects and surfaces."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Self

from jobflow import Maker

from atomfoundry.documents import StructureSetDoc
from atomfoundry.errors import StructureError
from atomfoundry.makers.frames import open_dataset, structure_set
from atomfoundry.makers.job import foundry_job


@dataclass
class DefectsMaker(Maker):
    """Vacancies, pairs of them, substitutions, interstitials and random defects of crystals.

    One structure comes of every class of equivalent sites. Nothing is relaxed.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    min_atoms
        Smaller crystals become a nearly cubic supercell of at least so many atoms first.
    vacancies
        Elements to take one atom of, e.g. ``["Al", "O"]``.
    vacancy_pairs
        Pairs of elements, e.g. ``[["Al", "O"]]``.
    max_pair_distance
        Largest distance of such a pair, A.
    max_pairs
        Only so many classes of each, the nearest ones.
    substitutions
        Element to those that replace one atom of it.
    interstitials
        Elements of one added atom.
    max_interstitial_sites
        Only so many of the widest holes.
    remove, replace, n_random
        Numbers of atoms for ``n_random`` structures with random defects, see
        :func:`atomfoundry.sampling.random_defects`.
    keep_input
        Keep the perfect (super)cells.
    symprec
        Symmetry tolerance, A.
    seed
        Seed of the random defects.
    """

    name: str = "defects"
    min_atoms: int = 1
    vacancies: list[str] = field(default_factory=list)
    vacancy_pairs: list[list[str]] = field(default_factory=list)
    max_pair_distance: float | None = None
    max_pairs: int | None = None
    substitutions: dict[str, list[str]] = field(default_factory=dict)
    interstitials: list[str] = field(default_factory=list)
    max_interstitial_sites: int | None = None
    remove: dict[str, int] = field(default_factory=dict)
    replace: dict[str, dict[str, int]] = field(default_factory=dict)
    n_random: int = 0
    keep_input: bool = True
    symprec: float = 1e-2
    seed: int = 0

    @classmethod
    def alumina(cls, *, name: str = "alumina defects") -> Self:
        """Make the structures of the alumina study: 80 atoms, without Al, without O, without a bonded Al-O pair.

        Corundum has one class of each, so four structures come of it, and 4 x 2001 of ``StrainMaker.alumina``.
        """
        return cls(name=name, min_atoms=80, vacancies=["Al", "O"], vacancy_pairs=[["Al", "O"]], max_pairs=1)

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: StructureSetDoc) -> StructureSetDoc:
        """Make the defects.

        Parameters
        ----------
        structures
            What to start from.

        Raises
        ------
        StructureError
            If no structure comes of it.
        """
        from atomfoundry import sampling
        from atomfoundry.datasets import unique_frames
        from atomfoundry.sampling.enlarge import enlarge

        parents = [enlarge(atoms, self.min_atoms) for atoms in open_dataset(structures.structures).frames()]
        frames = list(parents) if self.keep_input else []
        if self.vacancies:
            frames += sampling.vacancies(parents, symbols=self.vacancies, symprec=self.symprec)
        if self.vacancy_pairs:
            frames += sampling.vacancy_pairs(
                parents,
                pairs=[(first, second) for first, second in self.vacancy_pairs],
                max_distance=self.max_pair_distance,
                max_pairs=self.max_pairs,
                symprec=self.symprec,
            )
        if self.substitutions:
            frames += sampling.substitutions(parents, replacements=self.substitutions, symprec=self.symprec)
        if self.interstitials:
            frames += sampling.interstitials(
                parents, symbols=self.interstitials, max_sites=self.max_interstitial_sites, symprec=self.symprec
            )
        if self.n_random:
            frames += sampling.random_defects(
                parents, n=self.n_random, seed=self.seed, remove=self.remove, replace=self.replace
            )
        if not frames:
            raise StructureError(f"'{self.name}' makes no structure.", remedy="Ask for a defect, or keep_input.")
        return structure_set(
            unique_frames(frames), name=self.name, lineage={"structures": structures.structures.sha256}
        )


@dataclass
class SlabsMaker(Maker):
    """Slabs with free surfaces.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    miller_indices
        Surfaces; by default all inequivalent ones up to ``max_index``.
    max_index, thickness, vacuum, max_atoms, terminations
        See :func:`atomfoundry.sampling.slabs`.
    """

    name: str = "slabs"
    miller_indices: list[list[int]] | None = None
    max_index: int = 1
    thickness: float = 10.0
    vacuum: float = 15.0
    max_atoms: int | None = None
    terminations: bool = True

    @foundry_job(output_schema=StructureSetDoc)
    def make(self, structures: StructureSetDoc) -> StructureSetDoc:
        """Cut the slabs.

        Parameters
        ----------
        structures
            What to cut them from.
        """
        from atomfoundry.sampling import slabs

        frames = slabs(
            open_dataset(structures.structures).frames(),
            miller_indices=self.miller_indices,
            max_index=self.max_index,
            thickness=self.thickness,
            vacuum=self.vacuum,
            max_atoms=self.max_atoms,
            terminations=self.terminations,
        )
        return structure_set(frames, name=self.name, lineage={"structures": structures.structures.sha256})
