"""Calculators in another interpreter: the same numbers, and a death there costs one structure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT

from atomfoundry.engines import get_engine
from atomfoundry.engines.interpreter import InterpreterCalculator
from atomfoundry.engines.interpreter.process import InterpreterProcess, find_interpreter
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError

EMT_CLASS = "ase.calculators.emt.EMT"
sys.path.insert(0, str(Path(__file__).parent))
HERE = {"PYTHONPATH": str(Path(__file__).parent)}


def emt(**more):
    return InterpreterCalculator(sys.executable, EMT_CLASS, **more)


@pytest.fixture(scope="module")
def breaking():
    calculator = InterpreterCalculator(
        sys.executable, "breaking_calculator:Breaking", environment=HERE, timeout=20.0, name="breaker"
    )
    yield calculator
    calculator.close()


def rattled():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=1)
    return atoms


def test_numbers_are_those_of_the_calculator_itself():
    atoms, same = rattled(), rattled()
    atoms.calc, same.calc = emt(), EMT()
    assert atoms.get_potential_energy() == same.get_potential_energy()
    assert np.array_equal(atoms.get_forces(), same.get_forces())
    assert np.array_equal(atoms.get_stress(), same.get_stress())
    assert atoms.calc.versions["numpy"] == np.__version__
    first = atoms.calc._process.pid
    atoms.positions[0, 0] += 0.1
    same.positions[0, 0] += 0.1
    assert np.array_equal(atoms.get_forces(), same.get_forces())
    assert atoms.calc._process.pid == first
    assert atoms.calc.name == "EMT"


def test_molecules_have_no_stress_and_info_goes_along():
    water = molecule("H2O")
    water.info |= {"charge": 0, "tag": np.arange(3)}
    water.calc = emt()
    reference = molecule("H2O")
    reference.calc = EMT()
    assert water.get_potential_energy() == reference.get_potential_energy()
    with pytest.raises(Exception, match="stress"):
        water.get_stress()


def test_the_child_needs_nothing_of_ours(tmp_path):
    """In an interpreter that cannot import us: -S leaves all packages out but those named."""
    import ase

    packages = tmp_path / "packages"
    packages.mkdir()
    for package in (np, ase):
        folder = Path(package.__file__).parent
        (packages / folder.name).symlink_to(folder)
        for beside in folder.parent.glob(f"{folder.name}*.libs"):
            (packages / beside.name).symlink_to(beside)
    import scipy

    for folder in (Path(scipy.__file__).parent, *Path(scipy.__file__).parents[1].glob("scipy.libs")):
        (packages / folder.name).symlink_to(folder)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    python.chmod(0o755)
    told = subprocess.run(
        [python, "-c", "import atomfoundry"], env={"PYTHONPATH": str(packages)}, capture_output=True, cwd=tmp_path
    )
    assert b"No module named 'atomfoundry'" in told.stderr
    calculator = InterpreterCalculator(str(python), EMT_CLASS, environment={"PYTHONPATH": str(packages)})
    atoms, same = rattled(), rattled()
    atoms.calc, same.calc = calculator, EMT()
    assert atoms.get_potential_energy() == same.get_potential_energy()


@pytest.mark.parametrize(
    ("symbol", "reason", "words"),
    [
        ("He", "crashed", "SIGSEGV"),
        ("Be", "crashed", "a last word"),
        ("N", "crashed", "RuntimeError: boom"),
        ("F", "out_of_memory", "SIGKILL"),
        ("Ne", "crashed", "no such basis"),
    ],
)
def test_a_death_costs_one_structure(breaking, symbol, reason, words):
    with pytest.raises(LabelError, match=words) as caught:
        breaking.get_property("energy", Atoms(symbol))
    assert caught.value.reason == reason
    assert breaking.get_property("energy", Atoms("H2", [[0, 0, 0], [0, 0, 1]])) == 2.0


def test_what_it_prints_are_messages(breaking, capfd):
    """Standard output may be somebody's JSON."""
    breaking.get_property("energy", Atoms("O"))
    captured = capfd.readouterr()
    assert "python talks" in captured.err
    assert "the system talks" in captured.err
    assert captured.out == ""


def test_what_hangs_is_ended_with_all_it_started(breaking, tmp_path, gone):
    pids = tmp_path / "pids"
    calculator = InterpreterCalculator(
        sys.executable,
        "breaking_calculator.Breaking",
        environment={**HERE, "PROGRAM_PID_FILE": str(pids)},
        timeout=2.0,
    )
    with pytest.raises(LabelError, match="within 2 s") as caught:
        calculator.get_property("energy", Atoms("Na"))
    assert caught.value.reason == "timeout"
    for pid in map(int, pids.read_text().split()):
        assert gone(pid)


def test_killed_while_idle_is_started_anew():
    calculator = emt()
    atoms = rattled()
    energy = calculator.get_property("energy", atoms)
    first = calculator._process.pid
    os.kill(first, signal.SIGKILL)
    atoms.positions += 1.0
    assert calculator.get_property("energy", atoms) == pytest.approx(energy, abs=1e-9)
    assert calculator._process.pid != first


