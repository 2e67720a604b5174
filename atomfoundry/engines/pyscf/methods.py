"""What a method's name means: functional, nonlocal correlation, dispersion, wave function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from atomfoundry.errors import ConfigurationError, EngineUnavailableError

CORRELATED = {"mp2": "MP2", "ccsd": "CCSD", "ccsd(t)": "CCSD(T)"}
"""Wave-function methods on top of Hartree-Fock whose gradients PySCF has."""

DISPERSIONS = {"d3bj": "D3(BJ)", "d3bjatm": "D3(BJ)-ATM", "d3zero": "D3(0)", "d3bjm": "D3M(BJ)", "d4": "D4"}
"""Suffix of a functional's name and what the literature calls it."""

_LABELS = {"wb97m": "wB97M", "pbe": "PBE", "b3lyp": "B3LYP", "r2scan": "r2SCAN", "hf": "HF"}

_NONLOCAL_PARTNERS = {"wb97m", "wb97x", "b97m"}
"""Functionals of the VV10 family, which D3(BJ) and D4 variants share (Najibi and Goerigk, J. Chem. Theory Comput.
14, 5725 (2018); J. Comput. Chem. 41, 2562 (2020)): the VV10 term off, the dispersion correction on."""

_INCOMPLETE = ("-d", "-d2", "-d3", "-3c", "-vv10")
"""Endings of methods whose correction PySCF leaves out without a word, or whose meaning is not unique."""


@dataclass(frozen=True)
class Method:
    """A method, taken apart.

    Attributes
    ----------
    kind
        ``"ks"`` (Kohn-Sham), ``"hf"`` or a key of ``CORRELATED``.
    functional
        What PySCF calls the exchange-correlation functional, without dispersion; ``"hf"`` otherwise.
    dispersion
        Key of ``DISPERSIONS`` or None.
    nonlocal_correlation
        Whether the VV10 term is part of it.
    """

    kind: str
    functional: str
    dispersion: str | None = None
    nonlocal_correlation: bool = False

    @property
    def label(self) -> str:
        """What the literature calls it, e.g. ``wB97M-D3(BJ)``."""
        if self.kind in CORRELATED:
            return CORRELATED[self.kind]
        name = _LABELS.get(self.functional, self.functional)
        if self.nonlocal_correlation:
            plain = self.functional.removesuffix("_v")
            return f"{_LABELS.get(plain, plain)}-V"
        return f"{name}-{DISPERSIONS[self.dispersion]}" if self.dispersion else name

    @property
    def dispersion_method(self) -> str | None:
        """What PySCF takes as ``disp``: version and, where it cannot tell, the functional of the parameters."""
        if self.dispersion is None:
            return None
        return f"{self.dispersion}:{self.functional}" if self.functional in _NONLOCAL_PARTNERS else self.dispersion

    @property
    def exchange_correlation(self) -> str:
        """What PySCF takes as ``xc``."""
        partner = self.dispersion is not None and self.functional in _NONLOCAL_PARTNERS
        return f"{self.functional}_v" if partner else self.functional


def normal_name(name: str) -> str:
    """Return the one spelling of a method: ``wB97M-D3(BJ)``, ``wB97M-d3bj`` become ``wb97m-d3bj``.

    Parameters
    ----------
    name
        As a person writes it.

    Returns
    -------
    str
        In lower case.
    """
    name = name.strip().lower()
    for spelling, suffix in (("d3(bj)", "d3bj"), ("d3-bj", "d3bj"), ("d3(0)", "d3zero"), ("-atm", "atm")):
        name = name.replace(spelling, suffix)
    return f"{name[:-2]}-v" if name.endswith("_v") else name


def parse_method(name: str) -> Method:
    """Take a method's name apart; needs no PySCF.

    Parameters
    ----------
    name
        Spelled as ``normal_name`` gives it.

    Returns
    -------
    Method
        Its parts.

    Raises
    ------
    ConfigurationError
        If the name stands for a correction that would silently be left out.
    """
    if name in CORRELATED:
        return Method(name, "hf")
    plain, _, last = name.rpartition("-")
    dispersion = last if last in DISPERSIONS and plain else None
    functional = plain if dispersion else name
    if functional == "hf":
        return Method("hf", "hf", dispersion)
    if functional.replace("_", "-").endswith(_INCOMPLETE):
        raise ConfigurationError(
            f"pyscf: the dispersion correction of '{name}' is not offered.",
            remedy="Add one by name: '-d3bj', '-d3zero', '-d3bjatm', '-d4', or take '-v' of wb97m, wb97x or b97m.",
        )
    if functional.endswith("-v"):
        if dispersion:
            raise ConfigurationError(
                f"pyscf: '{name}' counts dispersion twice, by VV10 and by {DISPERSIONS[dispersion]}.",
                remedy=f"Take '{functional}' or '{functional[:-2]}-{dispersion}'.",
            )
        return Method("ks", f"{functional[:-2]}_v", nonlocal_correlation=True)
    return Method("ks", functional, dispersion)


def check_method(method: Method, name: str) -> None:
    """Check that PySCF and its dispersion codes know a method and have its gradient.

    Parameters
    ----------
    method
        Its parts.
    name
        As the user wrote it.

    Raises
    ------
    ConfigurationError
        If a part is unknown or has no gradient.
    EngineUnavailableError
        If pyscf-dispersion is missing.
    """
    from pyscf.dft import libxc

    if method.kind == "ks":
        try:
            libxc.parse_xc(method.exchange_correlation)
        except (KeyError, ValueError) as error:
            raise ConfigurationError(
                f"pyscf: unknown functional '{name}'.",
                remedy="Name it as PySCF does, e.g. 'wb97m-d3bj', 'wb97m-v', 'pbe', 'r2scan', 'b3lyp-d3bj'; 'hf', "
                f"{', '.join(map(repr, CORRELATED))} are offered too. What has no gradient (double hybrids, RPA) "
                "is not: a label needs forces.",
            ) from error
        if libxc.needs_laplacian(method.exchange_correlation):
            raise ConfigurationError(
                f"pyscf: '{name}' depends on the Laplacian of the density, and PySCF has no gradient for that.",
                remedy="Take another functional, e.g. 'r2scan'.",
            )
        nonlocal_term = bool(libxc.is_nlc(method.exchange_correlation))
        if nonlocal_term and not method.nonlocal_correlation and not method.dispersion:
            raise ConfigurationError(
                f"pyscf: '{name}' has the nonlocal VV10 term.",
                remedy="With it 'wb97m-v', 'wb97x-v' and 'b97m-v' are offered.",
            )
    if method.dispersion:
        _check_dispersion(method, name)


def _check_dispersion(method: Method, name: str) -> None:
    from pyscf import gto

    try:
        from pyscf.dispersion import dftd3, dftd4
    except ImportError as error:
        raise EngineUnavailableError(
            "pyscf-dispersion is not installed.", remedy="Run 'pip install pyscf-dispersion'."
        ) from error
    molecule = gto.M(atom="H 0 0 0; H 0 0 1", basis="sto-3g", verbose=0)
    version = str(method.dispersion).removesuffix("atm")
    model: Any
    try:
        if version == "d4":
            model = dftd4.DFTD4Dispersion(molecule, xc=method.functional)
        else:
            model = dftd3.DFTD3Dispersion(molecule, xc=method.functional, version=version)
        model.get_dispersion()
    except RuntimeError as error:
        raise ConfigurationError(
            f"pyscf: there are no {DISPERSIONS[str(method.dispersion)]} parameters for '{method.functional}' "
            f"(setting '{name}'): {error}.",
            remedy="Take another correction or functional.",
        ) from error
