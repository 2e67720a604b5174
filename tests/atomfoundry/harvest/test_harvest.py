from __future__ import annotations

import gzip
import json
import os
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms

from atomfoundry.datasets import CurationSettings, labels_of, write_extxyz
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import InputError
from atomfoundry.harvest import harvest
from atomfoundry.units import BOHR, KBAR, RYDBERG

LENIENT = CurationSettings(max_force=1e9, max_stress=1e9, max_net_force_periodic=1e9, min_distance_factor=0)


def copper(seed: int = 0) -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    atoms.get_forces()
    atoms.get_stress()
    return atoms


def test_trajectories_and_extended_xyz(tmp_path: Path) -> None:
    frames = [copper(seed) for seed in range(3)]
    frames[2].set_constraint(FixAtoms([0]))
    ase.io.write(tmp_path / "a.traj", frames)
    other = copper(3)
    write_extxyz(tmp_path / "b.extxyz", [other])
    level = LevelOfTheory(code="emt", method="EMT")
    report = harvest(tmp_path, steps="all", level=level)
    assert report.files == {"a.traj": 3, "b.extxyz": 1}
    assert [atoms.info["source"] for atoms in report.frames] == [
        "a.traj#0",
        "a.traj#1",
        "a.traj#2",
        "b.extxyz",
    ]
    for before, after in zip([*frames, other], report.frames, strict=True):
        energy, forces, stress = labels_of(after)
        assert energy == pytest.approx(before.get_potential_energy(force_consistent=True), abs=1e-12)
        assert np.allclose(forces, before.get_forces(apply_constraint=False), atol=1e-12)
        assert np.allclose(stress, before.get_stress(apply_constraint=False), atol=1e-12)
        assert after.info["level"] == level.id
        assert not after.constraints
    assert len({atoms.info["group_id"] for atoms in report.frames[:3]}) == 1
    assert len(harvest(tmp_path / "a.traj").frames) == 1


def test_free_energies_win(tmp_path: Path) -> None:
    atoms = bulk("Cu")
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, free_energy=-1.5, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "a.traj", atoms)
    assert labels_of(harvest(tmp_path).frames[0])[0] == -1.5


def test_bad_frames_have_reasons(tmp_path: Path) -> None:
    bare, wild, lost = bulk("Cu"), bulk("Cu"), bulk("Cu")
    bare.calc = SinglePointCalculator(bare, energy=-1.0)
    wild.calc = SinglePointCalculator(wild, energy=-1.0, forces=np.full((1, 3), 99.0))
    lost.calc = SinglePointCalculator(lost, energy=np.nan, forces=np.zeros((1, 3)))
    ase.io.write(tmp_path / "a.traj", [bare, wild, lost])
    report = harvest(tmp_path, steps="all")
    assert report.frames == []
    assert report.reasons == {"exploded": 1, "nan": 1, "no_forces": 1}
    assert report.rejections[1].source == "a.traj#1"


def test_files_that_are_nothing(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "vasprun.xml").write_text("not XML")
    (tmp_path / "OUTCAR").write_text("")
    (tmp_path / "x.traj").write_bytes(b"\x00\x01")
    (tmp_path / "OUTCAR.gz").write_bytes(gzip.compress(os.urandom(5000))[:3000])
    (tmp_path / "pw.out").write_text("     Program PWSCF v.7.2 starts\n")
    report = harvest(tmp_path)
    assert report.frames == []
    assert report.skipped == 1
    reasons = {item.source: item.reason for item in report.rejections}
    assert reasons == {
        "vasprun.xml": "unreadable",
        "OUTCAR": "truncated",
        "OUTCAR.gz": "truncated",
        "x.traj": "unreadable",
        "pw.out": "truncated",
    }
    assert harvest(tmp_path / "notes.txt").reasons == {"unknown_format": 1}
    with pytest.raises(InputError, match="no file or folder"):
        harvest(tmp_path / "nothing")
    with pytest.raises(InputError, match="'first'"):
        harvest(tmp_path, steps="first")  # type: ignore[arg-type]


# -- real outputs --------------------------------------------------------------------------------


def data_folder() -> Path:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder


def reference(name: str) -> dict:
    return json.loads((data_folder() / "reference/dft_reference_values.json").read_text())[name]


@pytest.mark.parametrize(
    "name",
    [
        "Si2_pbe_static/vasprun.xml.gz",
        "Cu_etest/vasprun.etest1.xml.gz",
        "Cu_etest/vasprun.etest3.xml.gz",
        "Cu_etest/vasprun.etest4.xml.gz",
        "Li_pbe_relax/vasprun.xml.gz",
        "vasprun.md.xml.gz",
    ],
)
def test_vasprun_values(name: str) -> None:
    known = reference(f"dft_outputs/vasp/{name}")
    report = harvest(data_folder() / "dft_outputs/vasp" / name, steps="all", settings=LENIENT, max_energy_rise=np.inf)
    assert len(report.frames) == known["n_calculation_blocks"]
    energy, forces, stress = labels_of(report.frames[-1])
    assert labels_of(report.frames[0])[0] == pytest.approx(known["e_fr_energy_first_last"][0], abs=1e-8)
    assert energy == pytest.approx(known["e_fr_energy_first_last"][1], abs=1e-8)
    assert np.allclose(forces[0], known["last_force_atom0"], atol=1e-8)  # type: ignore[index]
    kbar = np.array(known["last_stress_kB"])
    assert np.allclose(stress, -KBAR * kbar[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]], atol=1e-9)


