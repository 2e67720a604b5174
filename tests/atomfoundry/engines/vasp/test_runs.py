"""Real runs of atomate2's run_vasp, custodian and its handlers, on a program that stands in for VASP."""

from __future__ import annotations

import importlib
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones

from atomfoundry.engines import get_engine
from atomfoundry.errors import ConfigurationError, LabelError

FAST = {"polling_time_step": 0.05}


def engine(**settings):
    return get_engine("vasp", **{**FAST, **settings})


def strained() -> Atoms:
    """Mixed elements in an order that VASP does not keep, sheared, rattled."""
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[:] = ["O", "Cu", "Al", "Cu"]
    deformation = np.array([[1.02, 0.03, 0], [0, 0.99, 0.02], [0.01, 0, 1.03]])
    atoms.set_cell(atoms.cell.array @ deformation, scale_atoms=True)
    atoms.rattle(0.08, seed=4)
    return atoms


def reference(atoms: Atoms, constants) -> Atoms:
    copy = atoms.copy()
    copy.calc = LennardJones(sigma=constants.SIGMA, epsilon=constants.EPSILON, rc=constants.CUTOFF)
    return copy


def assert_label(result, atoms, constants, *, energy_shift=0.0):
    exact = reference(atoms, constants)
    assert result.energy == pytest.approx(exact.get_potential_energy() + energy_shift, abs=2e-8)
    assert np.abs(result.forces - exact.get_forces()).max() < 2e-8
    assert np.abs(result.forces).max() > 0.1
    if result.stress is not None:
        assert np.abs(result.stress - exact.get_stress()).max() < 2e-8
        assert np.abs(exact.get_stress()).min() > 1e-4


def test_a_label_is_the_calculators(standin, constants, tmp_path):
    atoms = strained()
    before = Path.cwd()
    assert_label(engine().single_point(atoms, tmp_path / "run"), atoms, constants)
    assert Path.cwd() == before
    assert "CUSTODIAN_WALLTIME_START" not in os.environ
    (call,) = standin.calls
    assert call["symbols"] == ["Al", "Cu", "Cu", "O"]
    assert call["potcar"] == ["Al", "Cu_pv", "O"]
    assert call.get("killed_with_parent_by", signal.SIGKILL) == signal.SIGKILL
    assert (call["incar"]["LCHARG"], call["incar"]["LAECHG"]) == ("False", "False")
    kept = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"vasprun.xml", "OUTCAR", "INCAR", "POSCAR", "custodian.json"} <= kept
    assert not kept & {"POTCAR", "POTCAR.orig", "WAVECAR", "CHGCAR", "PROCAR"}


def test_kept_files(standin, tmp_path):
    engine(keep_files=True).single_point(strained(), tmp_path / "run")
    assert {"POTCAR", "CHGCAR", "PROCAR"} <= {path.name for path in (tmp_path / "run").iterdir()}
    assert standin.calls[0]["incar"]["LCHARG"] == "True"


def test_a_left_handed_cell_keeps_its_forces_and_stress(standin, constants):
    atoms = strained()
    atoms.set_cell(atoms.cell.array[[1, 0, 2]])
    assert np.linalg.det(atoms.cell.array) < 0
    assert_label(engine().single_point(atoms), atoms, constants)


def test_dispersion_added_after_the_last_step_is_in_the_energy(standin, constants):
    atoms = strained()
    result = engine(user_incar_settings={"IVDW": 12}).single_point(atoms)
    assert_label(result, atoms, constants, energy_shift=constants.DISPERSION)


@pytest.mark.parametrize(
    ("fault", "handler", "repaired"),
    [
        ("edddav", "VaspErrorHandler: edddav", {"ALGO": "All", "ISEARCH": "1"}),
        ("brmix", "VaspErrorHandler: brmix", {"IMIX": "1"}),
        ("zbrent", "VaspErrorHandler: zbrent", {"EDIFF": "1e-06"}),
        ("slow", "UnconvergedErrorHandler: Unconverged", {"ALGO": "All", "ISEARCH": "1"}),
    ],
)
def test_custodian_repairs(standin, constants, tmp_path, fault, handler, repaired):
    from atomfoundry.engines.vasp.repairs import corrections, describe_corrections

    standin.plan(any=fault)
    atoms = strained()
    assert_label(engine().single_point(atoms, tmp_path / "run"), atoms, constants)
    first, second = standin.calls
    assert {key: second["incar"].get(key) for key in repaired} == repaired
    assert first["incar"] != second["incar"]
    assert handler in describe_corrections(corrections(tmp_path / "run"))


