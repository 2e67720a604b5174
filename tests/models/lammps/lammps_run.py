"""Run the LAMMPS of the test environment on a structure and read what it says."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data

from atomfoundry.errors import EngineUnavailableError
from atomfoundry.models.lammps import find_lammps, find_program

BAR = 1.0 / 1602176.634
"""1 bar in eV/A^3."""


def lammps_missing() -> str | None:
    try:
        find_lammps()
        find_program()
    except EngineUnavailableError as error:
        return str(error)
    return None


needs_lammps = pytest.mark.skipif(lammps_missing() is not None, reason=str(lammps_missing()))


@dataclass
class Result:
    energy: float
    energies: np.ndarray
    forces: np.ndarray
    virial: np.ndarray  # xx yy zz xy xz yz, eV
    atom_virials: np.ndarray  # (N, 6)
    centroid_virials: np.ndarray  # (N, 9): xx yy zz xy xz yz yx zx zy
    log: str


def run_lammps(folder: Path, text: str, *, ranks: int = 1, check: bool = True, threads: int = 1) -> str:
    """Run an input in an export's folder; the screen output."""
    program = find_program()
    (folder / "in.test").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "LD_LIBRARY_PATH": str(program.libraries or "")}
    command = program.command("-in", "in.test", "-log", "none", ranks=ranks)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    assert not check or done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def preamble(atoms: Atoms, elements: list[str], *, style: str = "foundry", units: str = "metal", before="") -> str:
    boundary = " ".join("p" if periodic else "f" for periodic in atoms.pbc)
    return f"""
units {units}
boundary {boundary}
atom_style atomic
{before}
read_data test.data
plugin load ./foundry.so
pair_style {style}
pair_coeff * * {"foundry " if style.startswith("hybrid") else ""}model.foundry {" ".join(elements)}
"""


def single_point(
    folder: Path, atoms: Atoms, elements: list[str], *, ranks: int = 1, threads: int = 1, **changes
) -> Result:
    """Everything LAMMPS can say of a structure; its cell must be lower triangular."""
    assert not np.triu(atoms.cell.array, 1).any()
    write_lammps_data(folder / "test.data", atoms, specorder=elements, masses=True, units="metal", atom_style="atomic")
    text = preamble(atoms, elements, **changes)
    text += """
compute pe all pe/atom
compute cs all centroid/stress/atom NULL virial
compute sa all stress/atom NULL virial
compute p all pressure NULL virial
thermo_style custom step pe vol c_p[1] c_p[2] c_p[3] c_p[4] c_p[5] c_p[6]
thermo_modify format float %.15g
dump all all custom 1 dump.test id fx fy fz c_pe c_sa[*] c_cs[*]
dump_modify all sort id format float %.15g
run 0
"""
    log = run_lammps(folder, text, ranks=ranks, threads=threads)
    lines = log.splitlines()
    start = next(number for number, line in enumerate(lines) if line.split()[:1] == ["Step"])
    thermo = np.array(lines[start + 1].split(), dtype=float)
    table = np.loadtxt(folder / "dump.test", skiprows=9, ndmin=2)
    return Result(
        energy=thermo[1],
        energies=table[:, 4],
        forces=table[:, 1:4],
        virial=thermo[3:9] * BAR * thermo[2],
        atom_virials=-table[:, 5:11] * BAR,
        centroid_virials=-table[:, 11:20] * BAR,
        log=log,
    )
