"""ABINIT: labels against finite differences and Quantum ESPRESSO on the same pseudopotentials, and how it fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ase import Atoms
from ase.build import molecule
from ase.io.abinit import read_abinit_in

from atomfoundry.engines import get_engine
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError
from atomfoundry.settings import settings
from atomfoundry.units import EV_PER_A3_IN_GPA, RYDBERG


def missing() -> str:
    try:
        get_engine("abinit").check_available()
    except EngineUnavailableError as error:
        return str(error)
    return ""


needs_abinit = pytest.mark.skipif(bool(missing()), reason=missing())
CHEAP = {"ecut": 16 * RYDBERG, "kpoint_spacing": 1.1}
needs_files = pytest.mark.skipif("SPMS" in missing(), reason=missing())


class TestSettings:
    def test_level_tells_what_decides_the_energy_surface(self):
        level = get_engine("abinit", ecut=500.0).level
        assert (level.code, level.cutoff, level.density_cutoff) == ("abinit", 500.0, 2000.0)
        assert level.pseudopotentials == get_engine("espresso").level.pseudopotentials
        changes = (
            {},
            {"ecut": 500.0},
            {"kpoint_spacing": 0.3},
            {"smearing": "fermi-dirac"},
            {"smearing_width": 0.1},
            {"vacuum": 6.0},
            {"variables": {"nband": 9}},
        )
        assert len({get_engine("abinit", **change).level.id for change in changes}) == len(changes)
        assert get_engine("abinit", timeout=1.0, empty_bands=3).level.id == get_engine("abinit").level.id

    @pytest.mark.parametrize("wrong", [{"ecut": -1.0}, {"smearing": "cold"}, {"max_steps": 0}])
    def test_wrong_settings_are_refused(self, wrong):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            get_engine("abinit", **wrong)

    def test_cutoff_that_is_too_low_for_an_element(self):
        engine = get_engine("abinit", ecut=30 * RYDBERG)
        engine.check_elements(["Si", "H"])
        with pytest.raises(ConfigurationError, match="too low for O Si"):
            engine.check_elements(["Si", "O"])
        get_engine("abinit", **engine.settings_for(["Si", "O"])).check_elements(["Si", "O"])

    def test_command_that_is_none(self, monkeypatch):
        monkeypatch.setenv("ATOMFOUNDRY_ABINIT_COMMAND", "no-such-program -np 4 abinit")
        settings.cache_clear()
        try:
            with pytest.raises(EngineUnavailableError, match="no-such-program"):
                get_engine("abinit").check_available()
        finally:
            monkeypatch.undo()
            settings.cache_clear()

    @needs_files
    def test_input_file(self, strained_silicon, tmp_path):
        engine = get_engine("abinit", **CHEAP, variables={"diemix": 0.5})
        (path,) = engine.write_inputs(strained_silicon, tmp_path)
        with path.open() as stream:
            read = read_abinit_in(stream)
        assert read.positions == pytest.approx(strained_silicon.positions, abs=1e-10)
        assert read.cell.array == pytest.approx(strained_silicon.cell.array, abs=1e-10)
        words = path.read_text()
        assert "diemix 0.5" in words
        assert "nsppol 1" in words

    @needs_files
    def test_species_keep_their_pseudopotentials(self, tmp_path):
        atoms = molecule("CH3SiH3")
        (path,) = get_engine("abinit", ecut=60 * RYDBERG).write_inputs(atoms, tmp_path)
        words = path.read_text()
        assert [int(z) for z in words.split("znucl")[1].split("\n")[0].split()] == [1, 6, 14]
        order = [words.index(f"{number}_{symbol}_") for number, symbol in (("01", "H"), ("06", "C"), ("14", "Si"))]
        assert order == sorted(order)


@needs_files
class TestFailures:
    """With a stand-in for ABINIT: one crash costs one label."""

    def compute(self, atoms: Atoms, folder: Path, **changes: object) -> LabelError:
        with pytest.raises(LabelError) as caught:
            get_engine("abinit", **CHEAP | changes).single_point(atoms, folder)
        return caught.value

    def test_message_of_the_code(self, stand_in, strained_silicon, tmp_path):
        message = r"--- !ERROR\nsrc_file: m.F90\nmessage: |\n    Too few\n    planewaves\n...\n"
        stand_in("abinit", script=f"printf -- '{message}'; exit 14")
        error = self.compute(strained_silicon, tmp_path)
        assert error.reason == "crashed"
        assert "Too few planewaves" in str(error)

    def test_no_output_at_all(self, stand_in, strained_silicon, tmp_path):
        stand_in("abinit", script="echo 'Segmentation fault' >&2; exit 139")
        error = self.compute(strained_silicon, tmp_path)
        assert (error.reason, "Segmentation fault" in str(error)) == ("crashed", True)

    def test_success_without_result_is_a_crash(self, stand_in, strained_silicon, tmp_path):
        stand_in("abinit", script="exit 0")
        assert self.compute(strained_silicon, tmp_path).reason == "crashed"

    def test_unconverged_is_tried_twice(self, stand_in, strained_silicon, tmp_path):
        stand_in("abinit", script="echo x >> runs; echo 'nstep= 60 was not enough SCF cycles to converge'")
        assert self.compute(strained_silicon, tmp_path).reason == "unconverged"
        assert (tmp_path / "runs").read_text() == "x\nx\n"
        assert "diemix 0.2" in (tmp_path / "abinit.abi").read_text()

    def test_killed_by_the_system(self, stand_in, strained_silicon, tmp_path):
        stand_in("abinit", script="kill -9 $$")
        assert self.compute(strained_silicon, tmp_path).reason == "out_of_memory"

    def test_timeout_leaves_no_children(self, stand_in, strained_silicon, tmp_path, gone):
        stand_in("abinit", script="sleep 100 & echo $! > child; wait")
        assert self.compute(strained_silicon, tmp_path, timeout=1.0).reason == "timeout"
        assert gone(int((tmp_path / "child").read_text()))

    def test_end_of_the_batch_job(self, stand_in, strained_silicon, tmp_path, monkeypatch):
        stand_in("abinit", script="sleep 100")
        monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 0.5))
        error = self.compute(strained_silicon, tmp_path)
        assert (error.reason, "end of its job" in str(error)) == ("timeout", True)

    def test_dies_with_its_parent(self, stand_in, tmp_path, gone):
        stand_in("abinit", script="echo $$ > child; exec sleep 100")
        script = (
            "import sys; from ase.build import bulk; from atomfoundry.engines import get_engine\n"
            "get_engine('abinit').single_point(bulk('Si'), sys.argv[1])"
        )
        parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)])
        child = tmp_path / "child"
        try:
            wait_for(lambda: child.is_file() and child.read_text().strip())
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.wait()
        assert gone(int(child.read_text()))


def wait_for(condition) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.abinit
@needs_abinit
class TestBinary:
    @pytest.mark.slow
    def test_equals_quantum_espresso(self, strained_silicon, tmp_path):
        same = {"kpoint_spacing": 1.1}
        ours = get_engine("abinit", ecut=20 * RYDBERG, **same).single_point(strained_silicon, tmp_path)
        theirs = get_engine("espresso", ecutwfc=20 * RYDBERG, **same).single_point(strained_silicon)
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-4)
        assert ours.forces == pytest.approx(theirs.forces, abs=5e-4)
        assert ours.stress == pytest.approx(theirs.stress, abs=0.01 / EV_PER_A3_IN_GPA)
        assert not [name for name in os.listdir(tmp_path) if name.startswith("abinito_")]  # noqa: PTH208

    @pytest.mark.slow
    def test_unconverged(self, strained_silicon):
        with pytest.raises(LabelError) as caught:
            get_engine("abinit", **CHEAP, max_steps=2).single_point(strained_silicon)
        assert caught.value.reason == "unconverged"

    def test_its_own_error_message(self, strained_silicon):
        with pytest.raises(LabelError, match="number of planewaves") as caught:
            get_engine("abinit", **CHEAP, variables={"nband": 500}).single_point(strained_silicon)
        assert caught.value.reason == "crashed"

    @pytest.mark.slow
    @pytest.mark.parametrize("smearing", ["gaussian", "fermi-dirac"])
    def test_forces_and_stress_are_derivatives_of_the_energy(self, smearing, strained_silicon, finite_differences):
        engine = get_engine("abinit", ecut=40 * RYDBERG, kpoint_spacing=1.1, smearing=smearing, smearing_width=0.2)
        result, force, xx, yz = finite_differences(engine, strained_silicon)
        assert result.forces[0, 0] == pytest.approx(force, abs=5e-4)
        assert result.stress[0] == pytest.approx(xx, abs=0.06 / EV_PER_A3_IN_GPA)
        assert result.stress[3] == pytest.approx(yz, abs=0.06 / EV_PER_A3_IN_GPA)

    @pytest.mark.slow
    @pytest.mark.parametrize("symbol", ["H", "Si"])
    def test_atoms_equal_those_of_quantum_espresso(self, symbol):
        ours = get_engine("abinit", ecut=20 * RYDBERG, vacuum=3.0).single_point(Atoms(symbol))
        theirs = get_engine("espresso", ecutwfc=20 * RYDBERG, vacuum=3.0).single_point(Atoms(symbol))
        assert ours.energy == pytest.approx(theirs.energy, abs=1e-3)
        assert ours.stress is None
