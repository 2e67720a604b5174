"""Which pseudopotential files Quantum ESPRESSO gets."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from atomfoundry.engines.espresso.install import psp8_folder
from atomfoundry.engines.espresso.upf import cached_upf
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.settings import settings
from atomfoundry.units import RYDBERG

FAMILY = "SPMS-PBE-v1.0"
"""ONCV pseudopotentials of M. F. Shojaei et al., Comput. Phys. Commun. 283, 108594 (2023)."""

# Elements of the family; a test compares this with the installed files.
_SPMS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb "
    "Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi"
)
SPMS_ELEMENTS = frozenset(_SPMS.split())


def family_name() -> str:
    """Return the name of the pseudopotentials in use, as the level of theory records it.

    Own files are named by their content too: the same folder with other files is another level.
    """
    own = own_upf_files()
    if own is None:
        return FAMILY
    digest = hashlib.sha256()
    for element, path in sorted(own.items()):
        digest.update(f"{element} {_file_hash(path, path.stat().st_mtime_ns)}\n".encode())
    return f"UPF-{digest.hexdigest()[:12]}"


@lru_cache(maxsize=256)
def _file_hash(path: Path, changed: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


_OTHER_NAME = re.compile(r"([A-Za-z]{1,2})[_-]")
"""How libraries such as SSSP name some of their files, ``ag_ONCV_PBE-1.0.oncvpsp.upf``."""

MINIMUM_CUTOFFS = {"H": 20 * RYDBERG, "Si": 16 * RYDBERG}
"""Lowest useful cutoffs of SPMS elements, eV, as measured: silicon's equation of state is smooth to 1 meV
at 16 Ry and 0.3 meV at 20 Ry; silane's atomization energy is 0.2 eV low at 20 Ry and 0.06 eV at 30 Ry,
against 40 Ry."""

UNMEASURED_CUTOFF = 60 * RYDBERG
"""What every other element asks for: oxides and fluorides of the family need 60 to 90 Ry."""


def minimum_cutoff(elements: Iterable[str]) -> float:
    """Return the lowest cutoff that all elements can bear, eV.

    Parameters
    ----------
    elements
        Chemical symbols. Own pseudopotentials are their user's affair: 0.
    """
    if own_upf_files() is not None:
        return 0.0
    return max((MINIMUM_CUTOFFS.get(element, UNMEASURED_CUTOFF) for element in elements), default=0.0)


def own_upf_files() -> dict[str, Path] | None:
    """Return the user's UPF files by element, or None without the setting ``espresso_pseudo_dir``.

    Raises
    ------
    EngineUnavailableError
        If the folder is missing.
    """
    folder = settings().espresso_pseudo_dir
    if folder is None:
        return None
    folder = folder.expanduser()
    if not folder.is_dir():
        raise EngineUnavailableError(
            f"The pseudopotential folder {folder} does not exist.",
            remedy="Correct ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR, or unset it to use the SPMS family.",
        )
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".upf")
    dotted = {path.name.split(".")[0].capitalize(): path for path in reversed(files)}
    others = {found[1].capitalize(): path for path in reversed(files) if (found := _OTHER_NAME.match(path.name))}
    return others | dotted


def supported_elements() -> set[str]:
    """Return the elements with a pseudopotential, known without any installation for the SPMS family."""
    own = own_upf_files()
    return set(SPMS_ELEMENTS) if own is None else set(own)


def upf_files(elements: Iterable[str]) -> dict[str, Path]:
    """Return the UPF files of elements, converted when needed.

    Parameters
    ----------
    elements
        Chemical symbols.

    Returns
    -------
    dict of str to Path
        All in one folder.

    Raises
    ------
    EngineUnavailableError
        If the pseudopotentials, or one element's, are not there.
    """
    wanted = sorted(set(elements))
    own = own_upf_files()
    folder = psp8_folder() if own is None else settings().espresso_pseudo_dir
    if own is None:
        if folder is None:
            raise EngineUnavailableError(
                "The SPMS pseudopotentials are not installed.",
                remedy="Run 'atomfoundry engine install espresso', or name a folder of UPF files in "
                "ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR, or use '--engine xtb'.",
            )
        sources = {path.name.split("_")[1]: path for path in sorted(folder.glob("*.psp8"))}
    else:
        sources = own
    missing = [element for element in wanted if element not in sources]
    if missing:
        raise EngineUnavailableError(
            f"No pseudopotential for {', '.join(missing)} in {folder}.",
            remedy="Add the files, or leave these elements out.",
        )
    if own is not None:
        return {element: own[element] for element in wanted}
    cache = settings().home_dir / "pseudopotentials" / FAMILY
    return {element: cached_upf(sources[element], cache) for element in wanted}
