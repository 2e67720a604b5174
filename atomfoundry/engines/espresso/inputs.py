"""What pw.x is told about one structure, and its input file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.engines.espresso.cell import boxed, kpoint_grid
from atomfoundry.engines.espresso.files import SCRATCH
from atomfoundry.engines.espresso.hubbard import check_orbitals, hubbard_input
from atomfoundry.engines.espresso.magnetism import spin_fractions, starting_moments
from atomfoundry.engines.espresso.occupations import electron_settings, valence_charge
from atomfoundry.engines.espresso.protocols import SMEARINGS
from atomfoundry.engines.espresso.pseudopotentials import upf_files
from atomfoundry.units import RYDBERG

if TYPE_CHECKING:
    from ase import Atoms

    from atomfoundry.engines.espresso.engine import EspressoEngine

MOLECULE_MIXING = 0.4
"""Largest mixing factor where a box has vacuum."""

D3_VERSIONS = {"D3(0)": 3, "D3(BJ)": 4}
"""Damping of S. Grimme et al., J. Chem. Phys. 132, 154104 (2010) and J. Comput. Chem. 32, 1456 (2011)."""


@dataclass(frozen=True)
class PwSetup:
    """One structure as pw.x is to compute it.

    Attributes
    ----------
    structure
        Periodic in all directions; its initial moments are parts of the valence electrons.
    files
        Element -> pseudopotential.
    grid
        k-points; None for real wave functions at Gamma.
    shift
        1 where the grid is moved by half a step.
    namelists
        Sections and their keywords.
    cards
        Further lines.
    """

    structure: Atoms
    files: dict[str, Path]
    grid: tuple[int, int, int] | None
    shift: tuple[int, int, int]
    namelists: dict[str, dict[str, Any]]
    cards: list[str] = field(default_factory=list)

    @property
    def polarised(self) -> bool:
        """Whether there are two spins."""
        return self.namelists["system"].get("nspin", 1) == 2


def pw_setup(
    engine: EspressoEngine, atoms: Atoms, *, version: tuple[int, int] | None = None, order: str = "ferromagnetic"
) -> PwSetup:
    """Return what pw.x is told about a structure.

    Parameters
    ----------
    engine
        The settings.
    atoms
        The structure; never changed.
    version
        Version of pw.x; only U asks for it.
    order
        Arrangement of the starting moments, where spins are collinear.

    Returns
    -------
    PwSetup
        Ready to be written.
    """
    files = upf_files(atoms.get_chemical_symbols())
    collinear = engine.spin == "collinear"
    moments = starting_moments(atoms, engine.magnetic_moments, order=order) if collinear else None
    system = electron_settings(
        atoms,
        files,
        smearing_ry=engine.smearing / RYDBERG,
        smearing=SMEARINGS[engine.smearing_kind],
        empty_bands=engine.empty_bands,
        spin=engine.spin,
        moments=moments,
    )
    periodic = bool(atoms.pbc.all())
    structure = boxed(atoms, vacuum=engine.vacuum)
    # The structure's own moments are no part of its identity; "collinear" is where they are asked for.
    structure.set_initial_magnetic_moments(None)
    if moments is not None and "tot_magnetization" not in system and "nspin" in system:
        if any(moments):
            valences = [float(valence_charge(files[symbol])) for symbol in atoms.get_chemical_symbols()]
            structure.set_initial_magnetic_moments(spin_fractions(moments, valences))
        else:
            del system["nspin"]
    elif "nspin" in system:
        structure.set_initial_magnetic_moments([system["tot_magnetization"] / len(atoms)] * len(atoms))
    cards: list[str] = []
    if engine.hubbard_u:
        check_orbitals(engine.hubbard_u, files)
        told, cards = hubbard_input(
            engine.hubbard_u,
            species_labels(structure, polarised="nspin" in system),
            projectors=engine.hubbard_projectors,
            version=version or (7, 2),
        )
        system |= told
    if engine.dispersion:
        version_number = D3_VERSIONS[engine.dispersion]
        system |= {"vdw_corr": "grimme-d3", "dftd3_version": version_number, "dftd3_threebody": False}
    grid = _grid(engine, atoms)
    # pw.x makes real wave functions at Gamma, half the cost of a complex (1, 1, 1).
    gamma = not atoms.pbc.any() and "nosym" not in system
    return PwSetup(
        structure=structure,
        files=files,
        grid=None if gamma else grid,
        shift=tuple(int(engine.kpoint_shift and n > 1) for n in grid),  # type: ignore[arg-type]
        namelists=_namelists(engine, len(atoms), system, periodic=periodic),
        cards=cards,
    )


def _grid(engine: EspressoEngine, atoms: Atoms) -> tuple[int, int, int]:
    if engine.kpoints is None:
        return kpoint_grid(atoms, spacing=engine.kpoint_spacing)
    pairs = zip(engine.kpoints, atoms.pbc, strict=True)
    return tuple(n if periodic else 1 for n, periodic in pairs)  # type: ignore[return-value]


def _namelists(engine: EspressoEngine, n_atoms: int, system: dict[str, Any], *, periodic: bool) -> dict[str, Any]:
    beta = engine.mixing_beta
    if not periodic and "nosym" not in system:
        beta = min(beta, MOLECULE_MIXING)
    cutoffs = {"ecutwfc": engine.cutoff / RYDBERG}
    if engine.density_cutoff != 4 * engine.cutoff:
        cutoffs["ecutrho"] = engine.density_cutoff / RYDBERG
    data: dict[str, dict[str, Any]] = {
        "control": {
            "calculation": "scf",
            "tprnfor": True,
            "tstress": periodic,
            "outdir": SCRATCH,
            # An energy surface needs no wave functions; "low" keeps the density of a converged run.
            "disk_io": "low" if engine.density_dir else "none",
        },
        "system": cutoffs | system,
        "electrons": {
            "conv_thr": engine.scf_tolerance * n_atoms / RYDBERG,
            "electron_maxstep": engine.max_steps,
            "mixing_beta": beta,
        },
    }
    for section, values in (engine.input_data or {}).items():
        data.setdefault(section.lower(), {}).update(values)
    return data


def species_labels(structure: Atoms, *, polarised: bool) -> list[str]:
    """Return the species of an input, in the order and by the names that ASE writes.

    Parameters
    ----------
    structure
        With its initial moments: every different one is a species of its own.
    polarised
        Whether there are two spins.
    """
    moments = structure.get_initial_magnetic_moments() if polarised else [0.0] * len(structure)
    species = list(dict.fromkeys(zip(structure.get_chemical_symbols(), map(float, moments), strict=True)))
    symbols = [symbol for symbol, _ in species]
    return [f"{symbol}{symbols[:i].count(symbol) or ''}" for i, symbol in enumerate(symbols)]


def write_input(setup: PwSetup, path: Path, *, pseudo_dir: str | Path | None = None) -> None:
    """Write an input file of pw.x.

    Parameters
    ----------
    setup
        The calculation.
    path
        The file.
    pseudo_dir
        Folder of the pseudopotentials as pw.x shall see it; None: where they are.
    """
    from ase.io.espresso import write_espresso_in

    namelists = {section: dict(values) for section, values in setup.namelists.items()}
    folder = next(iter(setup.files.values())).parent if pseudo_dir is None else pseudo_dir
    namelists["control"].setdefault("pseudo_dir", str(folder))
    with path.open("w") as stream:
        write_espresso_in(
            stream,
            setup.structure,
            input_data=namelists,
            pseudopotentials={element: file.name for element, file in setup.files.items()},
            kpts=setup.grid,
            koffset=setup.shift,
            additional_cards=list(setup.cards) or None,
        )
