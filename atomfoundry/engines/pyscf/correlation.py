"""Energies and gradients of MP2, CCSD and CCSD(T) on a Hartree-Fock field."""

from __future__ import annotations

from typing import Any

import numpy as np

from atomfoundry.engines.pyscf.clock import Clock
from atomfoundry.errors import LabelError

_AMPLITUDE_TOLERANCE = 1e-6
"""On the norm of the coupled-cluster amplitudes; the default leaves 1e-4 eV/A in the forces."""


def correlated(
    field: Any, kind: str, what: str, *, frozen_core: bool, max_steps: int, clock: Clock
) -> tuple[float, np.ndarray]:
    """Return energy and gradient of a correlated wave function.

    Parameters
    ----------
    field
        A converged Hartree-Fock field, restricted closed-shell or unrestricted.
    kind
        Key of ``methods.CORRELATED``.
    what
        Names the structure in errors.
    frozen_core
        Leave the core orbitals uncorrelated.
    max_steps
        Iterations of the amplitudes.
    clock
        Checked after every iteration.

    Returns
    -------
    energy : float
        Hartree.
    gradient : ndarray
        Hartree/bohr, shape (n_atoms, 3).

    Raises
    ------
    LabelError
        With reason ``"unconverged"``, ``"timeout"``, or ``"unsupported"`` for CCSD(T) of an open-shell molecule.
    """
    from pyscf import cc, mp, scf
    from pyscf.data.elements import chemcore

    molecule = field.mol
    if kind == "ccsd(t)" and molecule.natm > 1 and isinstance(field, scf.uhf.UHF):
        raise LabelError(
            f"{what} is an open shell, for which PySCF's CCSD(T) gradient is wrong by 1e-2 eV/A.",
            reason="unsupported",
            remedy="Take 'ccsd' for open shells; single atoms and closed shells work.",
        )
    n_frozen = chemcore(molecule) if frozen_core else 0
    if molecule.nelectron - 2 * n_frozen < 2:
        # one electron correlates with none
        return float(field.e_tot), _field_gradient(field)
    if kind == "mp2":
        wave = mp.MP2(field, frozen=n_frozen)
        wave.kernel()
        clock()
        return float(wave.e_tot), _gradient(wave.nuc_grad_method(), molecule)
    wave = cc.CCSD(field, frozen=n_frozen)
    wave.conv_tol, wave.conv_tol_normt, wave.max_cycle = 1e-8, _AMPLITUDE_TOLERANCE, max_steps
    wave.callback = clock
    wave.kernel()
    _need(wave.converged, what, "amplitudes")
    if kind == "ccsd":
        gradient = _gradient(wave.nuc_grad_method(), molecule)
        _need(molecule.natm == 1 or wave.converged_lambda, what, "lambda amplitudes")
        return float(wave.e_tot), gradient
    energy = float(wave.e_tot + wave.ccsd_t())
    clock()
    if molecule.natm == 1:
        return energy, np.zeros((1, 3))
    return energy, _triples_gradient(wave, what, clock)


def _triples_gradient(wave: Any, what: str, clock: Clock) -> np.ndarray:
    from pyscf.cc import ccsd_t_lambda_slow
    from pyscf.grad import ccsd_t

    integrals = wave.ao2mo()
    # Left alone, PySCF takes the lambda amplitudes of CCSD: errors of 3e-4 eV/A that still sum to zero.
    converged, l1, l2 = ccsd_t_lambda_slow.kernel(
        wave, integrals, wave.t1, wave.t2, max_cycle=wave.max_cycle, tol=_AMPLITUDE_TOLERANCE, verbose=0
    )
    _need(converged, what, "lambda amplitudes")
    clock()
    return np.asarray(ccsd_t.Gradients(wave).kernel(wave.t1, wave.t2, l1, l2, eris=integrals))


def _field_gradient(field: Any) -> np.ndarray:
    return _gradient(field.nuc_grad_method(), field.mol)


def _gradient(method: Any, molecule: Any) -> np.ndarray:
    if molecule.natm == 1:
        return np.zeros((1, 3))
    method.verbose = 0
    return np.asarray(method.kernel())


def _need(converged: bool, what: str, part: str) -> None:
    if not converged:
        raise LabelError(
            f"{what}: the coupled-cluster {part} did not converge.",
            reason="unconverged",
            remedy="Raise 'max_steps', or check the geometry: one determinant may not describe it.",
        )
