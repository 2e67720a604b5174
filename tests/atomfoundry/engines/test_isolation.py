"""Whatever a code does, it costs one label: the next is computed in a new process."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.engines import get_engine
from atomfoundry.engines.children.messages import atoms_from_message, atoms_to_message, pack, unpack
from atomfoundry.engines.isolation import IsolatedEngine, isolated, process, stop_process
from atomfoundry.engines.isolation.current import own_process
from atomfoundry.errors import EngineUnavailableError, InputError, LabelError, UnsupportedElementError

HERE = Path(__file__).parent
EMT = {"calculator_class": "ase.calculators.emt.EMT"}
BREAKING = {"calculator_class": "breaking_calculator.Breaking"}


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays():
    yield
    stop_process()


def breaking(**limits) -> IsolatedEngine:
    engine = isolated(get_engine("ase", **BREAKING), **limits)
    assert isinstance(engine, IsolatedEngine)
    return engine


def child_of(engine: IsolatedEngine) -> int:
    return own_process(engine.engine).pid


def test_labels_are_the_same_to_the_last_bit():
    plain = get_engine("ase", **EMT)
    apart = isolated(plain)
    assert apart.level.id == plain.level.id
    assert apart.name == "ase"
    crystal = bulk("Cu", cubic=True)
    crystal.rattle(0.1, seed=1)
    slab = crystal.copy()
    slab.pbc = (True, False, True)
    for atoms in (crystal, slab, Atoms("Cu")):
        first, second = plain.single_point(atoms), apart.single_point(atoms)
        assert second.energy == first.energy
        assert np.array_equal(second.forces, first.forces)
        assert (second.stress is None) == (first.stress is None)
        if first.stress is not None:
            assert np.array_equal(second.stress, first.stress)
    assert apart.compute(crystal).info["level"] == plain.level.id


def test_structures_arrive_whole():
    atoms = molecule("CH3CH2OH")
    atoms.positions += 1 / 3
    atoms.set_initial_magnetic_moments(np.arange(9) / 7)
    atoms.cell = [[4, 0.1, 0], [0, 5, 0.2], [0, 0, 6]]
    atoms.pbc = (True, False, True)
    atoms.info = {"charge": np.int64(-1), "spin_multiplicity": None, "field": np.eye(3), "flags": ["a"]}
    again = atoms_from_message(*unpack(pack(*atoms_to_message(atoms))))
    assert again == atoms
    assert np.array_equal(again.get_initial_magnetic_moments(), atoms.get_initial_magnetic_moments())
    assert np.array_equal(again.info.pop("field"), np.eye(3))
    assert again.info == {"charge": -1, "spin_multiplicity": None, "flags": ["a"]}
    atoms.info["secret"] = object()
    with pytest.raises(InputError, match=r"info\['secret'\] is a object"):
        atoms_to_message(atoms)


@pytest.mark.parametrize("message", [b"", b"\x05\x00\x00\x00{", b"\x02\x00\x00\x00{}", b"\xff" * 40])
def test_damaged_messages_are_refused(message):
    with pytest.raises((ValueError, KeyError)):
        unpack(message)


def test_arrays_of_objects_are_refused():
    with pytest.raises(ValueError, match="array of object"):
        unpack(pack({}, {"a": np.array([object()])}))


@pytest.mark.parametrize(
    ("symbol", "reason", "words"),
    [
        ("He", "crashed", r"killed by SIGSEGV.*Segmentation fault.*segfault"),
        ("Li", "crashed", "killed by SIGABRT"),
        ("Be", "crashed", "exit code 7.*a last word"),
        ("N", "crashed", "RuntimeError: boom"),
        ("Ne", "crashed", "SystemExit: no such basis"),
        ("F", "out_of_memory", "killed by SIGKILL"),
    ],
)
def test_a_crash_costs_one_label(symbol, reason, words):
    engine = breaking()
    first = child_of(engine)
    with pytest.raises(LabelError, match=f"(?s)^[A-Z][A-Za-z]*: .*{words}") as caught:
        engine.single_point(Atoms(f"{symbol}H", [[0, 0, 0], [0, 0, 1]]))
    assert caught.value.reason == reason
    assert engine.single_point(Atoms("H2", [[0, 0, 0], [0, 0, 1]])).energy == 2
    # An exception is no crash: the process goes on.
    assert (child_of(engine) == first) == (symbol in ("N", "Ne"))


@pytest.mark.parametrize("symbol", ["B", "Al"])
def test_a_hang_costs_one_label(symbol, gone):
    engine = breaking(timeout=0.3)
    child = child_of(engine)
    with pytest.raises(LabelError, match=r"not computed within 0\.3 s") as caught:
        engine.single_point(Atoms(symbol))
    assert caught.value.reason == "timeout"
    assert gone(child)
    assert engine.single_point(Atoms("H")).energy == 1


def test_the_time_limit_does_not_count_the_loading():
    stop_process()
    assert breaking(timeout=0.3).single_point(Atoms("H")).energy == 1


def test_a_memory_limit_costs_one_label():
    engine = breaking(memory_limit=300)
    with pytest.raises(LabelError) as caught:
        engine.single_point(Atoms("C"))
    assert caught.value.reason == "out_of_memory"
    assert engine.single_point(Atoms("H")).energy == 1


def test_what_the_code_prints_goes_where_it_went(capsys):
    assert breaking().single_point(Atoms("O")).energy == 1
    assert set(capsys.readouterr().out.splitlines()) == {"python talks", "C talks", "the system talks"}
    breaking().single_point(Atoms("H"))
    assert capsys.readouterr().out == ""


def test_many_labels_take_one_process():
    engine = isolated(get_engine("ase", **EMT))
    child = child_of(engine)
    for i in range(200):
        atoms = Atoms("Cu", [[i, 0, 0]])
        assert np.array_equal(engine.single_point(atoms).forces, [[0, 0, 0]])
    assert child_of(engine) == child


def test_a_child_killed_while_idle_costs_nothing():
    engine = breaking()
    for _ in range(3):
        os.kill(child_of(engine), signal.SIGKILL)
        assert engine.single_point(Atoms("H")).energy == 1


def test_a_child_killed_from_outside_is_noticed_at_once():
    engine = breaking(timeout=60)
    killer = threading.Timer(0.3, os.kill, [child_of(engine), signal.SIGKILL])
    killer.start()
    start = time.monotonic()
    with pytest.raises(LabelError, match="SIGKILL") as caught:
        engine.single_point(Atoms("B"))
    assert caught.value.reason == "out_of_memory"
    assert time.monotonic() - start < 10
    assert engine.single_point(Atoms("H")).energy == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_requests_to_stop_are_left_to_the_parent(number):
    engine = isolated(
        get_engine("ase", calculator_class="breaking_calculator.Breaking", calculator_kwargs={"pause": 0.5})
    )
    child = child_of(engine)
    killer = threading.Timer(0.2, os.kill, [child, number])
    killer.start()
    assert engine.single_point(Atoms("H")).energy == 1
    killer.join()
    assert child_of(engine) == child


@pytest.mark.parametrize(("symbol", "reason"), [("Na", "timeout"), ("Mg", "crashed")])
def test_programs_that_the_code_started_go_with_it(symbol, reason, tmp_path, monkeypatch, gone):
    monkeypatch.setenv("PROGRAM_PID_FILE", str(tmp_path / "pids"))
    with pytest.raises(LabelError) as caught:
        breaking(timeout=1.0).single_point(Atoms(symbol))
    assert caught.value.reason == reason
    child, program = map(int, (tmp_path / "pids").read_text().split())
    assert gone(child)
    assert gone(program)


def test_an_interrupted_label_does_not_answer_the_next(gone):
    engine = breaking()
    child = child_of(engine)

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            engine.single_point(Atoms("B"))
    finally:
        signal.signal(signal.SIGALRM, before)
    assert gone(child)
    assert engine.single_point(Atoms("H2", [[0, 0, 0], [0, 0, 1]])).energy == 2


def test_the_child_is_kept_and_follows_the_parents_world(tmp_path, monkeypatch):
    engine = breaking()
    child = child_of(engine)
    (tmp_path / "late_module.py").write_text(
        "import os\nfrom breaking_calculator import Breaking\n"
        "class Late(Breaking):\n"
        "    def calculate(self, *a, **k):\n"
        "        super().calculate(*a, **k)\n"
        "        self.results['energy'] = float(os.environ['LATE_ENERGY'])\n"
        "        open('seen', 'w').close()\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("LATE_ENERGY", "3.5")
    monkeypatch.chdir(tmp_path)
    late = isolated(get_engine("ase", calculator_class="late_module.Late"))
    assert late.single_point(Atoms("H")).energy == 3.5
    assert (tmp_path / "seen").exists()
    assert engine.single_point(Atoms("H")).energy == 1
    assert child_of(engine) == child


def test_other_thread_numbers_are_another_child(monkeypatch):
    engine = breaking()
    child = child_of(engine)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert child_of(engine) != child
    assert psutil.Process(child_of(engine)).environ()["OMP_NUM_THREADS"] == "3"


def test_input_errors_stay_what_they_are():
    missing = isolated(get_engine("ase", calculator_class="no.where.Calc"))
    with pytest.raises(EngineUnavailableError, match=r"no\.where.*Give the import path"):
        missing.check_available()
    with pytest.raises(EngineUnavailableError):
        missing.single_point(Atoms("H"))
    with pytest.raises(UnsupportedElementError, match="He"):
        isolated(get_engine("ase", **EMT, elements=["Cu"])).single_point(Atoms("He"))
    with pytest.raises(LabelError, match="periodic in three directions") as caught:
        isolated(get_engine("xtb")).single_point(Atoms("H", cell=[9, 9, 9], pbc=(1, 1, 0)))
    assert caught.value.reason == "unsupported"


def test_a_code_that_crashes_while_loading_is_unavailable(tmp_path, monkeypatch):
    (tmp_path / "crash_at_import.py").write_text("import ctypes\nctypes.string_at(0)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=r"(?s)engine 'ase' was killed by SIGSEGV.*crash_at_import"):
        isolated(get_engine("ase", calculator_class="crash_at_import.Calc")).check_available()


@pytest.mark.slow
def test_a_code_that_hangs_while_loading_is_unavailable(tmp_path, monkeypatch):
    (tmp_path / "hang_at_import.py").write_text("import time\ntime.sleep(600)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(process, "STARTUP_S", 0.5)
    with pytest.raises(EngineUnavailableError, match=r"'ase' was not loaded within 0\.5 s"):
        isolated(get_engine("ase", calculator_class="hang_at_import.Calc")).check_available()
    monkeypatch.undo()
    assert isolated(get_engine("ase", **EMT)).single_point(Atoms("Cu")).energy > 0


def test_engines_that_start_programs_themselves_stay_as_they_are():
    engine = get_engine("espresso")
    assert not engine.in_process
    assert isolated(engine, timeout=1.0) is engine


def test_threads_have_a_child_each(gone):
    engine = breaking()
    mine, found = child_of(engine), []

    def work():
        found.append(child_of(engine))
        found.append(engine.single_point(Atoms("H")).energy)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found[1] == 1
    assert found[0] != mine
    assert gone(found[0])
    assert child_of(engine) == mine


def _label_in(queue):
    sys.path.insert(0, str(HERE))
    engine = breaking()
    queue.put((child_of(engine), engine.single_point(Atoms("H")).energy))


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_daemon_starts_its_own(monkeypatch, gone):
    engine = breaking()
    mine = child_of(engine)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    process = context.Process(target=_label_in, args=(queue,), daemon=True)
    process.start()
    child, energy = queue.get()
    process.join(20)
    assert energy == 1
    assert child != mine
    assert gone(child)
    assert child_of(engine) == mine
    assert engine.single_point(Atoms("H")).energy == 1


PARENT = """
import os, sys
sys.path.insert(0, sys.argv[1])
from ase import Atoms
from atomfoundry.engines import get_engine
from atomfoundry.engines.isolation import isolated
isolated(get_engine("ase", calculator_class="breaking_calculator.Breaking")).single_point(Atoms(sys.argv[2]))
sys.stdin.read()
"""


@pytest.mark.parametrize("symbol", ["Na", "H"])
def test_the_child_dies_with_its_parent(symbol, tmp_path, gone):
    pids = tmp_path / "pids"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(HERE), symbol],
        env={**os.environ, "PROGRAM_PID_FILE": str(pids)},
        stdin=subprocess.PIPE,
    )
    try:
        end = time.monotonic() + 60
        children: list[psutil.Process] = []
        while not children or (symbol == "Na" and not pids.exists()):
            assert time.monotonic() < end
            assert parent.poll() is None
            children = psutil.Process(parent.pid).children()
            time.sleep(0.02)
        parent.kill()
        assert gone(children[0].pid)
    finally:
        parent.kill()
        parent.communicate()
        if pids.exists():
            for pid in map(int, pids.read_text().split()):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
