"""What a UPF file says about itself: valence, kind, functional, cutoffs it asks for, atomic wave functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from atomfoundry.units import RYDBERG

_FUNCTIONALS = {
    "PBE": "PBE",
    "SLA PW PBE PBE": "PBE",
    "SLA PW PBX PBC": "PBE",
    "PBESOL": "PBEsol",
    "SLA PW PSX PSC": "PBEsol",
    "PZ": "LDA",
    "LDA": "LDA",
    "SLA PZ NOGX NOGC": "LDA",
    "BLYP": "BLYP",
    "SLA B88 LYP BLYP": "BLYP",
    "REVPBE": "revPBE",
    "SLA PW RPB PBC": "revPBE",
    "SLA PW REVX PBC": "revPBE",
}


@dataclass(frozen=True)
class UpfHeader:
    """Header of a UPF 2 file; what it does not tell is None.

    Attributes
    ----------
    z_valence
        Valence electrons.
    augmented
        Whether it is ultrasoft or PAW, so that the density needs more than four times the cutoff.
    functional
        Name as the level of theory has it, e.g. ``"PBE"``.
    wfc_cutoff, rho_cutoff
        Cutoffs that its author suggests, eV.
    orbitals
        Labels of its atomic wave functions, e.g. ``{"4S", "3D"}``, upper case.
    """

    z_valence: float | None = None
    augmented: bool = False
    functional: str | None = None
    wfc_cutoff: float | None = None
    rho_cutoff: float | None = None
    orbitals: frozenset[str] = frozenset()


def read_header(path: Path) -> UpfHeader:
    """Read the header of a UPF file; a file that has none gives an empty one.

    Parameters
    ----------
    path
        The file.

    Returns
    -------
    UpfHeader
        What it says.
    """
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=256)
def _read(path: Path, changed: int) -> UpfHeader:
    text = path.read_text(errors="replace")
    start = text.find("<PP_HEADER")
    if start < 0:
        return UpfHeader()
    values = dict(re.findall(r"(\w+)\s*=\s*[\"']\s*([^\"']*?)\s*[\"']", text[start : text.find(">", start)]))
    words = " ".join(values.get("functional", "").replace("-", " ").replace("+", " ").split()).upper()
    charge = _real(values.get("z_valence"))
    return UpfHeader(
        z_valence=charge,
        augmented=_true(values.get("is_ultrasoft")) or _true(values.get("is_paw")),
        functional=_FUNCTIONALS.get(words, words or None),
        wfc_cutoff=(_real(values.get("wfc_cutoff")) or 0.0) * RYDBERG or None,
        rho_cutoff=(_real(values.get("rho_cutoff")) or 0.0) * RYDBERG or None,
        orbitals=frozenset(
            found[1].strip().upper()
            for chi in re.findall(r"<PP_CHI\.\d+([^>]*)>", text)
            if (found := re.search(r"label\s*=\s*[\"']([^\"']*)", chi))
        ),
    )


def _real(text: str | None) -> float | None:
    try:
        return float(text.upper().replace("D", "E")) if text else None
    except ValueError:
        return None


def _true(text: str | None) -> bool:
    return (text or "").strip(". ").upper() in ("T", "TRUE")
