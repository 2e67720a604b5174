"""What pw.x itself does: repairs, time limits, kept densities, inputs by hand, MPI, spin and U."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.stress import voigt_6_to_full_3x3_stress

from atomfoundry.engines import get_engine
from atomfoundry.engines.espresso.install import find_pw
from atomfoundry.engines.espresso.version import pw_version
from atomfoundry.errors import EngineUnavailableError, LabelError
from atomfoundry.harvest.espresso import parse_espresso
from atomfoundry.settings import settings
from atomfoundry.units import RYDBERG


def missing() -> str:
    try:
        get_engine("espresso").check_available()
    except EngineUnavailableError as error:
        return str(error)
    return ""


pytestmark = [pytest.mark.espresso, pytest.mark.skipif(bool(missing()), reason=missing())]

QUICK = {"ecutwfc": 20 * RYDBERG, "kpoints": [2, 2, 2], "kpoint_shift": True}
MPIRUN = "mpirun --allow-run-as-root --oversubscribe"
DEBIAN = Path("/usr/share/espresso/pseudo")


def rattled_silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    atoms.rattle(0.05, seed=1)
    return atoms


def in_path() -> str:
    try:
        return find_pw("PATH").target[0]
    except EngineUnavailableError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def cold():
    return get_engine("espresso", **QUICK).single_point(rattled_silicon())


@pytest.fixture
def debian_upf(fresh_settings, tmp_path):
    """Make pseudopotentials of Debian's package ours."""

    def use(**files: str) -> None:
        folder = tmp_path / "debian"
        folder.mkdir()
        for element, name in files.items():
            if not (DEBIAN / name).is_file():
                pytest.skip(f"no {DEBIAN / name}")
            shutil.copyfile(DEBIAN / name, folder / f"{element}.{name}")
        fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_PSEUDO_DIR", str(folder))
        settings.cache_clear()

    return use


def test_versions():
    for source in ("pip", "PATH"):
        try:
            program = find_pw(source)
        except EngineUnavailableError:
            continue
        assert (6, 0) <= pw_version(program) <= (9, 0)


@pytest.mark.slow
def test_too_few_steps_are_repaired_from_the_density(cold, tmp_path):
    result = get_engine("espresso", **QUICK, max_steps=4).single_point(rattled_silicon(), tmp_path)
    assert result.energy == pytest.approx(cold.energy, abs=1e-6)
    assert result.forces == pytest.approx(cold.forces, abs=2e-3)
    assert "convergence NOT achieved" in (tmp_path / "failed-1" / "espresso.pwo").read_text()
    assert (
        "density is read from file" in (tmp_path / "espresso.pwo").read_text()
        or "charge-density" in (tmp_path / "espresso.pwo").read_text()
    )
    assert not (tmp_path / "scratch").exists()


def test_a_nonsense_pseudopotential(own_upf, fresh_settings):
    own_upf("Si")
    fresh_settings.delenv("ATOMFOUNDRY_ESPRESSO_COMMAND", raising=False)
    with pytest.raises(EngineUnavailableError, match=r"cannot read a pseudopotential.*Get the file again"):
        get_engine("espresso", **QUICK).single_point(bulk("Si"))


@pytest.mark.slow
def test_a_killed_run_is_repeated(cold, tmp_path):
    in_path()
    folder = tmp_path / "run"
    killed = []

    def kill() -> None:
        for _ in range(1200):
            for process in Path("/proc").glob("[0-9]*"):
                try:
                    runs = (process / "comm").read_text().strip() == "pw.x" and (process / "cwd").resolve() == folder
                except OSError:
                    continue
                if runs:
                    os.kill(int(process.name), signal.SIGKILL)
                    killed.append(int(process.name))
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    result = get_engine("espresso", **QUICK, program="PATH").single_point(rattled_silicon(), folder)
    thread.join()
    assert killed and "diago_david_ndim" in (folder / "custodian.json").read_text()
    assert result.energy == pytest.approx(cold.energy, abs=1e-5)
    assert result.forces == pytest.approx(cold.forces, abs=2e-3)


