"""Slabs with free surfaces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ase import Atoms

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import StructureError
from atomfoundry.sampling.deformation import _as_list


def slabs(
    atoms: Atoms | Iterable[Atoms],
    *,
    miller_indices: Sequence[Sequence[int]] | None = None,
    max_index: int = 1,
    thickness: float = 10.0,
    vacuum: float = 15.0,
    max_atoms: int | None = None,
    terminations: bool = True,
    symprec: float = 1e-2,
) -> list[Atoms]:
    """Return slabs cut from crystals, one for each surface and termination.

    Parameters
    ----------
    atoms
        One or several crystals, periodic in three directions. Their conventional cell is cut.
    miller_indices
        Surfaces, of the conventional cell; by default all inequivalent ones up to ``max_index``.
    max_index
        Largest Miller index, where no surface is named.
    thickness, vacuum
        Least thickness of the slab and of the vacuum, A.
    max_atoms
        Leave out larger slabs.
    terminations
        All inequivalent terminations of a surface, or the first one only.
    symprec
        Symmetry tolerance, A.

    Returns
    -------
    list of ase.Atoms
        Periodic in three directions, the vacuum along the third cell vector, which is normal to the surface.
        ``sampling`` is ``"slab"``; each is a group of its own.

    Raises
    ------
    StructureError
        If a structure is not periodic, an index is impossible or no slab is small enough.
    """
    from pymatgen.core.surface import SlabGenerator, get_symmetrically_distinct_miller_indices
    from pymatgen.io.ase import AseAtomsAdaptor
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    if not thickness > 0 or vacuum < 0:
        raise StructureError(f"A slab {thickness} A thick under {vacuum} A of vacuum is not possible.")
    frames: list[Atoms] = []
    for parent in _as_list(atoms):
        base = with_metadata(clean_frame(parent))
        if not base.pbc.all():
            raise StructureError(
                f"{base.get_chemical_formula()} is not periodic in three directions, so no slab can be cut from it.",
                remedy="Use a crystal.",
            )
        structure = AseAtomsAdaptor.get_structure(Atoms(base.numbers, base.positions, cell=base.cell, pbc=True))
        crystal = SpacegroupAnalyzer(structure, symprec=symprec).get_conventional_standard_structure()
        if miller_indices is None:
            surfaces = [tuple(index) for index in get_symmetrically_distinct_miller_indices(crystal, max_index)]
        else:
            surfaces = [tuple(int(number) for number in index) for index in miller_indices]
        found = []
        for surface in surfaces:
            if len(surface) not in (3, 4) or not any(surface):
                raise StructureError(f"There is no surface {surface}.", remedy="Give three Miller indices.")
            generator = SlabGenerator(
                crystal, surface, thickness, vacuum, lll_reduce=True, center_slab=True, primitive=True
            )
            cut = generator.get_slabs(symmetrize=False) if terminations else [generator.get_slab()]
            for number, slab in enumerate(cut):
                if max_atoms is None or len(slab) <= max_atoms:
                    frame = AseAtomsAdaptor.get_atoms(slab.get_orthogonal_c_slab(), msonable=False)
                    found.append((surface, number, frame))
        if not found:
            raise StructureError(
                f"No slab of {base.get_chemical_formula()} has at most {max_atoms} atoms.",
                remedy="Lower thickness, or raise max_atoms.",
            )
        for surface, number, frame in found:
            name = "".join(f"{index:d}" for index in surface)
            frame = Atoms(frame.numbers, frame.positions, cell=frame.cell, pbc=True)
            frame.info = dict(base.info)
            frames.append(
                with_metadata(
                    frame,
                    sampling="slab",
                    group_id=f"{base.info['group_id']}:slab_{name}_{number}",
                    deformation={"kind": "slab", "miller_index": list(surface), "termination": number},
                )
            )
    return unique_frames(frames)
