"""Runs of CP2K and ORCA in which atoms move: energy, structure and forces of one step, never of two."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase.io import read

from atomfoundry.datasets import CurationSettings, labels_of
from atomfoundry.harvest import HarvestReport, convergence_table, harvest
from atomfoundry.harvest.cp2k import parse_cp2k
from atomfoundry.units import HARTREE, HARTREE_PER_BOHR

OPEN = CurationSettings(
    max_force=1e9, max_net_force_periodic=1e9, min_distance_factor=0, drop_duplicates=False, max_stress=1e9
)
NAME = "H2O-32"
N_STEPS = 11


def data_folder() -> Path:
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    folder = Path(named) if named else Path(__file__).parents[4] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    return folder / "dft_outputs"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A real dynamics, and made-up forces in CP2K's format: those of step i are i/1000 and a bit."""
    for name in (f"{NAME}.out", f"{NAME}-pos-1.xyz"):
        shutil.copy(data_folder() / "cp2k/H2O-32_md" / name, tmp_path)
    (tmp_path / f"{NAME}-frc-1.xyz").write_text("".join(frames_of_forces(tmp_path)))
    return tmp_path


def frames_of_forces(folder: Path) -> list[str]:
    """Return the frames of the file of forces, with the titles of the file of positions."""
    lines = (folder / f"{NAME}-pos-1.xyz").read_text().splitlines()
    frames = []
    for number in range(N_STEPS):
        title = lines[8 * number + 1]
        rows = [f"{lines[8 * number + 2 + atom].split()[0]} {number / 1000} {atom / 1000} 0.0\n" for atom in range(6)]
        frames.append(f"6\n{title}\n{''.join(rows)}")
    return frames


def test_cp2k_dynamics(folder: Path) -> None:
    (folder / f"{NAME}-frc-1.xyz").rename(folder / "hidden")
    run = parse_cp2k(folder / f"{NAME}.out")
    assert len(run.steps) == len(run.temperatures) == N_STEPS
    (folder / "hidden").rename(folder / f"{NAME}-frc-1.xyz")
    found = harvest(folder / f"{NAME}.out", steps="all", settings=OPEN)
    assert found.reasons == {}
    expected = read(folder / f"{NAME}-pos-1.xyz", index=":", format="xyz")
    assert [atoms.info["source"] for atoms in found.frames] == [f"{NAME}.out#{n}" for n in range(N_STEPS)]
    for number, (atoms, other) in enumerate(zip(found.frames, expected, strict=True)):
        energy, forces, _ = labels_of(atoms)
        assert np.allclose(atoms.positions, other.positions, atol=1e-6)
        assert np.allclose(atoms.cell.lengths(), 9.853)
        assert forces is not None
        assert np.allclose(forces[:, 0], number / 1000 * HARTREE_PER_BOHR)
        assert np.allclose(forces[:, 1], np.arange(6) / 1000 * HARTREE_PER_BOHR)
        title = (folder / f"{NAME}-pos-1.xyz").read_text().splitlines()[8 * number + 1]
        assert energy == pytest.approx(float(title.split("E =")[1]) * HARTREE, abs=1e-7)
    last = harvest(folder / f"{NAME}.out", settings=OPEN).frames
    assert [labels_of(atoms)[0] for atoms in last] == [labels_of(found.frames[-1])[0]]


def test_cp2k_relaxation(folder: Path) -> None:
    """The same steps as a relaxation, which evaluates the energy of its last structure once more."""
    log = (folder / f"{NAME}.out").read_text()
    place = log.index(" GLOBAL| Run type")
    log = f"{log[:place]} GLOBAL| Run type          GEO_OPT{log[log.index(chr(10), place) :]}"
    end = log.index("PROGRAM ENDED AT")
    end = log.rindex("\n", 0, end) + 1
    unfinished = harvest_text(folder, log)
    assert unfinished.reasons == {"unconverged_ionic": 1}
    again = " ENERGY| Total FORCE_EVAL ( QS ) energy (a.u.):              -34.328287037884145\n"
    done = f" *** GEOMETRY OPTIMIZATION COMPLETED ***\n Reevaluating energy at the minimum\n{again}"
    (last,) = harvest_text(folder, log[:end] + done + log[end:]).frames
    assert last.info["source"] == f"{NAME}.out#10"
    forces = labels_of(last)[1]
    assert forces is not None
    assert np.allclose(forces[:, 0], 10 / 1000 * HARTREE_PER_BOHR)
    assert harvest(folder / f"{NAME}.out", steps="all", settings=OPEN).reasons == {"duplicate": 1}