@pytest.mark.skipif(os.name != "posix", reason="needs ulimit")
def test_too_little_memory_is_told(fresh_settings, tmp_path):
    program = in_path()
    reasons = []
    for limit in range(96_000, 150_000, 6_000):  # how much starting MPI takes differs between machines
        fresh_settings.setenv(
            "ATOMFOUNDRY_ESPRESSO_COMMAND", f"bash -c 'ulimit -v {limit}; exec {program} \"$@\"' pw.x"
        )
        settings.cache_clear()
        try:
            get_engine("espresso", **QUICK | {"ecutwfc": 60 * RYDBERG}).single_point(rattled_silicon(), tmp_path)
        except LabelError as error:
            reasons.append(error.reason)
            if error.reason == "out_of_memory":
                assert re.search(r"Tried: memory -> .*electrons\.diago_david_ndim = 2", str(error))
                return
    pytest.skip(f"no limit at which pw.x starts but cannot go on: {reasons}")


@pytest.mark.slow
def test_a_run_out_of_time_is_continued(tmp_path):
    atoms = rattled_silicon()
    heavy = QUICK | {"kpoints": [3, 3, 3]}
    for timeout in (1.0, 2.0, 4.0, 8.0, 16.0):
        try:
            get_engine("espresso", **heavy, timeout=timeout).single_point(atoms, tmp_path)
        except LabelError as error:
            assert error.reason == "timeout"
        if list(tmp_path.glob("scratch/pwscf.save/charge-density.*")):
            break
    else:
        pytest.skip("this machine's speed leaves no time between start and end")
    resumed = get_engine("espresso", **heavy).single_point(atoms, tmp_path)
    assert "startingpot" in (tmp_path / "espresso.pwi").read_text()
    assert not (tmp_path / "scratch").exists()
    again = get_engine("espresso", **heavy).single_point(atoms)
    assert resumed.energy == pytest.approx(again.energy, abs=1e-6)
    assert resumed.forces == pytest.approx(again.forces, abs=2e-3)


@pytest.mark.slow
def test_a_family_starts_from_its_parents_density(tmp_path):
    parent = bulk("Si", a=5.43)
    # forces and stress are of first order in what the cycle leaves open
    tight = QUICK | {"scf_tolerance": 1e-9}
    warm = get_engine("espresso", **tight, density_dir=str(tmp_path / "densities"))
    warm.single_point(parent)
    atoms = parent.copy()
    atoms.set_cell(parent.cell * 1.08, scale_atoms=True)
    atoms.positions[1, 0] += 0.05
    started = warm.single_point(atoms, tmp_path / "run")
    assert "startingpot" in (tmp_path / "run" / "espresso.pwi").read_text()
    from_atoms = get_engine("espresso", **tight).single_point(atoms)
    assert started.energy == pytest.approx(from_atoms.energy, abs=1e-6)
    assert started.forces == pytest.approx(from_atoms.forces, abs=2e-3)
    assert started.stress == pytest.approx(from_atoms.stress, abs=1e-5)


@pytest.mark.slow
def test_inputs_run_by_hand_give_the_engines_labels(cold, tmp_path):
    program = in_path()
    get_engine("espresso", **QUICK).write_inputs(rattled_silicon(), tmp_path)
    with (tmp_path / "pw.out").open("w") as out:
        subprocess.run([program, "-in", "pw.in"], cwd=tmp_path, stdout=out, check=True, env=os.environ | ONE_THREAD)
    run = parse_espresso(tmp_path / "pw.out")
    (step,) = run.steps
    assert step.reason is None
    labels = step.atoms.calc.results
    # the harvest converts with the constants of 2014, ASE, which the engine reads with, with those of 2006
    assert labels["energy"] == pytest.approx(cold.energy, rel=2e-7)
    assert labels["forces"] == pytest.approx(cold.forces, abs=1e-4)
    assert labels["stress"] == pytest.approx(cold.stress, abs=1e-6)


ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
@pytest.mark.parametrize("arguments", ["-np 2 pw.x -nk 2", "-np 2 pw.x"])
def test_ranks_do_not_change_labels(cold, fresh_settings, arguments):
    in_path()
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", f"{MPIRUN} {arguments}")
    result = get_engine("espresso", **QUICK).single_point(rattled_silicon())
    assert result.energy == pytest.approx(cold.energy, abs=1e-6)
    assert result.forces == pytest.approx(cold.forces, abs=2e-4)
    assert result.stress == pytest.approx(cold.stress, abs=1e-5)


