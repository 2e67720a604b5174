"""Makers that build structures or fetch them from online databases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from jobflow import Maker

from atomfoundry.documents import StructureSetDoc
from atomfoundry.errors import StructureError
from atomfoundry.makers.frames import structure_set
from atomfoundry.makers.job import foundry_job

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.sources import Fetched


def _supercells(frames: Iterable[Atoms], repeats: list[int] | list[list[int]] | None) -> list[Atoms]:
    from atomfoundry.sources import repeated_cell

    if repeats is None:
        return list(frames)
    return [repeated_cell(atoms, repeats) for atoms in frames]


def _document(
    fetched: Fetched, maker: MaterialsProjectMaker | OptimadeMaker, question: dict[str, Any]
) -> StructureSetDoc:
    if not fetched.structures:
        told = "; ".join(f"{key}: {reason}" for key, reason in list(fetched.rejected.items())[:3])
        raise StructureError(
            f"'{maker.name}' found no usable structure among {fetched.n_entries} entries{': ' if told else ''}{told}.",
            remedy="Widen the question.",
        )
    lineage = {**question, "n_entries": fetched.n_entries, "rejected": fetched.rejected}
    return structure_set(_supercells(fetched.structures, maker.supercell), name=maker.name, lineage=lineage)


@dataclass
class MaterialsProjectMaker(Maker):
    """Fetch structures from the Materials Project; its key is a setting and never part of a flow.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    material_ids, formulas, chemical_systems
        What to fetch, e.g. ``["mp-149"]``, ``["Al2O3"]``, ``["Al-O"]``.
    max_energy_above_hull
        eV/atom; None: all.
    max_structures
        At most so many of each question.
    cell
        Turn crystals into their primitive or conventional cell.
    supercell
        Then repeat them: three numbers or a 3x3 matrix.
    """

    name: str = "Materials Project"
    material_ids: list[str] = field(default_factory=list)
    formulas: list[str] = field(default_factory=list)
    chemical_systems: list[str] = field(default_factory=list)
    max_energy_above_hull: float | None = None
    max_structures: int = 1000
    cell: Literal["as_given", "primitive", "conventional"] = "as_given"
    supercell: list[int] | list[list[int]] | None = None

    @foundry_job(output_schema=StructureSetDoc)
    def make(self) -> StructureSetDoc:
        """Fetch the structures; refused entries are in the dataset's lineage with their reason."""
        from atomfoundry.sources import fetch_materials_project

        question: dict[str, Any] = {
            "material_ids": self.material_ids,
            "formulas": self.formulas,
            "chemical_systems": self.chemical_systems,
            "max_energy_above_hull": self.max_energy_above_hull,
        }
        found = fetch_materials_project(**question, max_structures=self.max_structures, cell=self.cell)
        return _document(found, self, question)


@dataclass
class OptimadeMaker(Maker):
    """Fetch structures from an OPTIMADE provider.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    provider
        Base address or a short name such as ``"mp"``, ``"alexandria"``, ``"oqmd"``, ``"cod"``.
    query
        OPTIMADE filter.
    max_structures
        At most so many.
    cell
        Turn crystals into their primitive or conventional cell.
    supercell
        Then repeat them: three numbers or a 3x3 matrix.
    """

    name: str = "OPTIMADE"
    provider: str = ""
    query: str = ""
    max_structures: int = 1000
    cell: Literal["as_given", "primitive", "conventional"] = "as_given"
    supercell: list[int] | list[list[int]] | None = None

    @foundry_job(output_schema=StructureSetDoc)
    def make(self) -> StructureSetDoc:
        """Fetch the structures; refused entries are in the dataset's lineage with their reason."""
        from atomfoundry.sources import fetch_optimade

        found = fetch_optimade(self.provider, self.query, max_structures=self.max_structures, cell=self.cell)
        return _document(found, self, {"provider": self.provider, "query": self.query})


@dataclass
class PrototypesMaker(Maker):
    """Crystals of well-known structure types.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    prototypes
        Each with ``name`` and ``species``, and where wanted ``a``, ``c`` (A) and ``conventional``; see
        :func:`atomfoundry.sources.prototype`.
    supercell
        Repeat them: three numbers or a 3x3 matrix.
    """

    name: str = "prototypes"
    prototypes: list[dict[str, Any]] = field(default_factory=list)
    supercell: list[int] | list[list[int]] | None = None

    @foundry_job(output_schema=StructureSetDoc)
    def make(self) -> StructureSetDoc:
        """Build the crystals.

        Raises
        ------
        StructureError
            If one has an unknown key or cannot be built, or there is none.
        """
        from atomfoundry.datasets import unique_frames
        from atomfoundry.sources import prototype

        frames = []
        for given in self.prototypes:
            unknown = sorted(set(given) - {"name", "species", "a", "c", "conventional"})
            if unknown or not {"name", "species"} <= set(given):
                raise StructureError(
                    f"The prototype {given} is not understood.",
                    remedy="It has name and species, and may have a, c and conventional.",
                )
            frames.append(prototype(**given))
        if not frames:
            raise StructureError(f"'{self.name}' names no prototype.", remedy="Give at least one.")
        return structure_set(unique_frames(_supercells(frames, self.supercell)), name=self.name)


@dataclass
class MoleculesMaker(Maker):
    """Molecules by name or SMILES.

    Parameters
    ----------
    name
        Name of the job and of the structure set.
    names
        Of ASE's collection (G2 and more).
    smiles
        Needs RDKit (the extra ``smiles``).
    n_conformers, seed
        Conformers of each SMILES, and the seed of their embedding.
    optimize
        Relax them with MMFF94.
    """

    name: str = "molecules"
    names: list[str] = field(default_factory=list)
    smiles: list[str] = field(default_factory=list)
    n_conformers: int = 1
    seed: int = 0
    optimize: bool = True

    @foundry_job(output_schema=StructureSetDoc)
    def make(self) -> StructureSetDoc:
        """Build the molecules.

        Raises
        ------
        StructureError
            If one is unknown, or there is none.
        """
        from atomfoundry.datasets import unique_frames
        from atomfoundry.sources import molecules_by_name, molecules_by_smiles

        frames = molecules_by_name(self.names)
        if self.smiles:
            frames += molecules_by_smiles(
                self.smiles, n_conformers=self.n_conformers, seed=self.seed, optimize=self.optimize
            )
        if not frames:
            raise StructureError(f"'{self.name}' names no molecule.", remedy="Give names or SMILES.")
        return structure_set(unique_frames(frames), name=self.name)
