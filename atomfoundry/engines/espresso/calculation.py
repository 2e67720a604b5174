"""One structure: write the input, run pw.x under custodian, read the result, keep what a next attempt can use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from atomfoundry.engines.espresso.density import family_key, fetch_density, keep_density, left_over, mark, own_key
from atomfoundry.engines.espresso.files import INPUT, OUTPUT
from atomfoundry.engines.espresso.inputs import PwSetup, pw_setup, write_input
from atomfoundry.engines.espresso.install import find_pw
from atomfoundry.engines.espresso.job import clean_scratch
from atomfoundry.engines.espresso.recovery import run_recovering
from atomfoundry.engines.espresso.results import read_results
from atomfoundry.engines.espresso.version import pw_version
from atomfoundry.errors import LabelError

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.base import SinglePoint
    from atomfoundry.engines.espresso.engine import EspressoEngine


def versioned_setup(engine: EspressoEngine, atoms: Atoms, *, order: str) -> PwSetup:
    """Return what the pw.x in use is told about a structure.

    Parameters
    ----------
    engine
        The settings.
    atoms
        The structure; never changed.
    order
        Arrangement of the starting moments.

    Raises
    ------
    EngineUnavailableError
        If the version matters and there is no pw.x.
    """
    version = pw_version(find_pw(engine.program)) if engine.hubbard_u else None
    return pw_setup(engine, atoms, version=version, order=order)


def compute(engine: EspressoEngine, atoms: Atoms, directory: Path, *, order: str, end_time: float) -> SinglePoint:
    """Compute one structure from one arrangement of starting moments.

    Parameters
    ----------
    engine
        The settings.
    atoms
        The structure; never changed.
    directory
        Existing folder for the files.
    order
        Arrangement of the starting moments.
    end_time
        Seconds since 1970 at which all attempts together must have ended.

    Returns
    -------
    SinglePoint
        Energy, forces and, where all three directions are periodic, stress.

    Raises
    ------
    LabelError
        If this one structure cannot be computed. When its time ran out, the charge density stays in the folder
        (and in ``engine.density_dir``), and a next attempt at the same structure begins with it.
    """
    setup = versioned_setup(engine, atoms, order=order)
    key = f"{own_key(atoms, engine.level.id)}-{order}"
    # A polarised or +U ground state could depend on where the cycle starts.
    unique = not setup.polarised and not engine.hubbard_u
    family = family_key(atoms, engine.level.id) if unique else None
    if _fetch_start(engine, directory, key, family):
        setup.namelists["electrons"].setdefault("startingpot", "file")
    write_input(setup, directory / INPUT)
    try:
        run_recovering(
            directory,
            find_pw(engine.program),
            formula=atoms.get_chemical_formula(),
            end_time=end_time,
            may_add_bands=bool(atoms.pbc.any()),
            max_corrections=engine.max_corrections,
        )
        result = read_results(
            directory / OUTPUT,
            stress=bool(atoms.pbc.all()),
            lone_atom=len(atoms) == 1 and not atoms.pbc.any(),
        )
    except LabelError as error:
        if error.reason == "timeout":
            mark(directory, key)
            clean_scratch(directory, density=False)
            if engine.density_dir:
                keep_density(directory, Path(engine.density_dir).expanduser(), key)
        elif not engine.keep_files:
            clean_scratch(directory)
        raise
    except BaseException:
        clean_scratch(directory)
        raise
    if engine.density_dir:
        store = Path(engine.density_dir).expanduser()
        shutil.rmtree(store / key, ignore_errors=True)
        if family:
            keep_density(directory, store, family)
    if not engine.keep_files:
        clean_scratch(directory)
    return result


def _fetch_start(engine: EspressoEngine, directory: Path, key: str, family: str | None) -> bool:
    """Put a density to start from into the scratch folder, if there is one."""
    if left_over(directory, key):
        return True
    clean_scratch(directory)
    if engine.density_dir is None:
        return False
    store = Path(engine.density_dir).expanduser()
    return fetch_density(store, key, directory) or (family is not None and fetch_density(store, family, directory))
