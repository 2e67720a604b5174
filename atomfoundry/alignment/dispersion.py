"""Levels of which one carries a D3 dispersion correction and the other none (ALGORITHMS 1.4, step 7).

A D3 correction is a potential of its own: it can be computed from the structure alone and taken from the labels, or
added to them, with its forces and stress. It vanishes for separate atoms, so isolated-atom energies stay. Damping
parameters are those of the source's functional (S. Grimme et al., J. Chem. Phys. 132, 154104 (2010); J. Comput.
Chem. 32, 1456 (2011)), from simple-dftd3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.cell import Cell
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import AlignmentError, EngineUnavailableError
from atomfoundry.units import BOHR, HARTREE, HARTREE_PER_BOHR

Dispersion = Literal["keep", "subtract_source", "add_source"]

VARIANTS: Mapping[str, tuple[str, bool]] = MappingProxyType(
    {
        "D3(BJ)": ("d3bj", False),
        "D3(BJ)-ATM": ("d3bj", True),
        "D3(0)": ("d3zero", False),
        "D3M(BJ)": ("d3bjm", False),
    }
)
"""Name -> damping as the library calls it, and whether the three-body term counts."""

_CUTOFF, _COORDINATION_CUTOFF = 9000**0.5, 40.0
"""Reach of pairs and triples, and of coordination numbers, bohr: as in VASP and pw.x."""

_SPELLINGS = {
    "d3bj": "D3(BJ)",
    "d3bjatm": "D3(BJ)-ATM",
    "d30": "D3(0)",
    "d3zero": "D3(0)",
    "d3mbj": "D3M(BJ)",
    "d3bjm": "D3M(BJ)",
}
_SUFFIX = re.compile(r"-(D3(?:M)?(?:\(BJ\)|-?BJ|\(0\)|-?zero)?(?:-?ATM)?)$", re.IGNORECASE)


def dispersion_of(level: LevelOfTheory) -> tuple[str, str]:
    """Return functional and D3 correction of a level, by its ``dispersion`` or the end of its ``method``.

    Returns
    -------
    tuple
        The functional without the correction, e.g. ``"wB97M"``, and a key of ``VARIANTS``, another name if it is no
        D3 that can be computed here, or ``""`` where there is none.
    """
    suffix = _SUFFIX.search(level.method)
    functional = level.method[: suffix.start()] if suffix else level.method
    found = level.dispersion or (suffix.group(1) if suffix else "")
    return functional, _SPELLINGS.get(re.sub(r"[^a-z0-9]", "", found.lower()), found)


class DispersionTerm(BaseModel):
    """A multiple of the D3 correction of one functional."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    functional: str = Field(description="Whose damping parameters are taken, e.g. 'PBE'")
    variant: str = Field(description="'D3(BJ)', 'D3(BJ)-ATM', 'D3(0)' or 'D3M(BJ)'")
    coefficient: float = Field(description="-1 takes the correction away, 1 adds it")

    def energy(self, atoms: Atoms) -> float:
        """Return the term's energy, eV."""
        return self.coefficient * float(self._correction(atoms, grad=False)["energy"]) * HARTREE

    def evaluate(self, atoms: Atoms) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
        """Return energy (eV), forces ``[N, 3]`` (eV/A) and stress ``[6]`` (eV/A^3) of the term.

        The stress of a structure that is not periodic in three dimensions is NaN.

        Raises
        ------
        AlignmentError
            If there are no parameters for the functional or an element.
        EngineUnavailableError
            If pyscf-dispersion is not installed.
        """
        found = self._correction(atoms, grad=True)
        stress = np.full(6, np.nan)
        if atoms.pbc.all():
            tensor = found["virial"] * (self.coefficient * HARTREE / atoms.get_volume())
            stress = tensor[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
        forces = -self.coefficient * found["gradient"] * HARTREE_PER_BOHR
        return self.coefficient * float(found["energy"]) * HARTREE, forces, stress

    def scaled(self, factor: float) -> DispersionTerm:
        """Return the term times a factor."""
        return self.model_copy(update={"coefficient": factor * self.coefficient})

    def _correction(self, atoms: Atoms, *, grad: bool) -> dict[str, Any]:
        """Return energy, gradient and virial, atomic units, without the coefficient."""
        try:
            from pyscf.dispersion.dftd3 import DFTD3Dispersion
        except ImportError as error:
            raise EngineUnavailableError(
                "pyscf-dispersion, which computes D3, is not installed.", remedy="Run 'pip install pyscf-dispersion'."
            ) from error
        version, three_body = VARIANTS[self.variant]
        try:
            model = DFTD3Dispersion(_Geometry(atoms), xc=self.functional, version=version, atm=three_body)
            model.set_realspace_cutoff(_CUTOFF, _COORDINATION_CUTOFF, _COORDINATION_CUTOFF)
            return dict(model.get_dispersion(grad=grad))
        except RuntimeError as error:
            raise AlignmentError(
                f"The {self.variant} correction of {self.functional} cannot be computed for a frame of "
                f"{atoms.get_chemical_formula()}: {error}.",
                remedy="Leave such frames out, or align with dispersion='keep'.",
            ) from error


class _Geometry:
    """What the D3 library reads of a molecule or crystal, lengths in bohr."""

    def __init__(self, atoms: Atoms) -> None:
        self.natm = len(atoms)
        self.dimension = 3 if atoms.pbc.any() else 0
        self._symbols = list(atoms.symbols)
        self._positions = np.ascontiguousarray(atoms.positions / BOHR)
        vectors = np.where(atoms.pbc[:, None], atoms.cell.array, 0.0) / BOHR
        if not atoms.pbc.all():
            # The library repeats slabs and chains in every direction: images there are put out of its reach.
            extent = float(np.linalg.norm(np.ptp(self._positions, axis=0)))
            across = Cell(vectors).complete().array
            vectors = np.where(atoms.pbc[:, None], vectors, across * (extent + 2 * _CUTOFF))
        self._vectors = np.ascontiguousarray(vectors)

    def atom_coords(self) -> NDArray[np.float64]:
        """Return positions ``[N, 3]``."""
        return self._positions

    def atom_symbol(self, index: int) -> str:
        """Return the element of an atom."""
        return self._symbols[index]

    def lattice_vectors(self) -> NDArray[np.float64]:
        """Return lattice vectors ``[3, 3]``, in rows."""
        return self._vectors


def dispersion_terms(
    source: LevelOfTheory, target: LevelOfTheory, dispersion: Dispersion, *, bridge: LevelOfTheory | None = None
) -> list[DispersionTerm]:
    """Return what has to be added to labels of the source so that both levels have dispersion, or neither.

    Parameters
    ----------
    source, target
        Records of the levels. The functional is the source's; the kind of correction is that of the level which has
        one.
    dispersion
        ``"keep"``: labels stay as they are. ``"subtract_source"``: the source has a correction, the target none.
        ``"add_source"``: the target has one, the source none.
    bridge
        A level between, which has to be as the target is.

    Raises
    ------
    AlignmentError
        If the levels are not such, or the correction cannot be computed here.
    """
    if dispersion == "keep":
        return []
    functional, own = dispersion_of(source)
    _, other = dispersion_of(target)
    names = f"{source.label} has {own or 'none'}, {target.label} {other or 'none'}"
    if dispersion == "subtract_source":
        if not own:
            raise AlignmentError(
                f"There is no dispersion correction to be subtracted: {names}.",
                remedy="Use 'keep', or say in the level of theory which correction the labels hold.",
            )
        if other:
            raise AlignmentError(
                f"Without its correction the source would no longer be as the target is: {names}.", remedy="Use 'keep'."
            )
    elif dispersion == "add_source":
        if own:
            raise AlignmentError(f"The source would have dispersion twice: {names}.", remedy="Use 'keep'.")
        if not other:
            raise AlignmentError(
                f"With a correction the source would no longer be as the target is: {names}.", remedy="Use 'keep'."
            )
    else:
        raise AlignmentError(
            f"There is no way '{dispersion}' to treat dispersion.", remedy="Ways: keep, subtract_source, add_source."
        )
    if bridge is not None and bool(dispersion_of(bridge)[1]) != bool(other):
        raise AlignmentError(
            f"Of bridge {bridge.label} and target {target.label} only one has a dispersion correction.",
            remedy="Take a bridge with the target's functional and its correction, or use 'keep'.",
        )
    variant = own or other
    if variant not in VARIANTS:
        raise AlignmentError(
            f"The correction '{variant}' cannot be computed here: {names}.",
            remedy=f"Computed are {', '.join(VARIANTS)}; the level of theory has to say which.",
        )
    term = DispersionTerm(
        functional=functional, variant=variant, coefficient=-1.0 if dispersion == "subtract_source" else 1.0
    )
    # Parameters that are missing are found now, not at the first frame.
    term.energy(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]))
    return [term]