@pytest.mark.parametrize("pair", ["Si2_pbe_static", "Li_pbe_relax", "LiH_r2scan_relax", "Fe2_sample"])
def test_outcar_agrees_with_vasprun(pair: str) -> None:
    folder = data_folder() / "dft_outputs/vasp" / pair
    (xml,) = [file for file in folder.iterdir() if "vasprun" in file.name]
    (first,) = harvest(xml, settings=LENIENT).frames
    (second,) = harvest(folder / "OUTCAR", settings=LENIENT).frames
    for one, two in zip(labels_of(first), labels_of(second), strict=True):
        assert np.allclose(one, two, atol=2e-5)  # type: ignore[arg-type]
    # Both files of a folder: one frame.
    assert len(harvest(folder, settings=LENIENT).frames) == 1


@pytest.mark.parametrize(
    "name",
    ["NaCl64_displaced/NaCl-001.out", "Li2O4_vcrelax_mp-1018789/pw.out.gz"],
)
def test_espresso_values(name: str) -> None:
    known = reference(f"dft_outputs/qe/{name}")
    report = harvest(data_folder() / "dft_outputs/qe" / name, steps="all", settings=LENIENT, max_energy_rise=np.inf)
    assert len(report.frames) == known["n_energies"]
    energy, forces, stress = labels_of(report.frames[-1])
    assert energy == pytest.approx(known["energy_Ry_first_last"][1] * RYDBERG, rel=1e-7)
    expected = np.array(known["force_atom1_last_RyBohr"]) * RYDBERG / BOHR
    assert np.allclose(forces[0], expected, atol=1e-6)  # type: ignore[index]
    assert -np.mean(stress[:3]) / KBAR == pytest.approx(known["pressure_kbar_last"], abs=0.05)  # type: ignore[index]


def test_espresso_forces_are_the_total_ones() -> None:
    """The file prints every contribution too; values read by eye from the first table and the stress."""
    report = harvest(data_folder() / "dft_outputs/qe/default_xml_211101/aiida.out")
    energy, forces, stress = labels_of(report.frames[0])
    assert energy == pytest.approx(-22.13271119 * RYDBERG, rel=1e-7)
    assert forces is not None
    assert forces[0, 2] == pytest.approx(-0.00666975 * RYDBERG / BOHR, abs=1e-6)
    assert stress is not None
    assert stress[2] == pytest.approx(-0.00190157 * RYDBERG / BOHR**3, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vasp/vasprun.unconverged.xml.gz", "unconverged_electronic"),
        ("vasp/vasprun.xml.scan.gz", "unconverged_electronic"),
        ("vasp/aborted/vasprun.xml", "truncated"),
        ("vasp/aborted/OUTCAR", "truncated"),
        ("vasp/no_nions/OUTCAR", "truncated"),
        ("vasp/vasprun_spoilt.xml", "truncated"),
        ("vasp/vasprun.wrong_sp.xml.gz", "unreadable"),
        ("qe/failed_computing_cholesky_stdout/aiida.out", "crashed"),
        ("qe/failed_interrupted_relax/aiida.out", "truncated"),
        ("qe/failed_out_of_walltime_interrupted/aiida.out", "truncated"),
        ("qe/failed_scf_not_converged/aiida.out", "unconverged_electronic"),
        ("qe/relax_failed_electronic/aiida.out", "unconverged_electronic"),
        ("qe/scf_success_rVV10/aiida.out", "no_forces"),
    ],
)
def test_real_failures(name: str, reason: str) -> None:
    report = harvest(data_folder() / "dft_outputs" / name)
    assert report.frames == []
    assert report.reasons == {reason: 1}


@pytest.mark.parametrize(("name", "number"), [("vasprun.bad.xml.gz", 1), ("FeS2_potim/OUTCAR.gz", 3)])
def test_good_steps_of_interrupted_runs_are_kept_and_marked(name: str, number: int) -> None:
    report = harvest(data_folder() / "dft_outputs/vasp" / name, steps="all", settings=LENIENT, max_energy_rise=np.inf)
    assert len(report.frames) == number
    assert all(atoms.info["flags"] == ["interrupted"] for atoms in report.frames)


def test_each_unconverged_step_is_refused() -> None:
    report = harvest(data_folder() / "dft_outputs/vasp/bad_vasprun/vasprun.xml.gz", steps="all")
    assert report.reasons == {"unconverged_electronic": 5}
    assert "100 electronic steps" in report.rejections[0].message
