"""The self-consistent field: made, converged by all means, and followed out of saddle points."""

from __future__ import annotations

from typing import Any

from atomfoundry.errors import LabelError

_LEVEL_SHIFT = 0.3
"""Hartree."""

_MAX_DESCENTS = 5


def converge(field: Any, what: str) -> Any:
    """Converge a field: by DIIS, then with a level shift, then by the second-order solver.

    Parameters
    ----------
    field
        A PySCF mean field.
    what
        Names the structure in errors.

    Returns
    -------
    Any
        The field, converged.

    Raises
    ------
    LabelError
        With reason ``"unconverged"``.
    """
    field.kernel()
    if not field.converged:
        field.level_shift = _LEVEL_SHIFT
        field.kernel(field.make_rdm1())
        field.level_shift = 0
    if not field.converged:
        _second_order(field, field.mo_coeff)
    if not field.converged:
        raise LabelError(
            f"{what}: the self-consistency cycle of PySCF did not converge.",
            reason="unconverged",
            remedy="Raise 'max_steps', or check spin and geometry.",
        )
    return field


def descend(field: Any, what: str, *, break_spin: bool) -> Any:
    """Follow instabilities until the field is a minimum (J. Cizek and J. Paldus, J. Chem. Phys. 47, 3976 (1967)).

    Parameters
    ----------
    field
        A converged PySCF mean field.
    what
        Names the structure in errors.
    break_spin
        Whether a closed shell that is unstable against it becomes an unrestricted one.

    Returns
    -------
    Any
        The field, or the unrestricted one it became.

    Raises
    ------
    LabelError
        With reason ``"unconverged"``, if it is still no minimum after several descents.
    """
    from pyscf import scf

    for _ in range(_MAX_DESCENTS):
        restricted = not isinstance(field, (scf.uhf.UHF, scf.rohf.ROHF))
        external = restricted and break_spin
        inner, outer, stable, stable_outside = field.stability(external=external, return_status=True)
        if not stable:
            _second_order(field, inner)
        elif external and not stable_outside:
            clock, chkfile = field.callback, field.chkfile
            field = field.to_uks() if hasattr(field, "xc") else field.to_uhf()
            field.callback, field.chkfile = clock, chkfile
            _second_order(field, outer)
        else:
            return field
        if not field.converged:
            break
    raise LabelError(
        f"{what}: no stable solution of the self-consistency cycle was found.",
        reason="unconverged",
        remedy="Give info['spin_multiplicity'], or set 'stability' to false.",
    )


def _second_order(field: Any, orbitals: Any) -> None:
    """Converge with the second-order solver from given orbitals, and keep the result in the field itself.

    Q. Sun, arXiv:1610.08423.
    """
    solver = field.newton()
    solver.max_cycle, solver.callback, solver.chkfile = field.max_cycle, field.callback, None
    solver.verbose = 0
    solver.kernel(orbitals, field.mo_occ)
    field.mo_coeff, field.mo_occ, field.mo_energy = solver.mo_coeff, solver.mo_occ, solver.mo_energy
    field.e_tot, field.converged = solver.e_tot, solver.converged