def dispersion_words(source: LevelOfTheory, target: LevelOfTheory, terms: Sequence[DispersionTerm]) -> str:
    """Say what became of a difference in dispersion; empty where the levels do not differ and nothing was done."""
    if terms:
        parts = [f"{abs(t.coefficient):.4g} times {t.variant} of {t.functional}" for t in terms]
        signs = ["subtracted" if t.coefficient < 0 else "added" for t in terms]
        return ", ".join(f"{part} {sign}" for part, sign in zip(parts, signs, strict=True))
    own, other = dispersion_of(source)[1], dispersion_of(target)[1]
    if bool(own) == bool(other):
        return ""
    return f"kept as it is: {source.label} has {own or 'none'}, {target.label} {other or 'none'}"


def edge_dispersion(source: LevelOfTheory, target: LevelOfTheory, dispersion: Dispersion) -> Dispersion | None:
    """Return what is to be done between two levels of many so that the whole is as wanted.

    Where both levels have a correction, or neither, nothing has to be done. None: this direction is the inverse of
    the other one.
    """
    own, other = bool(dispersion_of(source)[1]), bool(dispersion_of(target)[1])
    if dispersion == "keep" or own == other:
        return "keep"
    return dispersion if own == (dispersion == "subtract_source") else None


def merge_dispersion(terms: Sequence[DispersionTerm]) -> list[DispersionTerm]:
    """Add up terms of one functional and correction; those that cancel are dropped."""
    sums: dict[tuple[str, str], float] = {}
    for term in terms:
        key = term.functional, term.variant
        sums[key] = sums.get(key, 0.0) + term.coefficient
    return [
        DispersionTerm(functional=functional, variant=variant, coefficient=coefficient)
        for (functional, variant), coefficient in sums.items()
        if coefficient != 0.0
    ]
