"""Molecules by name and by SMILES."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import numpy as np
from ase import Atoms

from atomfoundry.datasets import clean_frame, unique_frames, with_metadata
from atomfoundry.errors import ConfigurationError, StructureError


def molecules_by_name(names: Sequence[str] | str) -> list[Atoms]:
    """Return molecules of ASE's collection: the G2 set (MP2 geometries) and some more.

    Parameters
    ----------
    names
        E.g. ``"CH3CH2OH"`` or ``["H2O", "C60"]``.

    Returns
    -------
    list of ase.Atoms
        Not periodic. Radicals and triplets have their ``spin_multiplicity``; elsewhere it is left to the engine.

    Raises
    ------
    StructureError
        If there is no such molecule; the message names similar ones.
    """
    from difflib import get_close_matches

    from ase.build import molecule
    from ase.build.molecule import extra
    from ase.collections import g2

    known = [*g2.names, *extra]
    frames = []
    for name in [names] if isinstance(names, str) else names:
        if name not in known:
            near = get_close_matches(name, known, n=5, cutoff=0.4)
            raise StructureError(
                f"There is no molecule '{name}'.",
                remedy=f"Similar ones: {', '.join(near)}." if near else "Use SMILES or a file.",
            )
        atoms = molecule(name)
        unpaired = round(abs(float(atoms.get_initial_magnetic_moments().sum())))
        frames.append(
            with_metadata(
                clean_frame(atoms),
                source=f"molecule:{name}",
                group_id=name,
                spin_multiplicity=unpaired + 1 if unpaired else None,
            )
        )
    return unique_frames(frames)


def _rdkit() -> tuple[Any, Any]:
    # By name: RDKit is an extra, and what is no dependency must not look like one.
    try:
        return import_module("rdkit.Chem"), import_module("rdkit.Chem.AllChem")
    except ImportError as error:
        raise ConfigurationError(
            "SMILES need RDKit, which is not installed.", remedy="Install it with: pip install 'atomfoundry[smiles]'."
        ) from error


def molecules_by_smiles(
    smiles: Sequence[str] | str, *, n_conformers: int = 1, seed: int = 0, optimize: bool = True
) -> list[Atoms]:
    """Return conformers of molecules given by SMILES, hydrogen atoms added.

    Parameters
    ----------
    smiles
        E.g. ``"CCO"`` or ``["c1ccccc1", "[NH4+]"]``.
    n_conformers
        Of each molecule, by distance geometry (ETKDG); equal ones count once.
    seed
        Of the embedding.
    optimize
        Relax with MMFF94; where it lacks parameters that is an error.

    Returns
    -------
    list of ase.Atoms
        Not periodic, with ``charge`` and, for radicals, ``spin_multiplicity``; conformers of one molecule are one
        group, its canonical SMILES.

    Raises
    ------
    ConfigurationError
        If RDKit (the extra ``smiles``) is not installed.
    StructureError
        If a SMILES is wrong, or no geometry is found.
    """
    chem, all_chem = _rdkit()
    if n_conformers < 1:
        raise StructureError(f"{n_conformers} conformers are not possible.", remedy="Give n_conformers >= 1.")
    import_module("rdkit.RDLogger").DisableLog("rdApp.*")
    # RDKit multiplies its seed with the number of the conformer: with 0 all would be the same one.
    embedding = int(np.random.default_rng(seed).integers(1, 2**31 - 1))
    frames = []
    for text in [smiles] if isinstance(smiles, str) else smiles:
        parsed = chem.MolFromSmiles(text) if text.strip() else None
        if parsed is None:
            raise StructureError(f"'{text}' is no valid SMILES.", remedy="Check valences, brackets and ring numbers.")
        molecule = chem.AddHs(parsed)
        if len(all_chem.EmbedMultipleConfs(molecule, numConfs=n_conformers, randomSeed=embedding)) == 0:
            raise StructureError(f"No geometry found for '{text}'.", remedy="Give a file instead.")
        if optimize and molecule.GetNumAtoms() > 1:
            if not all_chem.MMFFHasAllMoleculeParams(molecule):
                raise StructureError(
                    f"MMFF94 has no parameters for '{text}'.", remedy="Use optimize=False and relax with an engine."
                )
            all_chem.MMFFOptimizeMoleculeConfs(molecule, maxIters=2000)
        unpaired = sum(atom.GetNumRadicalElectrons() for atom in molecule.GetAtoms())
        name = chem.MolToSmiles(parsed)
        numbers = [atom.GetAtomicNum() for atom in molecule.GetAtoms()]
        for conformer in molecule.GetConformers():
            frames.append(
                with_metadata(
                    Atoms(numbers, positions=np.asarray(conformer.GetPositions())),
                    source=f"smiles:{name}",
                    group_id=f"smiles:{name}",
                    charge=int(chem.GetFormalCharge(molecule)),
                    spin_multiplicity=unpaired + 1 if unpaired else None,
                )
            )
    return unique_frames(frames)
