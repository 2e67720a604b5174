"""What AtomProNet's converters get wrong, each once: none of it may happen here."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.datasets import CurationSettings, attach_labels, labels_of, split, with_metadata
from atomfoundry.harvest import harvest
from atomfoundry.harvest.exports import write_atompronet_npz, write_atompronet_xyz
from atomfoundry.units import BOHR, RYDBERG

OPEN = CurationSettings(
    max_force=1e9, max_stress=1e9, max_net_force_periodic=1e9, max_net_force_molecule=1e9, min_distance_factor=0
)
STRESS = np.array([0.01, 0.02, 0.03, 0.004, 0.005, 0.006])


def frames(number: int = 3) -> list[Atoms]:
    found = []
    for index in range(number):
        atoms = bulk("NaCl", "rocksalt", a=5.6 + 0.1 * index)
        atoms.set_cell(atoms.cell.array + np.array([[0, 0.1, 0], [0.2, 0, 0], [0, 0, 0.3]]), scale_atoms=True)
        forces = np.arange(6.0).reshape(2, 3) * 0.01 + index
        found.append(with_metadata(attach_labels(atoms, -3.0 - index, forces, STRESS * (index + 1))))
    return found


def assert_same(before: list[Atoms], after: list[Atoms]) -> None:
    assert len(before) == len(after)
    for one, two in zip(before, after, strict=True):
        assert list(one.symbols) == list(two.symbols)
        assert np.allclose(one.cell.array, two.cell.array, atol=1e-9), "off-diagonal cell elements"
        for first, second in zip(labels_of(one), labels_of(two), strict=True):
            assert np.allclose(first, second, atol=1e-9)  # type: ignore[arg-type]


@pytest.mark.parametrize("suffix", ["xyz", "npz"])
def test_virial_of_each_frame_voigt_order_and_whole_cells(tmp_path: Path, suffix: str) -> None:
    """One virial for all frames; xy yz zx taken for yz zx xy; only the diagonal of the cell; fixed elements."""
    before = frames()
    write = write_atompronet_xyz if suffix == "xyz" else write_atompronet_npz
    assert write(tmp_path / f"a.{suffix}", before) == 3
    report = harvest(tmp_path, steps="all", settings=OPEN)
    assert report.reasons == {}
    assert_same(before, report.frames)


def test_a_file_with_one_virial_for_all_frames_gives_no_stress(tmp_path: Path) -> None:
    lines = []
    for atoms in frames():
        cell = " ".join(map(str, atoms.cell.array.ravel()))
        energy, forces, _ = labels_of(atoms)
        lines.append(f'2\nLattice="{cell}" virial="1 2 3 2 4 5 3 5 6" energy={energy} pbc="T T T"')
        lines[-1] += " Properties=species:S:1:pos:R:3:forces:R:3"
        for symbol, row in zip(atoms.symbols, np.hstack([atoms.positions, forces]), strict=True):
            lines.append(f"{symbol} " + " ".join(map(str, row)))
    (tmp_path / "a.extxyz").write_text("\n".join(lines) + "\n")
    found = harvest(tmp_path, steps="all", settings=OPEN).frames
    assert len(found) == 3
    for atoms in found:
        assert labels_of(atoms)[2] is None
        assert "same_virial_dropped" in atoms.info["flags"]


PW = """     Program PWSCF v.7.2 starts on 1Jan2026
     bravais-lattice index     =            0
     lattice parameter (alat)  =       8.0000  a.u.
     unit-cell volume          =     512.0000 (a.u.)^3
     number of atoms/cell      =            2
     number of atomic types    =            2
     kinetic-energy cutoff     =      40.0000  Ry
     charge density cutoff     =     160.0000  Ry
     Exchange-correlation= PBE
     celldm(1)=   8.000000  celldm(2)=   0.000000  celldm(3)=   0.000000
     crystal axes: (cart. coord. in units of alat)
               a(1) = (   1.000000   0.100000   0.000000 )
               a(2) = (   0.000000   1.000000   0.000000 )
               a(3) = (   0.000000   0.200000   1.000000 )
     atomic species   valence    mass     pseudopotential
        Na             9.00    22.98977     Na( 1.00)
        Cl             7.00    35.45300     Cl( 1.00)
   Cartesian axes
     site n.     atom                  positions (alat units)
         1           Na  tau(   1) = (   0.0000000   0.0000000   0.0000000  )
         2           Cl  tau(   2) = (   0.5000000   0.5000000   0.5000000  )
     number of k points=     1
                       cart. coord. in units 2pi/alat
        k(    1) = (   0.0000000   0.0000000   0.0000000), wk =   2.0000000

     highest occupied level (ev):     1.0000
