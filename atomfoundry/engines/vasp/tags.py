"""INCAR tags: which of them choose the energy surface, and what the functionals they name are called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from atomfoundry.engines.vasp.names import DISPERSION, GGA, META

_PARALLELISM = "NCORE NPAR KPAR NSIM LPLANE LSCALAPACK LSCALU NBLK LASYNC NOMEGAPAR NTAUPAR MAXMEM"
_SEARCH = """
ALGO IALGO ISEARCH TIME NELM NELMIN NELMDL EDIFF AMIX BMIX AMIX_MAG BMIX_MAG AMIN IMIX MAXMIX WC INIMIX MIXPRE
MIXFREEMIX LMIXTAU LMAXMIX LDIAG LSUBROT EBREAK DEPER NRMM WEIMIN LFOCKACE ISTART ICHARG INIWAV NBANDS ISYM SYMPREC
"""
_OUTPUT = """
LWAVE LCHARG LAECHG LVTOT LVHAR LELF LORBIT NEDOS EMIN EMAX NWRITE LH5 LWAVEH5 LCHARGH5 SYSTEM LPARD LDAUPRINT
"""
_MOTION = "NSW IBRION ISIF POTIM EDIFFG NFREE NBLOCK KBLOCK IOPT"

COST_ONLY = frozenset(" ".join([_PARALLELISM, _SEARCH, _OUTPUT, _MOTION]).split())
"""Tags that change cost, convergence and output, never the surface; every tag that is not here belongs to the level.

``EDIFF`` is among them as the tolerance of a self-consistency cycle is for every engine. ``ISYM`` and ``SYMPREC``
choose which of the equivalent k-points are computed.
"""

_HYBRIDS = {
    ("PBE", 0.25, 0.2): "HSE06",
    ("PBE", 0.25, 0.3): "HSE03",
    ("PBE", 0.25, 0.0): "PBE0",
    ("PBEsol", 0.25, 0.2): "HSEsol",
}


def functional_name(tags: Mapping[str, Any], *, potcar_functional: str) -> str:
    """Name the functional of a set of INCAR tags as the harvest names it.

    Parameters
    ----------
    tags
        INCAR tags, upper case.
    potcar_functional
        Functional of the POTCARs, e.g. ``PBE_54``: VASP takes it where no tag names one.

    Returns
    -------
    str
        E.g. ``PBE``, ``r2SCAN``, ``HSE06``; a functional without a common name is called by its tags.
    """
    meta, gga = _text(tags.get("METAGGA")), _text(tags.get("GGA"))
    if meta not in ("", "--", "NONE", "FALSE"):
        method = META.get(meta, f"METAGGA={meta}")
    elif gga not in ("", "--"):
        method = GGA.get(gga, f"GGA={gga}")
    else:
        method = potcar_functional.split("_")[0]
    if tags.get("LHFCALC"):
        key = (method, round(float(tags.get("AEXX", 0.25)), 4), round(float(tags.get("HFSCREEN", 0.0)), 2))
        method = _HYBRIDS.get(key, f"{method} hybrid {key[1]:g} {key[2]:g}")
    return method


def dispersion_name(tags: Mapping[str, Any]) -> str | None:
    """Name the dispersion correction, as the harvest names it; None where there is none."""
    if kind := int(tags.get("IVDW", 0)):
        return DISPERSION.get(kind, f"IVDW={kind}")
    if tags.get("LUSE_VDW"):
        strength = tags.get("ZAB_VDW")
        return "nonlocal" if strength is None else f"nonlocal (Zab_vdW={float(strength):g})"
    return None


def spin_name(tags: Mapping[str, Any]) -> str:
    """Name how spin is treated, as the harvest names it."""
    if tags.get("LSORBIT"):
        return "spin-orbit"
    if tags.get("LNONCOLLINEAR"):
        return "noncollinear"
    return "polarised" if int(tags.get("ISPIN", 1)) == 2 else "none"


def surface_tags(tags: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tags that choose the energy surface, upper case, without those that only start a calculation."""
    named = {key.upper(): value for key, value in tags.items()}
    return {key: value for key, value in sorted(named.items()) if key not in COST_ONLY}


def _text(value: Any) -> str:
    return str(value if value is not None else "").strip().upper()