def test_each_label_begins_at_the_bottom_of_the_ladder(standin):
    """The second run of a process, and a second one in the same folder, is repaired like the first."""
    standin.plan(any="brmix")
    for _ in range(2):
        engine().single_point(strained())
    assert [call["incar"].get("IMIX") for call in standin.calls] == [None, "1"] * 2


def failure(standin, fault: str, directory=None, atoms=None, **settings) -> LabelError:
    standin.plan(any=fault)
    with pytest.raises(LabelError) as caught:
        engine(**settings).single_point(atoms or strained(), directory)
    return caught.value


def test_never_converged(standin):
    error = failure(standin, "hopeless", run_vasp_kwargs={"max_errors": 2})
    assert error.reason == "unconverged"
    assert "AlCu2O" in str(error)
    assert "UnconvergedErrorHandler: Unconverged -> ALGO=All ISEARCH=1" in str(error)
    assert "BMIX=0.001" in str(error)
    assert len(standin.calls) == 2


def test_never_converged_without_handlers(standin):
    error = failure(standin, "hopeless", handlers=[], user_incar_settings={"NELM": 7})
    assert (error.reason, len(standin.calls)) == ("unconverged", 1)
    assert "7 electronic steps" in str(error)


@pytest.mark.parametrize("fault", ["silent", "cut", "returncode"])
def test_a_crash(standin, tmp_path, fault):
    error = failure(standin, fault, tmp_path / "run")
    assert error.reason == "crashed"
    assert len(standin.calls) == 1
    assert not (tmp_path / "run" / "POTCAR").exists()


def test_a_crash_that_no_repair_cures_is_given_up(standin):
    error = failure(standin, "broken", run_vasp_kwargs={"max_errors": 2})
    assert error.reason == "crashed"
    assert "VaspErrorHandler: edddav -> " in str(error) and "Call to ZHEGV failed" in str(error)
    assert len(standin.calls) == 2


def test_a_repair_that_changes_the_level_is_refused(standin):
    error = failure(standin, "tet", preset="static_pbe")
    assert error.reason == "level_changed"
    assert "ISMEAR -5 -> 0" in str(error) and "VaspErrorHandler: tet" in str(error)
    assert len(standin.calls) == 2


def test_a_repair_that_moves_the_kpoints_is_refused(standin):
    settings = {"preset": "static_pbe", "user_kpoints_settings": {"grid": [4, 4, 4]}}
    error = failure(standin, "mesh", **settings)
    assert error.reason == "level_changed" and "KPOINTS" in str(error)


def test_compressed_matter_has_a_positive_energy(standin, constants):
    dimer = Atoms("Cu2", [[0, 0, 0], [0, 0, 1.7]])
    result = engine().single_point(dimer)
    assert result.energy > 5
    assert_label(result, dimer, constants)
    assert len(standin.calls) == 1


def test_handlers_that_would_change_or_lose_labels_are_off():
    from atomfoundry.engines.vasp.handlers import NOT_FOR_LABELS, make_handlers

    names = [type(handler).__name__ for handler in make_handlers(None)]
    assert not set(names) & set(NOT_FOR_LABELS)
    assert {"VaspErrorHandler", "UnconvergedErrorHandler", "NonConvergingErrorHandler", "StdErrHandler"} <= set(names)


def test_another_structure_than_asked_for(standin):
    error = failure(standin, "moved")
    assert error.reason == "crashed" and "another structure" in str(error)


def test_a_hang_is_killed(standin):
    start = time.monotonic()
    error = failure(standin, "hang", timeout=1.0)
    assert error.reason == "timeout"
    assert time.monotonic() - start < 30


@pytest.fixture
def soon(monkeypatch):
    """One second, and a minute until VASP is killed that was asked to stop."""
    from atomfoundry.engines.vasp import handlers

    monkeypatch.setattr(handlers, "_STOP_SHARE", 59 / 60)
    monkeypatch.setattr(handlers, "_CHECK_EVERY", 0.5)
    return {"timeout": 60.0}


def test_vasp_is_asked_to_stop_before_it_is_killed(standin, soon, tmp_path):
    """It then has written a good file, whose few electronic steps look converged and are not."""
    error = failure(standin, "patient", tmp_path / "run", **soon)
    assert error.reason == "timeout"
    assert (tmp_path / "run" / "STOPCAR").exists()


def test_a_label_that_converged_as_it_was_asked_to_stop_is_kept(standin, soon, constants):
    standin.plan(any="lucky")
    assert_label(engine(**soon).single_point(strained()), strained(), constants)


def test_the_end_of_the_batch_job_limits_the_time(standin, monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 1))
    assert failure(standin, "hang").reason == "timeout"
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() - 1))
    standin.plan()
    with pytest.raises(LabelError, match="no time left"):
        engine().single_point(strained())


