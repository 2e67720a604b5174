"""custodian's handlers on a stand-in for pw.x that fails in every known way, and on recorded outputs."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase.build import bulk

from atomfoundry.engines import get_engine
from atomfoundry.engines.espresso import outcome
from atomfoundry.engines.espresso.handlers import WallTimeHandler, pw_handlers
from atomfoundry.engines.espresso.input_file import PwInput
from atomfoundry.engines.espresso.outcome import Outcome, note_exit, read_outcome
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError

SI = bulk("Si", a=5.43)


def keyword(text: str, key: str) -> str | None:
    found = re.search(rf"(?m)^\s*{re.escape(key)}\s*=\s*(\S+)", text)
    return found[1].strip("'") if found else None


def label(tmp_path, **settings):
    return get_engine("espresso", **settings).single_point(SI, tmp_path / "run")


def names(tmp_path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run").iterdir())


def test_a_good_run_leaves_no_trace_of_custodian(stand_in, texts, tmp_path):
    stand_in.plan({"out": texts["good"]})
    result = label(tmp_path)
    assert result.energy == pytest.approx(-16.85588033 * 13.605693, abs=1e-4)
    assert result.forces[0] == pytest.approx([-0.01 * 25.7110, 0.02 * 25.7110, 0], abs=1e-4)
    assert result.stress == pytest.approx([-1e-4 * 91.8158] * 3 + [0, 0, -2e-5 * 91.8158], abs=1e-5)
    assert names(tmp_path) == ["espresso.err", "espresso.pwi", "espresso.pwo"]


@pytest.mark.parametrize(
    ("failure", "changed"),
    [
        ({"out": error_text, "code": 1}, changed)
        for error_text, changed in (
            ("     Error in routine cdiaghg (668):\n     problems computing cholesky\n", {"diagonalization": "cg"}),
            ("     Error in routine c_bands (1):\n     too many bands are not converged\n", {"diagonalization": "cg"}),
            ("     Error in routine rdiaghg (4):\n     S matrix not positive definite\n", {"diagonalization": "cg"}),
            ("     Error in routine sgama (1):\n     not orthogonal operation\n", {"nosym": ".true."}),
            ("     Error in routine checkallsym (2):\n     some of the symmetries were wrong\n", {"nosym": ".true."}),
            ("     Error in routine allocate_fft (1):\n     error allocating psic\n", {"diago_david_ndim": "2"}),
            ("", {"startingpot": "atomic"}),
        )
    ]
    + [
        ({"err": "forrtl: severe (41): insufficient virtual memory\n", "code": 41}, {"mixing_ndim": "4"}),
        ({"signal": signal.SIGKILL}, {"disk_io": "medium"}),
        ({"err": "mpirun noticed that process rank 1 exited on signal 9 (Killed).\n"}, {"diago_david_ndim": "2"}),
        ({"signal": signal.SIGSEGV}, {"startingpot": "atomic"}),
    ],
)
def test_one_failure_is_repaired_and_recorded(stand_in, texts, tmp_path, caplog, failure, changed):
    stand_in.plan(failure, {"out": texts["good"]})
    good = label(tmp_path)
    first, second = stand_in.inputs()
    for key, value in changed.items():
        assert keyword(second, key) == value != keyword(first, key)
    for key in ("ecutwfc", "degauss", "smearing", "conv_thr", "occupations", "nspin"):
        assert keyword(first, key) == keyword(second, key), "a correction must not move the energy surface"
    assert first.split("ATOMIC_SPECIES")[1] == second.split("ATOMIC_SPECIES")[1]
    assert names(tmp_path) == ["custodian.json", "espresso.err", "espresso.pwi", "espresso.pwo", "failed-1"]
    log = json.loads((tmp_path / "run" / "custodian.json").read_text())
    assert next(step["actions"] for step in log[0]["corrections"])[0]["action"]["_set"]
    assert "converged after corrections" in caplog.text
    assert (tmp_path / "run" / "failed-1" / "espresso.pwi").read_text() == first
    stand_in.plan({"out": texts["good"]})
    assert label(tmp_path).energy == good.energy
    assert "failed-1" not in names(tmp_path) and "custodian.json" not in names(tmp_path)


def test_the_ladder_of_an_unconverged_cycle(stand_in, texts, tmp_path):
    stand_in.plan({"out": texts["unconverged"], "code": 2, "density": "rho"})
    with pytest.raises(LabelError, match=r"did not converge.*Tried: unconverged -> .*mixing_beta = 0\.175") as caught:
        label(tmp_path, empty_bands=4)
    assert caught.value.reason == "unconverged"
    inputs = stand_in.inputs()
    assert [keyword(text, "mixing_beta") for text in inputs] == ["0.7", "0.175", "0.175", "0.0875"]
    assert [keyword(text, "electron_maxstep") for text in inputs] == ["100", "200", "200", "200"]
    assert [keyword(text, "startingpot") for text in inputs] == [None, "file", "file", "atomic"]
    assert [keyword(text, "mixing_mode") for text in inputs] == [None, None, "local-TF", "local-TF"]
    assert [keyword(text, "nbnd") for text in inputs] == ["8", "8", "8", "13"]
    assert keyword(inputs[0], "ecutwfc") == keyword(inputs[3], "ecutwfc")


def test_two_different_failures_are_both_repaired(stand_in, texts, complaint, tmp_path):
    stand_in.plan(
        {"out": texts["unconverged"], "code": 2},
        {"out": complaint("cdiaghg", "problems computing cholesky"), "code": 1},
        {"out": texts["good"]},
    )
    label(tmp_path)
    last = stand_in.inputs()[2]
    assert (keyword(last, "mixing_beta"), keyword(last, "diagonalization")) == ("0.175", "cg")


def test_corrections_are_bounded(stand_in, texts, complaint, tmp_path):
    stand_in.plan({"out": complaint("cdiaghg", "problems computing cholesky"), "code": 1})
    with pytest.raises(LabelError, match=r"computing cholesky.*Tried") as caught:
        label(tmp_path)
    assert caught.value.reason == "crashed" and len(stand_in.inputs()) == 3
    stand_in.plan({"out": texts["unconverged"], "code": 2})
    with pytest.raises(LabelError):
        label(tmp_path, max_corrections=1)
    assert len(stand_in.inputs()) == 2
    stand_in.plan({"out": texts["unconverged"], "code": 2})
    with pytest.raises(LabelError) as caught:
        label(tmp_path, max_corrections=0)
    assert len(stand_in.inputs()) == 1 and caught.value.reason == "unconverged"


def test_memory_that_stays_short(stand_in, tmp_path):
    stand_in.plan({"err": "Cannot allocate memory\n", "code": 1})
    with pytest.raises(LabelError, match="Cannot allocate memory") as caught:
        label(tmp_path)
    assert caught.value.reason == "out_of_memory" and len(stand_in.inputs()) == 2


def test_a_crash_without_a_word(stand_in, tmp_path):
    stand_in.plan({"code": 3})
    with pytest.raises(LabelError, match="without a message") as caught:
        label(tmp_path)
    assert caught.value.reason == "crashed" and len(stand_in.inputs()) == 2


def test_pseudopotentials_and_input_are_not_tried_again(stand_in, complaint, tmp_path):
    stand_in.plan({"out": complaint("readpp", "file ./Si.upf not found"), "code": 1})
    with pytest.raises(EngineUnavailableError, match=r"Si\.upf not found.*Get the file again"):
        label(tmp_path)
    assert len(stand_in.inputs()) == 1
    stand_in.plan({"out": complaint("set_cutoff", "ecutrho <= ecutwfc?!?"), "code": 1})
    with pytest.raises(ConfigurationError, match=r"ecutrho <= ecutwfc.*Correct ecutwfc"):
        label(tmp_path)
    assert len(stand_in.inputs()) == 1
    stand_in.plan({"out": complaint("setup", "something new"), "code": 1})
    with pytest.raises(LabelError, match="something new") as caught:
        label(tmp_path)
    assert caught.value.reason == "crashed" and len(stand_in.inputs()) == 1


def test_a_run_out_of_time_leaves_its_density_for_the_next(stand_in, texts, tmp_path):
    stop = {"out": "     Maximum CPU time exceeded\n   JOB DONE.\n", "code": 255, "density": "half way"}
    stand_in.plan(stop)
    with pytest.raises(LabelError, match="stopped by itself") as caught:
        label(tmp_path, timeout=50.0, max_corrections=0)
    assert caught.value.reason == "timeout" and len(stand_in.inputs()) == 1
    assert float(keyword(stand_in.inputs()[0], "max_seconds")) == pytest.approx(45, abs=1)
    kept = tmp_path / "run" / "scratch" / "pwscf.save" / "charge-density.dat"
    assert kept.read_text() == "half way"
    stand_in.plan({"out": texts["good"]})
    label(tmp_path)
    assert keyword(stand_in.inputs()[0], "startingpot") == "file"
    assert not kept.exists()
    stand_in.plan(stop)
    with pytest.raises(LabelError):
        label(tmp_path, max_corrections=0)
    other = SI.copy()
    other.rattle(0.1)
    stand_in.plan({"out": texts["good"]})
    get_engine("espresso").single_point(other, tmp_path / "run")
    assert keyword(stand_in.inputs()[0], "startingpot") is None, "another structure's density"


def test_a_limit_of_the_users_own_is_continued(stand_in, texts, tmp_path):
    stop = {"out": "     Maximum CPU time exceeded\n   JOB DONE.\n", "code": 255, "density": "half way"}
    stand_in.plan(stop, stop, {"out": texts["good"]})
    label(tmp_path, input_data={"control": {"max_seconds": 2.0}})
    assert [keyword(text, "startingpot") for text in stand_in.inputs()] == [None, "file", "file"]
    assert [float(keyword(text, "max_seconds")) for text in stand_in.inputs()] == [2.0] * 3


def test_a_continuation_needs_time_and_a_density():
    text = PwInput("&CONTROL\n   max_seconds = 5.0\n/\n")
    stopped = Outcome(outcome.WALL_TIME, has_density=True)
    assert WallTimeHandler(time.time() + 60).changes(text, stopped) == {("electrons", "startingpot"): "file"}
    assert WallTimeHandler(time.time() + 1).changes(text, stopped) is None
    assert WallTimeHandler(None).changes(text, Outcome(outcome.WALL_TIME)) is None


def test_the_end_of_the_batch_job_comes_first(stand_in, fresh_settings, texts, tmp_path):
    stand_in.plan({"out": texts["good"]})
    fresh_settings.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 30))
    label(tmp_path)
    assert float(keyword(stand_in.inputs()[0], "max_seconds")) == pytest.approx(27, abs=2)
    fresh_settings.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() - 1))
    with pytest.raises(LabelError, match="no time is left") as caught:
        label(tmp_path)
    assert caught.value.reason == "timeout"


def test_an_output_without_forces(stand_in, texts, tmp_path):
    stand_in.plan({"out": texts["good"].replace("Forces acting on atoms", "")})
    with pytest.raises(LabelError, match="no forces") as caught:
        label(tmp_path)
    assert caught.value.reason == "no_forces"


def test_densities_are_kept_for_the_family(stand_in, texts, tmp_path):
    store = tmp_path / "densities"
    family = {"density_dir": str(store)}
    stand_in.plan({"out": texts["good"], "density": "parent"})
    label(tmp_path, **family)
    assert keyword(stand_in.inputs()[0], "disk_io") == "low"
    (kept,) = store.iterdir()
    assert kept.name.startswith("family-") and (kept / "charge-density.dat").read_text() == "parent"
    stand_in.plan({"out": texts["good"]})
    strained = SI.copy()
    strained.set_cell(SI.cell * 1.02, scale_atoms=True)
    get_engine("espresso", **family).single_point(strained, tmp_path / "child")
    assert keyword(stand_in.inputs()[0], "startingpot") == "file"
    for other in (SI * (2, 1, 1),):
        stand_in.plan({"out": "", "code": 1})
        with pytest.raises(LabelError):
            get_engine("espresso", **family).single_point(other, tmp_path / "other")
        assert keyword(stand_in.inputs()[0], "startingpot") is None
    polarised = get_engine("espresso", **family, spin="collinear")
    stand_in.plan({"out": texts["good"], "density": "up"})
    polarised.single_point(SI, tmp_path / "spin")
    polarised.single_point(SI, tmp_path / "spin")
    assert keyword(stand_in.inputs()[1], "startingpot") is None
    assert len(list(store.iterdir())) == 1


def test_every_cause_has_one_handler():
    causes = {value for name, value in vars(outcome).items() if name.isupper() and isinstance(value, str)}
    causes -= {outcome.CONVERGED, outcome.ERROR, outcome.EXIT, outcome.OUTPUT, outcome.SAVE, outcome.SCRATCH}
    handled = [handler.cause for handler in pw_handlers(may_add_bands=True, end_time=None)]
    assert sorted(handled) == sorted(causes) and len(set(handled)) == len(handled)


@pytest.mark.parametrize(
    ("folder", "cause"),
    [
        ("failed_computing_cholesky_stdout", outcome.DIAGONALIZATION),
        ("failed_out_of_walltime_interrupted", outcome.WALL_TIME),
        ("failed_scf_not_converged", outcome.UNCONVERGED),
    ],
)
def test_recorded_failures_are_recognised(tmp_path, folder, cause):
    named = os.environ.get("ATOMFOUNDRY_TEST_DATA")
    root = Path(named) if named else Path(__file__).resolve().parents[5] / "shared" / "data"
    source = root / "dft_outputs" / "qe" / folder / "aiida.out"
    if not source.is_file():
        pytest.skip("no folder of real data (ATOMFOUNDRY_TEST_DATA)")
    (tmp_path / "espresso.pwo").write_bytes(source.read_bytes())
    note_exit(tmp_path, code=1, stopped=False)
    assert read_outcome(tmp_path).cause == cause


def test_a_truncated_pseudopotential_is_recognised(tmp_path):
    (tmp_path / "espresso.pwo").write_text("     Max angular momentum in pseudopotentials (lmaxx) =  4\n")
    (tmp_path / "espresso.err").write_text("At line 819 of file xmltools.f90\nFortran runtime error: End of file\n")
    note_exit(tmp_path, code=2, stopped=False)
    found = read_outcome(tmp_path)
    assert found.cause == outcome.PSEUDOPOTENTIAL and "End of file" in found.detail


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells a launcher that its parent died")
@pytest.mark.parametrize("way", [pytest.param("time", marks=pytest.mark.slow), "death"])
def test_nothing_that_the_command_started_survives(own_upf, fresh_settings, tmp_path, way, gone):
    """A command like mpirun: it starts ranks in process groups of their own, which ignore polite requests."""
    own_upf("Si")
    script = tmp_path / "mpirun.py"
    script.write_text(
        "import os, signal, subprocess, sys, time\n"
        f"here = {str(tmp_path)!r}\n"
        "if sys.argv[1] == 'rank':\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    open(f'{here}/pid-{os.getpid()}', 'w').close()\n"
        "    time.sleep(300)\n"
        "ranks = [subprocess.Popen([sys.executable, '-I', '-S', __file__, 'rank'], process_group=0) for _ in '12']\n"
        "[rank.wait() for rank in ranks]\n"
    )
    fresh_settings.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", f"{sys.executable} -I -S {script} start")

    def ranks() -> list[int]:
        return [int(path.name[4:]) for path in tmp_path.glob("pid-*")]

    if way == "time":
        for timeout in (2.0, 10.0, 40.0):
            with pytest.raises(LabelError, match="in time"):
                get_engine("espresso", timeout=timeout).single_point(SI)
            if len(ranks()) >= 2:
                break
    else:
        code = (
            "from ase.build import bulk; from atomfoundry.engines import get_engine;"
            "get_engine('espresso').single_point(bulk('Si'))"
        )
        parent = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
        for _ in range(600):
            if len(ranks()) >= 2:
                break
            time.sleep(0.1)
        parent.kill()
        parent.wait()
        time.sleep(1.5)
    assert len(ranks()) >= 2
    for pid in ranks():
        assert gone(pid)
