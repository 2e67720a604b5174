"""Charge densities that are kept, so that a later cycle starts from them instead of from atoms.

pw.x stores the density by Miller indices: read into a strained cell it is strained along, and waves that the other
cell does not have are left out. So any cell of the same composition can start from it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.engines.espresso.files import SAVE, SCRATCH

if TYPE_CHECKING:
    from ase import Atoms

_PARTS = ("charge-density.*", "paw.txt", "occup.txt")
_MARK = "density_of"


def family_key(atoms: Atoms, level_id: str) -> str:
    """Return a name shared by structures that can start from one another's density.

    Parameters
    ----------
    atoms
        The structure: its group (or, without one, its composition), species and periodicity.
    level_id
        Level of theory.
    """
    parts = [level_id, str(atoms.info.get("group_id", "")), sorted(atoms.get_chemical_symbols()), atoms.pbc.tolist()]
    return "family-" + hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def own_key(atoms: Atoms, level_id: str) -> str:
    """Return the name of one structure's own density.

    Parameters
    ----------
    atoms
        The structure.
    level_id
        Level of theory.
    """
    from atomfoundry.datasets import frame_id

    return "frame-" + hashlib.sha256(f"{level_id} {frame_id(atoms)}".encode()).hexdigest()[:24]


def left_over(directory: Path, key: str) -> bool:
    """Tell whether a folder still holds the density of an attempt at the same structure that ran out of time.

    Parameters
    ----------
    directory
        Where the attempt ran.
    key
        From ``own_key``.
    """
    mark = directory / SCRATCH / _MARK
    return mark.is_file() and mark.read_text() == key and any((directory / SCRATCH / SAVE).glob(_PARTS[0]))


def mark(directory: Path, key: str) -> None:
    """Say whose density the scratch folder holds.

    Parameters
    ----------
    directory
        Where the attempt ran.
    key
        From ``own_key``.
    """
    if (directory / SCRATCH).is_dir():
        (directory / SCRATCH / _MARK).write_text(key)


def keep_density(directory: Path, store: Path, key: str) -> bool:
    """Put the density of a run into a folder of densities, whole or not at all.

    Parameters
    ----------
    directory
        Where the run was.
    store
        Folder of densities, made if missing.
    key
        Its name there; an older one is replaced.

    Returns
    -------
    bool
        Whether there was one.
    """
    parts = _parts(directory / SCRATCH / SAVE)
    if not parts:
        return False
    store.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".density-", dir=store) as name:
        new, old = Path(name) / "new", Path(name) / "old"
        new.mkdir()
        for part in parts:
            shutil.copy2(part, new / part.name)
        try:
            if (store / key).exists():
                (store / key).rename(old)
            new.rename(store / key)
        except OSError:
            # another process put the same one there, between the two steps
            return (store / key).is_dir()
    return True


def fetch_density(store: Path, key: str, directory: Path) -> bool:
    """Put a kept density where pw.x looks for it.

    Parameters
    ----------
    store
        Folder of densities.
    key
        Its name there.
    directory
        Where pw.x will run.

    Returns
    -------
    bool
        Whether there was one.
    """
    parts = _parts(store / key)
    if not parts:
        return False
    target = directory / SCRATCH / SAVE
    target.mkdir(parents=True, exist_ok=True)
    try:
        for part in parts:
            shutil.copy2(part, target / part.name)
    except OSError:
        # another process is replacing it: start from atoms
        shutil.rmtree(directory / SCRATCH, ignore_errors=True)
        return False
    return True


def _parts(folder: Path) -> list[Path]:
    found = [path for pattern in _PARTS for path in sorted(folder.glob(pattern))]
    return found if any(path.name.startswith("charge-density") for path in found) else []