def test_nothing_of_a_former_run_is_taken_for_this_one(standin, tmp_path):
    engine().single_point(strained(), tmp_path / "run")
    assert failure(standin, "silent", tmp_path / "run").reason == "crashed"


def test_a_molecule_and_an_atom(standin, constants):
    molecule = Atoms("OCuO", [[0, 0, 0], [0.3, 0, 2.4], [0, 0.2, 4.9]])
    result = engine().single_point(molecule)
    assert_label(result, molecule, constants)
    assert result.stress is None
    atom = engine(preset="static_pbe").single_point(Atoms("O"))
    assert atom.energy == pytest.approx(constants.ENTROPY)
    first, second = (call["incar"] for call in standin.calls)
    assert "KSPACING" not in first and "1 1 1" in standin.calls[0]["kpoints"]
    assert "NUPDOWN" not in first
    assert (second["NUPDOWN"], second["ISMEAR"], second["ISYM"], second["MAGMOM"]) == ("2.0", "0", "0", "1*2.0")


def test_a_slab_has_one_kpoint_through_its_vacuum(standin, constants):
    slab = strained()
    slab.pbc = (True, True, False)
    for preset in ("static_pbe", "matpes_pbe"):
        assert engine(preset=preset).single_point(slab).stress is None
    for call in standin.calls:
        grid = [int(word) for word in call["kpoints"].splitlines()[3].split()]
        assert grid[2] == 1 and min(grid[:2]) > 3


def test_a_charge_is_refused_and_a_spin_is_set(standin):
    atoms = strained()
    atoms.info["charge"] = 1
    assert failure(standin, "", atoms=atoms).reason == "unsupported"
    atoms.info |= {"charge": 0, "spin_multiplicity": 3}
    engine().single_point(atoms)
    assert standin.calls[0]["incar"]["NUPDOWN"] == "2.0"
    assert failure(standin, "", atoms=atoms, user_incar_settings={"ISPIN": 1}).reason == "unsupported"


def test_the_second_calculation_starts_from_the_first_ones_waves(standin, constants, tmp_path):
    atoms = strained()
    first = engine(keep_wavecar=True)
    assert_label(first.single_point(atoms, tmp_path / "pbe"), atoms, constants)
    assert (tmp_path / "pbe" / "WAVECAR").is_file() and not (tmp_path / "pbe" / "POTCAR").exists()
    second = engine(preset="matpes_r2scan", restart_from=str(tmp_path / "pbe"))
    assert_label(second.single_point(atoms, tmp_path / "r2scan"), atoms, constants)
    assert [call["waves"] for call in standin.calls] == [None, "waves of Pe"]
    assert not (tmp_path / "r2scan" / "WAVECAR").exists()
    with pytest.raises(ConfigurationError, match="keep_wavecar"):
        engine(restart_from=str(tmp_path / "r2scan")).single_point(atoms)
    assert first.level == engine().level
    assert second.level == engine(preset="matpes_r2scan").level


@pytest.mark.parametrize("preset", ["static", "matpes_r2scan"])
def test_inputs_are_atomate2s_own(standin, tmp_path, monkeypatch, preset):
    """The Maker itself, run by jobflow, starts VASP with the same files; its TaskDoc is left out."""
    import atomate2.vasp.jobs.base as base
    from jobflow import JobStore
    from maggma.stores import MemoryStore
    from pymatgen.io.ase import AseAtomsAdaptor

    from atomfoundry.engines.vasp.presets import PRESETS

    class DoneError(Exception):
        pass

    def done(*_args, **_kwargs):
        raise DoneError

    monkeypatch.setattr(base, "get_vasp_task_document", done)
    # Wide enough for a negative energy: atomate2's own handlers insist on it.
    atoms = bulk("NiO", "rocksalt", a=5.0)
    engine(preset=preset, keep_files=True).single_point(atoms)
    module, name = PRESETS[preset].split(":")
    settings = {"vasp_cmd": str(standin.home / "vasp_std"), "custodian_kwargs": {"polling_time_step": 0.05}}
    maker = getattr(importlib.import_module(module), name)(run_vasp_kwargs=settings)
    (tmp_path / "theirs").mkdir()
    monkeypatch.chdir(tmp_path / "theirs")
    store = JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    store.connect()
    with pytest.raises(DoneError):
        maker.make(AseAtomsAdaptor.get_structure(atoms)).run(store)
    ours, theirs = standin.calls
    ours.pop("killed_with_parent_by", None), theirs.pop("killed_with_parent_by", None)
    assert ours == theirs
    assert ("LDAUU" in ours["incar"]) == (preset == "static")
