"""The level of theory as an output states it. What is not stated beyond doubt is unknown, never guessed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines.vasp.names import DISPERSION, GGA, META
from atomfoundry.units import HARTREE, RYDBERG

_VASP_GGA = GGA | {"B3": "B3LYP", "B5": "B3LYP5"}
_VASP_META = META | {"R2SCA": "r2SCAN"}
"""OUTCAR prints five letters."""
_VASP_FAMILY = {"PAW_PBE": "PBE", "PAW_GGA": "PW91", "PAW": "LDA"}


def _text(value: Any) -> str:
    return str(value if value is not None else "").strip().strip(";").upper()


def _true(value: Any) -> bool:
    return value is True or _text(value).strip(".") in ("T", "TRUE")


def _number(value: Any, default: float) -> float:
    try:
        return float(str(value).strip().strip(";"))
    except ValueError:
        return default


def vasp_level(tags: Mapping[str, Any], titles: Iterable[str], *, post_scf: bool = False) -> LevelOfTheory | str:
    """Name the level of a VASP run.

    Parameters
    ----------
    tags
        INCAR tags and defaults, as the output prints them.
    titles
        TITEL of each POTCAR, e.g. ``PAW_PBE Si 05Jan2001``.
    post_scf
        The final energy differs from the last electronic step's: a correction was added that ``tags`` may not name.

    Returns
    -------
    LevelOfTheory or str
        The level, or why it has no name.
    """
    families = sorted({title.split()[0] for title in titles if title.split()})
    functional = _vasp_functional(tags, families)
    if not isinstance(functional, tuple):
        return functional
    method, extra = functional
    dispersion = None
    ivdw = int(_number(tags.get("IVDW"), 0))
    if ivdw:
        dispersion = DISPERSION.get(ivdw, f"IVDW={ivdw}")
    elif _true(tags.get("LUSE_VDW")):
        strength = tags.get("ZAB_VDW", tags.get("Zab_VDW"))
        dispersion = "nonlocal" if strength is None else f"nonlocal (Zab_vdW={_number(strength, 0):g})"
    elif post_scf:
        dispersion = "a post-SCF correction the output does not name"
    hubbard = tags.get("hubbard_u") or None
    if _true(tags.get("LSORBIT")):
        spin = "spin-orbit"
    elif _true(tags.get("LNONCOLLINEAR")):
        spin = "noncollinear"
    else:
        spin = "polarised" if int(_number(tags.get("ISPIN"), 1)) == 2 else "none"
    cutoff = _number(tags.get("ENMAX", tags.get("ENCUT")), 0.0)
    if not cutoff:
        return "the output names no plane-wave cutoff"
    return LevelOfTheory(
        code="vasp",
        method=method,
        # VASP rounds what it prints in different places differently.
        cutoff=round(cutoff, 1),
        pseudopotentials=" + ".join(families) or None,
        smearing=f"ISMEAR={int(_number(tags.get('ISMEAR'), 1))} SIGMA={_number(tags.get('SIGMA'), 0.2):g}",
        dispersion=dispersion,
        hubbard_u=hubbard,
        spin=spin,
        extra=extra,
    )


def _vasp_functional(tags: Mapping[str, Any], families: list[str]) -> tuple[str, dict[str, Any]] | str:
    extra: dict[str, Any] = {}
    meta, gga = _text(tags.get("METAGGA")), _text(tags.get("GGA"))
    if meta not in ("", "--", "NONE", "F", "FALSE", ".FALSE."):
        method = _VASP_META.get(meta)
        if method is None:
            return f"METAGGA = {meta} is no functional we know"
    elif gga == "--":
        bases = {_VASP_FAMILY.get(family) for family in families}
        method = bases.pop() if len(bases) == 1 else None
        if method is None:
            return f"the functional is left to the pseudopotentials, which are {', '.join(families) or 'not named'}"
    elif gga in _VASP_GGA:
        method = _VASP_GGA[gga]
    else:
        return f"GGA = {gga} is no functional we know" if gga else "the output names no functional"
    if _true(tags.get("LHFCALC")):
        exchange, screening = _number(tags.get("AEXX"), 0.25), _number(tags.get("HFSCREEN"), 0.0)
        names = {("PBE", 0.25, 0.2): "HSE06", ("PBE", 0.25, 0.3): "HSE03", ("PBE", 0.25, 0.0): "PBE0"}
        names[("PBEsol", 0.25, 0.2)] = "HSEsol"
        key = (method, round(exchange, 4), round(screening, 2))
        if key in names:
            method = names[key]
        else:
            extra = {"exact_exchange": exchange, "screening": screening}
            method = method if method.startswith("B3LYP") else f"{method} hybrid"
    return method, extra


_ESPRESSO = {
    "PBE": "PBE",
    "PW+PBX+PBC": "PBE",
    "SLA+PW+PBX+PBC": "PBE",
    "PBESOL": "PBEsol",
    "SLA+PW+PSX+PSC": "PBEsol",
    "LDA": "LDA",
    "PZ": "LDA",
    "SLA+PZ+NOGX+NOGC": "LDA",
    "REVPBE": "revPBE",
    "SLA+PW+RPB+PBC": "revPBE",
    "BLYP": "BLYP",
    "SLA+B88+LYP+BLYP": "BLYP",
    "RVV10": "rVV10",
    "VDW-DF": "vdW-DF",
    "VDW-DF2": "vdW-DF2",
    "SCAN": "SCAN",
    "R2SCAN": "r2SCAN",
    "HSE": "HSE06",
    "PBE0": "PBE0",
    "B3LYP": "B3LYP",
}


def espresso_level(
    functional: str,
    cutoff_ry: float | None,
    density_cutoff_ry: float | None,
    *,
    smearing: str | None = None,
    dispersion: str | None = None,
    hubbard_u: dict[str, float] | None = None,
    spin: str = "none",
) -> LevelOfTheory | str:
    """Name the level of a pw.x run; ``functional`` is what it prints, cutoffs are in Rydberg."""
    # The name, without the numbers in brackets behind it.
    words = functional.split("(")[0].upper().replace("-NOGX", " NOGX").split()
    method = _ESPRESSO.get("+".join(words))
    if method is None:
        return f"'{functional.strip()}' is no functional we know" if words else "the output names no functional"
    if not cutoff_ry:
        return "the output names no plane-wave cutoff"
    return LevelOfTheory(
        code="espresso",
        method=method,
        cutoff=round(cutoff_ry * RYDBERG, 3),
        density_cutoff=round(density_cutoff_ry * RYDBERG, 3) if density_cutoff_ry else None,
        smearing=smearing,
        dispersion=dispersion,
        hubbard_u=hubbard_u or None,
        spin=spin,
    )


_OTHER: dict[str, dict[str, str]] = {
    "fhi-aims": {
        "pw-lda": "LDA",
        "pz-lda": "LDA",
        "vwn": "LDA",
        "pbe": "PBE",
        "pbesol": "PBEsol",
        "rpbe": "RPBE",
        "revpbe": "revPBE",
        "blyp": "BLYP",
        "am05": "AM05",
        "pbe0": "PBE0",
        "b3lyp": "B3LYP",
        "hse06": "HSE06",
        "scan": "SCAN",
        "r2scan": "r2SCAN",
        "tpss": "TPSS",
    },
    "castep": {
        "local density approximation": "LDA",
        "perdew burke ernzerhof": "PBE",
        "pbe for solids (2008)": "PBEsol",
        "perdew wang (1991)": "PW91",
        "revised perdew burke ernzerhof": "RPBE",
        "rscan": "rSCAN",
        "r2scan": "r2SCAN",
        "scan": "SCAN",
        "hse06": "HSE06",
        "pbe0": "PBE0",
    },
    "abinit": {
        "1": "LDA",
        "2": "LDA",
        "7": "LDA",
        "11": "PBE",
        "14": "revPBE",
        "15": "RPBE",
        "-101130": "PBE",
        "-116133": "PBEsol",
        "-1012": "LDA",
        "-1007": "LDA",
        "-263267": "SCAN",
        "-497498": "r2SCAN",
    },
    "cp2k": {"PBE": "PBE", "PADE": "LDA", "BLYP": "BLYP", "BP": "BP", "TPSS": "TPSS", "PBESOL": "PBEsol"},
    "gpaw": {
        "LDA": "LDA",
        "PBE": "PBE",
        "PBESOL": "PBEsol",
        "RPBE": "RPBE",
        "REVPBE": "revPBE",
        "BLYP": "BLYP",
        "PW91": "PW91",
    },
    "orca": {
        "pbe": "PBE",
        "pbe0": "PBE0",
        "blyp": "BLYP",
        "bp86": "BP86",
        "b3lyp": "B3LYP",
        "tpss": "TPSS",
        "r2scan": "r2SCAN",
        "r2scan-3c": "r2SCAN-3c",
        "b97-3c": "B97-3c",
        "pbeh-3c": "PBEh-3c",
        "wb97x": "wB97X",
        "wb97x-d3": "wB97X-D3",
        "wb97x-d3bj": "wB97X-D3(BJ)",
        "wb97x-d4": "wB97X-D4",
        "wb97x-v": "wB97X-V",
        "wb97m-v": "wB97M-V",
        "wb97m-d3bj": "wB97M-D3(BJ)",
        "wb97m-d4": "wB97M-D4",
        "m06-2x": "M06-2X",
        "hf": "HF",
        "mp2": "MP2",
        "ri-mp2": "RI-MP2",
        "ccsd(t)": "CCSD(T)",
        "dlpno-ccsd(t)": "DLPNO-CCSD(T)",
    },
}


def named_level(code: str, functional: str, **fields: Any) -> LevelOfTheory | str:
    """Name the level of another code by its own word for the functional.

    Parameters
    ----------
    code
        ``fhi-aims``, ``castep``, ``abinit``, ``cp2k``, ``gpaw`` or ``orca``.
    functional
        As the output prints it.
    **fields
        Further fields of ``LevelOfTheory``.
    """
    method = _OTHER[code].get(functional.strip())
    if method is None:
        return f"'{functional.strip()}' is no functional we know" if functional.strip() else "no functional is named"
    return LevelOfTheory(code=code, method=method, **fields)


def hartree_cutoff(value: float | None) -> float | None:
    """Turn a cutoff in Hartree into eV."""
    return None if value is None else round(value * HARTREE, 3)