!    total energy              =     -10.00000000 Ry
     convergence has been achieved in   5 iterations
     Forces acting on atoms (cartesian axes, Ry/au):

     atom    1 type  1   force =     0.01000000    0.00000000    0.00000000
     atom    2 type  2   force =    -0.01000000    0.00000000    0.00000000
     Total force =     0.014142     Total SCF correction =     0.000000
     Computing stress (Cartesian axis) and pressure
          total   stress  (Ry/bohr**3)                   (kbar)     P=       44.13
   0.00010000   0.00004000   0.00005000           14.71        5.88        7.36
   0.00004000   0.00020000   0.00006000            5.88       29.42        8.83
   0.00005000   0.00006000   0.00060000            7.36        8.83       88.26
   JOB DONE.
"""


def test_rydberg_units_and_insulators(tmp_path: Path) -> None:
    """Ry and Ry/bohr labelled as eV; runs without a Fermi energy skipped; pressure sign."""
    (tmp_path / "pw.out").write_text(PW)
    report = harvest(tmp_path, settings=OPEN)
    assert report.reasons == {}
    (atoms,) = report.frames
    energy, forces, stress = labels_of(atoms)
    assert energy == pytest.approx(-10 * RYDBERG, abs=1e-9)
    assert forces is not None
    assert forces[0, 0] == pytest.approx(0.01 * RYDBERG / BOHR, abs=1e-9)
    expected = -np.array([1, 2, 6, 0.6, 0.5, 0.4]) * 1e-4 * RYDBERG / BOHR**3
    assert np.allclose(stress, expected, atol=1e-9)
    assert atoms.cell.array[0, 1] == pytest.approx(0.8 * BOHR, abs=1e-6)
    assert atoms.cell.array[2, 1] == pytest.approx(1.6 * BOHR, abs=1e-6)


def test_the_last_step_is_the_last_of_everything(tmp_path: Path) -> None:
    """Forces of the first and energy of the last step were joined."""
    images = frames()
    for atoms in images:
        energy, forces, stress = labels_of(atoms)
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces, stress=stress)
    ase.io.write(tmp_path / "a.traj", images)
    (last,) = harvest(tmp_path, settings=OPEN).frames
    assert_same(images[-1:], [last])


def test_structures_never_come_from_a_contcar(tmp_path: Path) -> None:
    """CONTCAR's scale was ignored; here labels and structure come from one file, whatever lies beside it."""
    images = frames(1)
    energy, forces, stress = labels_of(images[0])
    images[0].calc = SinglePointCalculator(images[0], energy=energy, forces=forces, stress=stress)
    ase.io.write(tmp_path / "a.traj", images)
    (tmp_path / "CONTCAR").write_text("x\n 2.0\n 1 0 0\n 0 1 0\n 0 0 1\n H\n 1\nDirect\n 0 0 0\n")
    assert_same(images, harvest(tmp_path, settings=OPEN).frames)


def test_splits_have_a_seed_and_keep_groups(tmp_path: Path) -> None:
    groups = [f"g{index // 3}" for index in range(60)]
    assert split(groups, seed=1) == split(groups, seed=1)
    assert split(groups, seed=1) != split(groups, seed=2)