def running_in(folder: Path) -> list[str]:
    """Return the names of the processes that work in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").resolve() == folder.resolve():
                found.append((process / "comm").read_text())
        except OSError:
            continue
    return found


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun")
@pytest.mark.slow
def test_ranks_end_with_the_time(fresh_settings, tmp_path):
    in_path()
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", f"{MPIRUN} -np 2 pw.x -nk 2")
    heavy = get_engine("espresso", **QUICK | {"kpoints": [6, 6, 6]}, timeout=4.0)
    with pytest.raises(LabelError) as caught:
        heavy.single_point(rattled_silicon() * (2, 1, 1), tmp_path)
    assert caught.value.reason == "timeout"
    # killed processes take a moment to go on a busy machine
    end = time.monotonic() + 30
    while (left := running_in(tmp_path)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left


@pytest.mark.slow
def test_an_ultrasoft_file_sets_both_cutoffs(debian_upf, tmp_path):
    debian_upf(Si="Si.pbe-nl-rrkjus_psl.1.0.0.UPF")
    engine = get_engine("espresso", protocol="fast", elements=["Si"])
    assert engine.cutoff == pytest.approx(43.74354 * RYDBERG) and engine.level.method == "PBE"
    atoms, step, results = rattled_silicon(), 0.01, []
    for shift in (0, step, -step):
        moved = atoms.copy()
        moved.positions[0, 1] += shift
        results.append(engine.single_point(moved, tmp_path))
    slope = (results[1].energy - results[2].energy) / 2 / step
    assert results[0].forces[0, 1] == pytest.approx(-slope, abs=5e-3)
    assert re.search(r"charge density cutoff\s*=\s*174\.9", (tmp_path / "espresso.pwo").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("program", ["PATH", "pip"])
@pytest.mark.parametrize("projectors", ["ortho-atomic", "atomic"])
def test_forces_with_u_and_spin_are_derivatives(debian_upf, tmp_path, program, projectors):
    debian_upf(Ni="Ni.pbe-nd-rrkjus.UPF", O="O.pbe-rrkjus.UPF")
    engine = get_engine(
        "espresso",
        ecutwfc=25 * RYDBERG,
        kpoints=[2, 2, 2],
        smearing=0.2,
        spin="collinear",
        hubbard_u={"Ni": 4.0},
        hubbard_projectors=projectors,
        scf_tolerance=1e-8,
        program=program,
    )
    try:
        engine.check_available()
    except EngineUnavailableError as error:
        pytest.skip(str(error))
    atoms, step, results = bulk("NiO", "rocksalt", a=4.2), 0.01, []
    atoms.positions[1, 0] += 0.1
    for shift in (0, step, -step):
        moved = atoms.copy()
        moved.positions[1, 0] += shift
        results.append(engine.single_point(moved, tmp_path))
    slope = (results[1].energy - results[2].energy) / 2 / step
    # the egg-box of this cutoff is about 0.01 eV/A
    assert results[0].forces[1, 0] == pytest.approx(-slope, abs=0.02)


@pytest.mark.slow
def test_iron_is_a_magnet(debian_upf, tmp_path):
    debian_upf(Fe="Fe.pbe-nd-rrkjus.UPF")
    shared = {"ecutwfc": 25 * RYDBERG, "kpoints": [3, 3, 3], "smearing": 0.2, "smearing_kind": "cold"}
    iron = bulk("Fe", a=2.87)
    iron.set_initial_magnetic_moments(None)
    magnet = get_engine("espresso", **shared, spin="collinear")
    polarised = magnet.single_point(iron, tmp_path)
    output = (tmp_path / "espresso.pwo").read_text()
    assert float(re.findall(r"total magnetization\s*=\s*(\S+)", output)[-1]) == pytest.approx(2.9, abs=0.8)
    plain = get_engine("espresso", **shared).single_point(iron)
    assert polarised.energy < plain.energy - 0.1
    orders = ["nonmagnetic", "ferromagnetic"]
    best = get_engine("espresso", **shared, spin="collinear", magnetic_orders=orders).single_point(iron, tmp_path)
    assert best.energy == pytest.approx(polarised.energy, abs=1e-4)
    strain, energies = 0.005, []
    for sign in (1, -1):
        cell = iron.copy()
        cell.set_cell(iron.cell * (1 + sign * strain), scale_atoms=True)
        energies.append(magnet.single_point(cell).energy)
    slope = (energies[0] - energies[1]) / (2 * strain) / iron.get_volume()
    pressure = np.trace(voigt_6_to_full_3x3_stress(polarised.stress))
    # at a fixed cutoff the energy also changes with the number of plane waves
    assert slope == pytest.approx(pressure, abs=0.15 * abs(pressure) + 0.05)