def harvest_text(folder: Path, log: str) -> HarvestReport:
    """Harvest the last step of another log in the place of the real one."""
    (folder / f"{NAME}.out").write_text(log)
    return harvest(folder / f"{NAME}.out", settings=OPEN)


def test_cp2k_dynamics_in_the_table_of_runs(folder: Path) -> None:
    record = next(record for record in convergence_table(folder) if record.source.endswith(".out"))
    assert (record.dynamics, record.status, record.n_atoms) == (True, "finished", 6)
    assert len(record.energies) == N_STEPS
    assert record.temperatures[1] == 275.075


def test_cp2k_frames_that_were_lost_cost_only_themselves(folder: Path) -> None:
    positions = (folder / f"{NAME}-pos-1.xyz").read_text().splitlines(keepends=True)
    del positions[8 * 4 : 8 * 5]
    (folder / f"{NAME}-pos-1.xyz").write_text("".join(positions))
    forces = frames_of_forces(folder) if len(positions) == 88 else None
    assert forces is None, "the file of forces keeps all its frames"
    found = harvest(folder / f"{NAME}.out", steps="all", settings=OPEN)
    assert found.reasons == {"unreadable": 1}
    assert found.rejections[0].source == f"{NAME}.out#4"
    for atoms in found.frames:
        number = int(atoms.info["source"].split("#")[1])
        forces_found = labels_of(atoms)[1]
        assert forces_found is not None
        assert np.allclose(forces_found[:, 0], number / 1000 * HARTREE_PER_BOHR)


def test_cp2k_trajectories_of_another_run_are_not_used(folder: Path) -> None:
    text = (folder / f"{NAME}-pos-1.xyz").read_text()
    (folder / f"{NAME}-pos-1.xyz").write_text(text.replace("E =       -34.3", "E =       -35.3"))
    found = harvest(folder / f"{NAME}.out", steps="all", settings=OPEN)
    # The log prints the first structure itself.
    assert len(found.frames) == 1
    assert found.reasons == {"unreadable": N_STEPS - 1}
    bohr = text.replace("   2.2803980000        9.1465390000", "   4.3093277000        17.284454000")
    (folder / f"{NAME}-pos-1.xyz").write_text(bohr)
    found = harvest(folder / f"{NAME}.out", steps="all", settings=OPEN)
    assert "another unit" in found.rejections[0].message
    (folder / f"{NAME}-pos-1.xyz").write_text(text.replace(" O  ", " Si "))
    assert harvest(folder / f"{NAME}.out", steps="all", settings=OPEN).reasons == {"unreadable": N_STEPS}


def test_cp2k_moving_cells_need_their_file(folder: Path) -> None:
    log = (folder / f"{NAME}.out").read_text()
    assert " MD| Ensemble Type" in log
    place = log.index(" MD| Ensemble Type")
    end = log.index("\n", place)
    (folder / f"{NAME}.out").write_text(f"{log[:place]} MD| Ensemble Type                  NPT_I{log[end:]}")
    found = harvest(folder / f"{NAME}.out", steps="all", settings=OPEN)
    assert (len(found.frames), found.reasons) == (1, {"unreadable": N_STEPS - 1})
    rows = ["#   Step   Time [fs]       Ax [Angstrom]       Ay [Angstrom]  ...  Volume [Angstrom^3]\n"]
    for number in range(N_STEPS):
        side = 9.853 + 0.01 * number
        rows.append(f" {number} {number * 0.5} {side} 0 0 0 {side} 0 0 0 {side} {side**3}\n")
    (folder / f"{NAME}-1.cell").write_text("".join(rows))
    found = harvest(folder / f"{NAME}.out", steps="all", settings=OPEN)
    assert found.reasons == {}
    sides = [atoms.cell.lengths()[2] for atoms in found.frames]
    assert np.allclose(sides, 9.853 + 0.01 * np.arange(N_STEPS), atol=1e-6)


def test_the_result_of_an_orca_optimisation_has_its_own_gradient() -> None:
    path = data_folder() / "orca/orca.out.gz"
    every = harvest(path, steps="all", settings=OPEN).frames
    (last,) = harvest(path, settings=OPEN).frames
    assert labels_of(last)[0] == pytest.approx(-1.181483216941 * HARTREE, abs=1e-6)
    for one, two in zip(labels_of(last), labels_of(every[-1]), strict=True):
        assert np.array_equal(one, two)  # type: ignore[arg-type]
    assert last.info["frame_id"] == every[-1].info["frame_id"]