def test_it_ends_with_its_parent(gone):
    script = (
        "import sys, os\n"
        "from atomfoundry.engines.interpreter import InterpreterCalculator\n"
        f"c = InterpreterCalculator(sys.executable, '{EMT_CLASS}')\n"
        "print(c._process.pid, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    pid = int(done.stdout)
    assert gone(pid)


def test_one_calculation_an_evaluation(tmp_path):
    """EMT offers magnetic moments that it does not have."""
    log = tmp_path / "log"
    calculator = InterpreterCalculator(
        sys.executable, "writing_calculator.Counted", {"log": str(log)}, environment=HERE
    )
    atoms = rattled()
    atoms.calc = calculator
    atoms.get_forces(), atoms.get_stress(), atoms.get_potential_energies()
    assert log.read_text() == "x"


def test_descriptors_come_from_there():
    calculator = InterpreterCalculator(sys.executable, "writing_calculator.Described", environment=HERE)
    atoms = rattled()
    distances = np.sort(atoms.get_all_distances(mic=True), axis=1)
    np.testing.assert_array_equal(calculator.get_descriptors(atoms), distances[:, 1:4])
    with pytest.raises(EngineUnavailableError, match="has no descriptors"):
        emt().get_descriptors(atoms)


def test_closing_ends_the_process(gone):
    calculator = emt()
    pid = calculator._process.pid
    calculator.close()
    assert gone(pid)


@pytest.mark.parametrize(
    ("interpreter", "path", "kwargs", "words"),
    [
        ("/nowhere/python", EMT_CLASS, {}, "no interpreter '/nowhere/python'"),
        ("/bin/true", EMT_CLASS, {}, "cannot be imported by /bin/true"),
        (sys.executable, "mace_is_not_here.Calculator", {}, "No module named 'mace_is_not_here'"),
        (sys.executable, "ase.calculators.emt.EMTT", {}, "EMTT"),
        (sys.executable, EMT_CLASS, {"nested": {"calculator_class": "ase.calculators.emt.NoSuch"}}, "NoSuch"),
        (sys.executable, "ase.Atoms", {}, "no ASE calculator"),
    ],
)
def test_what_cannot_be_made_is_named(interpreter, path, kwargs, words):
    with pytest.raises(EngineUnavailableError, match=words):
        InterpreterCalculator(interpreter, path, kwargs)


def test_versions_are_those_of_the_other_interpreter():
    import ase

    assert emt(packages={"ase": ase.__version__}).versions["ase"] == ase.__version__
    with pytest.raises(EngineUnavailableError, match=r"needs ase 0\.1"):
        emt(packages={"ase": "0.1"})
    with pytest.raises(EngineUnavailableError, match="has none"):
        emt(packages={"no-such-package": "1"})


def test_an_environment_s_folder_is_an_interpreter(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    assert find_interpreter(str(tmp_path)) == str(tmp_path / "bin" / "python")


def test_our_packages_do_not_leak(monkeypatch, tmp_path):
    (tmp_path / "leaked_module.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = InterpreterProcess(sys.executable)
    try:
        reply, _ = process.ask({"kind": "probe", "calculator_class": "leaked_module.thing", "packages": []})
    finally:
        process.stop()
    assert reply["kind"] == "failed"
    assert "leaked_module" in reply["message"]


def test_as_an_engine_its_level_is_the_calculator_s():
    engine = get_engine("interpreter", interpreter=sys.executable, calculator_class=EMT_CLASS, profile="gpu")
    assert engine.level.id == get_engine("ase", calculator_class=EMT_CLASS).level.id
    assert engine.profile == "gpu"
    engine.check_available()
    labelled = engine.compute(rattled())
    reference = get_engine("ase", calculator_class=EMT_CLASS).compute(rattled())
    assert labelled.get_potential_energy() == reference.get_potential_energy()
    assert np.array_equal(labelled.get_stress(), reference.get_stress())
    with pytest.raises(EngineUnavailableError, match="nowhere"):
        get_engine("interpreter", interpreter="/nowhere", calculator_class=EMT_CLASS).check_available()
    with pytest.raises(ConfigurationError, match="timeout is 0"):
        get_engine("interpreter", interpreter="x", calculator_class=EMT_CLASS, timeout=0)


def test_files_go_into_the_folder_of_the_calculation(tmp_path):
    engine = get_engine(
        "interpreter",
        interpreter=sys.executable,
        calculator_class="writing_calculator.Writes",
        environment=HERE,
    )
    engine.single_point(rattled(), tmp_path / "label")
    assert (tmp_path / "label" / "log.txt").read_text() == "done"


def test_single_precision_and_a_full_stress_come_as_from_the_calculator_itself():
    """Numbers are not turned into others on the way, so that dynamics take the same path."""
    from single_precision import SinglePrecision

    calculator = InterpreterCalculator(sys.executable, "single_precision:SinglePrecision", environment=HERE)
    atoms, same = rattled(), rattled()
    atoms.calc, same.calc = calculator, SinglePrecision()
    assert atoms.get_potential_energy() == same.get_potential_energy()
    for name in ("get_forces", "get_stress", "get_magnetic_moments"):
        ours, theirs = getattr(atoms, name)(), getattr(same, name)()
        assert ours.dtype == theirs.dtype
        assert np.array_equal(ours, theirs)
    assert atoms.get_stress().shape == (6,)
    from ase.md.verlet import VelocityVerlet

    for each in (atoms, same):
        VelocityVerlet(each, 1.0).run(5)
    assert np.array_equal(atoms.positions, same.positions)
    calculator.close()


def test_the_level_is_the_same_wherever_it_runs():
    settings = {"calculator_class": EMT_CLASS, "calculator_kwargs": {"asap_cutoff": True}, "packages": {"ase": "3"}}
    engines = [get_engine("ase", **settings), get_engine("interpreter", interpreter=sys.executable, **settings)]
    assert engines[0].level == engines[1].level
    assert engines[0].level.extra["class"] == EMT_CLASS
    given = {"level_of_theory": {"code": "mine", "method": "x"}, **settings}
    assert get_engine("interpreter", interpreter=sys.executable, **given).level.code == "mine"
    assert type(engines[0]).level is type(engines[1]).level
