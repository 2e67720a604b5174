"""A model as a folder that LAMMPS can use: plugin, model file, an input that runs, and a README."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from atomfoundry.errors import ModelError
from atomfoundry.models.calculator import default_head
from atomfoundry.models.kernel.exported import exported_sources, write_exported
from atomfoundry.models.lammps.installation import LammpsInstallation, find_lammps
from atomfoundry.models.lammps.plugin import PLUGIN, compile_plugin

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.models.allegro.model import Allegro

MODEL_FILE = "model.foundry"
EXAMPLE_ELEMENTS = 8
"""Of a model that knows more elements, the made-up crystal of the example takes the first."""


def export_lammps(
    model: Allegro | str | Path,
    folder: str | Path,
    head: str | None = None,
    *,
    structure: Atoms | None = None,
    lammps: LammpsInstallation | None = None,
) -> Path:
    """Write a folder with all that LAMMPS needs to use a model.

    ``pair_style foundry`` is compiled together with the kernel of the model's shape into ``foundry.so``, which LAMMPS
    loads with ``plugin load``; one that was compiled before is taken again. It runs on processors like this machine's.

    Parameters
    ----------
    model
        A model, or the folder of one.
    folder
        Made if it is not there; files of an earlier export are replaced.
    head
        Readout head of the example, and of inputs that name none; default ``"ft"`` if the model has it, else its
        first.
    structure
        What ``in.example`` starts from; default: a small made-up crystal of the head's elements.
    lammps
        What to compile for; default: :func:`find_lammps`.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    EngineUnavailableError
        If there are no headers of LAMMPS or MPI.
    ModelError
        If there is no such model or head, the structure has other elements, the kernel does not know such models, or
        there is no compiler.
    """
    from atomfoundry.models.allegro.model import Allegro
    from atomfoundry.models.io import load_model

    if not isinstance(model, Allegro):
        model = load_model(model)
    head = default_head(model.config) if head is None else head
    known = _elements_of(model, head)
    if structure is None:
        structure = made_up_crystal(known[:EXAMPLE_ELEMENTS])
    elements = sorted(set(structure.get_chemical_symbols()), key=structure.get_chemical_symbols().index)
    if not set(elements) <= set(known):
        raise ModelError(
            f"Head '{head}' of the model does not know {', '.join(sorted(set(elements) - set(known)))}, "
            f"an element of the structure; it knows {', '.join(known)}.",
            remedy="Use another head or structure.",
        )
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; LAMMPS gets a folder.", remedy="Choose another path.")
    lammps = lammps or find_lammps()
    plugin = compile_plugin(exported_sources(model), lammps)
    folder.mkdir(parents=True, exist_ok=True)
    words = {
        "boundary": " ".join("p" if periodic else "s" for periodic in structure.pbc),
        "cutoff": model.config.cutoff,
        "default_head": head,
        "elements": elements,
        "head": head,
        "heads": [each.name for each in model.config.heads],
        "known": known,
        "model": MODEL_FILE,
        "plugin": PLUGIN,
        "version": lammps.version,
    }
    _replace(folder / PLUGIN, plugin.read_bytes())
    write_exported(model, folder / MODEL_FILE, default_head=head)
    _replace(folder / "structure.data", _lammps_data(structure, elements, vacuum=model.config.cutoff).encode())
    for name in ("in.example", "README.txt"):
        _replace(folder / name, _rendered(name, words).encode())
    return folder


def made_up_crystal(elements: Sequence[str]) -> Atoms:
    """Return a face-centred cubic crystal of 108 sites, taken by the elements at random (seed 0).

    Neighbours are as far apart as the elements' mean covalent radii say: a start for a test, no material.
    """
    from ase.build import bulk
    from ase.data import atomic_numbers, covalent_radii

    distance = 2.2 * float(np.mean([covalent_radii[atomic_numbers[symbol]] for symbol in elements]))
    atoms = bulk("Cu", "fcc", a=distance * np.sqrt(2), cubic=True) * (3, 3, 3)
    atoms.symbols[:] = np.random.default_rng(0).permutation(np.resize(list(elements), len(atoms)))
    order = [list(elements).index(symbol) for symbol in atoms.symbols]
    return atoms[np.argsort(order, kind="stable")]


def _elements_of(model: Allegro, head: str) -> list[str]:
    """Return the elements that the head has energies for, in the model's order."""
    energies = model.config.heads[model.head_index(head)].isolated_energies
    return [name for name in model.config.type_names if not energies or name in energies]


def _lammps_data(structure: Atoms, elements: Sequence[str], *, vacuum: float) -> str:
    """Write a data file; directions that are not periodic get room around the atoms."""
    from ase.io.lammpsdata import write_lammps_data

    atoms = structure.copy()
    axes = [axis for axis in range(3) if not atoms.pbc[axis]]
    if axes:
        atoms.center(vacuum=vacuum, axis=axes)
    out = io.StringIO()
    write_lammps_data(out, atoms, specorder=list(elements), masses=True, units="metal", atom_style="atomic")
    return out.getvalue()


def _rendered(name: str, words: Mapping[str, Any]) -> str:
    from jinja2 import Environment, StrictUndefined

    text = (resources.files("atomfoundry.models.lammps") / "templates" / name).read_text(encoding="utf-8")
    # an input file and C++, no HTML
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)  # nosec B701
    return environment.from_string(text).render(words)


def _replace(target: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all; a running LAMMPS keeps the old one."""
    scratch = target.with_name(f".{target.name}.{os.getpid()}")
    scratch.write_bytes(content)
    scratch.replace(target)
