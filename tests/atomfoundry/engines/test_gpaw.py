"""GPAW: labels against finite differences and Quantum ESPRESSO, and how it fails."""

from __future__ import annotations

import os
import runpy
import sys
import time

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.engines import get_engine
from atomfoundry.engines.gpaw import install as gpaw_install
from atomfoundry.engines.gpaw.engine import GPAW_ELEMENTS
from atomfoundry.engines.gpaw.install import install_gpaw, provide_gpaw
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, LabelError, UnsupportedElementError
from atomfoundry.units import EV_PER_A3_IN_GPA


def missing() -> str:
    try:
        get_engine("gpaw").check_available()
    except EngineUnavailableError as error:
        return str(error)
    return ""


CHEAP = {"ecut": 250.0, "kpoints": [2, 2, 2], "bands": 6}


class TestSettings:
    def test_level_tells_what_decides_the_energy_surface(self):
        level = get_engine("gpaw").level
        assert (level.code, level.method, level.cutoff) == ("gpaw", "PBE", 400.0)
        assert level.pseudopotentials == "gpaw-data-1.2"
        ids = {
            get_engine("gpaw", **changes).level.id
            for changes in (
                {},
                {"ecut": 500.0},
                {"functional": "RPBE"},
                {"kpoint_spacing": 0.3},
                {"kpoints": [4, 4, 4]},
                {"smearing": "gaussian"},
                {"smearing_width": 0.1},
                {"spin": "polarised"},
                {"vacuum": 6.0},
                {"datasets": "own"},
                {"parameters": {"gpts": [24, 24, 24]}},
            )
        }
        assert len(ids) == 11

    def test_what_changes_only_the_cost_is_no_other_level(self):
        assert get_engine("gpaw", bands=9, timeout=1.0, max_steps=7).level.id == get_engine("gpaw").level.id

    @pytest.mark.parametrize(
        "wrong", [{"ecut": 0.0}, {"smearing": "cold"}, {"spin": "up"}, {"kpoints": [2, 2]}, {"kpoints": [2, 2, 0]}]
    )
    def test_wrong_settings_are_refused(self, wrong):
        with pytest.raises(ConfigurationError, match=next(iter(wrong))):
            get_engine("gpaw", **wrong)

    def test_elements_without_data_set(self):
        with pytest.raises(UnsupportedElementError, match="U"):
            get_engine("gpaw").check_elements(["U"])
        assert "Gd" in get_engine("gpaw").supported_elements()
        assert "Gd" not in get_engine("gpaw", functional="RPBE").supported_elements()

    def test_settings_for_any_structure(self):
        tuned = get_engine("gpaw", kpoints=[4, 4, 4], bands=6).settings_for(["Si", "H"])
        assert (tuned["kpoints"], tuned["bands"], tuned["kpoint_spacing"]) == (None, None, 0.4)

    def test_parameters_follow_the_structure(self, strained_silicon):
        engine = get_engine("gpaw", kpoint_spacing=0.8)
        _, crystal = engine.input_parameters(strained_silicon)
        assert not crystal["spinpol"]
        assert min(crystal["kpts"]["size"]) > 1
        box, atom = engine.input_parameters(Atoms("N"))
        assert box.pbc.all()
        assert box.get_initial_magnetic_moments().tolist() == [3.0]
        assert atom["occupations"]["fixmagmom"]
        assert atom["kpts"]["size"] == [1, 1, 1]
        strained_silicon.info["spin_multiplicity"] = 3
        box, triplet = engine.input_parameters(strained_silicon)
        assert triplet["spinpol"]
        assert box.get_initial_magnetic_moments().sum() == 2

    def test_polarised_crystals_begin_with_given_moments_else_with_those_of_the_atoms(self):
        engine = get_engine("gpaw", spin="polarised")
        iron = bulk("Fe")
        iron.set_initial_magnetic_moments(None)
        box, parameters = engine.input_parameters(iron)
        assert box.get_initial_magnetic_moments().tolist() == [4.0]
        assert "fixmagmom" not in parameters["occupations"]
        iron.set_initial_magnetic_moments([2.2])
        assert engine.input_parameters(iron)[0].get_initial_magnetic_moments().tolist() == [2.2]

    def test_leftover_moments_do_not_polarise(self, strained_silicon):
        strained_silicon.set_initial_magnetic_moments([1.0, -1.0])
        box, parameters = get_engine("gpaw").input_parameters(strained_silicon)
        assert not box.get_initial_magnetic_moments().any()
        assert not parameters["spinpol"]


class TestInstallation:
    def test_nowhere_to_be_found(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gpaw_install.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(gpaw_install, "gpaw_home", lambda: tmp_path / "none")
        with pytest.raises(EngineUnavailableError, match="engine install gpaw"):
            provide_gpaw()

    def test_without_compiler(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gpaw_install, "gpaw_home", lambda: tmp_path / "none")
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(EngineUnavailableError, match=r"g\+\+"):
            install_gpaw()

    def test_failed_pip_leaves_nothing(self, monkeypatch, tmp_path):
        monkeypatch.setattr(gpaw_install, "gpaw_home", lambda: tmp_path / "home" / "gpaw")
        monkeypatch.setattr(gpaw_install.shutil, "which", lambda name: "/usr/bin/g++")
        with pytest.raises(EngineUnavailableError, match="pip could not install GPAW"):
            install_gpaw(requirements=["--no-index", "gpaw==26.7.0"])
        assert list((tmp_path / "home").iterdir()) == []

    def test_private_folder_comes_after_the_environment(self, monkeypatch, tmp_path):
        home = tmp_path / "gpaw"
        for part in ("gpaw/__init__.py", "gpaw_data/__init__.py", "_gpaw.so"):
            (home / part).parent.mkdir(parents=True, exist_ok=True)
            (home / part).touch()
        monkeypatch.setattr(gpaw_install.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(gpaw_install, "gpaw_home", lambda: home)
        monkeypatch.setattr(sys, "path", list(sys.path))
        provide_gpaw()
        assert sys.path[-1] == str(home)
        assert install_gpaw() == home


@pytest.mark.gpaw
@pytest.mark.skipif(bool(missing()), reason=missing())
class TestLabels:
    def test_silicon(self, strained_silicon, tmp_path):
        before = strained_silicon.copy()
        result = get_engine("gpaw", **CHEAP).single_point(strained_silicon, tmp_path)
        assert np.allclose(result.forces.sum(axis=0), 0, atol=1e-4)
        assert strained_silicon == before
        assert (tmp_path / "gpaw.txt").is_file()

    def test_unconverged(self, strained_silicon):
        with pytest.raises(LabelError) as caught:
            get_engine("gpaw", **CHEAP, max_steps=1).single_point(strained_silicon)
        assert caught.value.reason == "unconverged"

    def test_timeout(self, strained_silicon):
        with pytest.raises(LabelError) as caught:
            get_engine("gpaw", **CHEAP, timeout=0.01).single_point(strained_silicon)
        assert caught.value.reason == "timeout"

    def test_end_of_the_batch_job(self, strained_silicon, monkeypatch):
        monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() - 1))
        with pytest.raises(LabelError, match="end of its job") as caught:
            get_engine("gpaw", **CHEAP).single_point(strained_silicon)
        assert caught.value.reason == "timeout"

    def test_charged_cells_are_refused(self, strained_silicon):
        strained_silicon.info["charge"] = 1
        with pytest.raises(LabelError) as caught:
            get_engine("gpaw").single_point(strained_silicon)
        assert caught.value.reason == "unsupported"

    def test_elements_are_those_with_a_data_set(self):
        provide_gpaw()
        import gpaw

        folder = os.fspath(gpaw.setup_paths[0])
        found = {name.split(".")[0] for name in os.listdir(folder) if name.endswith(".PBE.gz") and name.count(".") == 2}  # noqa: PTH208
        assert found == GPAW_ELEMENTS

    def test_other_data_sets_need_a_name(self, monkeypatch):
        provide_gpaw()
        import gpaw

        monkeypatch.setattr(gpaw, "setup_paths", ["/somewhere"])
        with pytest.raises(ConfigurationError, match="/somewhere"):
            get_engine("gpaw").check_available()
        get_engine("gpaw", datasets="own").check_available()

    @pytest.mark.slow
    def test_functionals_of_libxc_need_it(self):
        provide_gpaw()
        import gpaw

        if gpaw.get_libraries()["libxc"]:
            pytest.skip("this GPAW has libxc")
        with pytest.raises(EngineUnavailableError, match="libxc"):
            get_engine("gpaw", functional="PBEsol").check_available()

    @pytest.mark.slow
    @pytest.mark.parametrize("smearing", ["fermi-dirac", "gaussian"])
    def test_forces_and_stress_are_derivatives_of_the_energy(self, smearing, strained_silicon, finite_differences):
        # A wide smearing, so that free and inner energy differ.
        engine = get_engine("gpaw", **CHEAP | {"ecut": 400.0}, smearing=smearing, smearing_width=0.2)
        result, force, xx, yz = finite_differences(engine, strained_silicon)
        assert result.forces[0, 0] == pytest.approx(force, abs=3e-3)
        assert result.stress[0] == pytest.approx(xx, abs=0.05 / EV_PER_A3_IN_GPA)
        assert result.stress[3] == pytest.approx(yz, abs=0.05 / EV_PER_A3_IN_GPA)

    @pytest.mark.slow
    def test_molecule_and_atom(self):
        engine = get_engine("gpaw", ecut=400.0, vacuum=4.0, density_tolerance=1e-4)
        hydrogen = molecule("H2")
        hydrogen.set_distance(0, 1, 0.7517)
        bound = engine.single_point(hydrogen)
        free = engine.single_point(Atoms("H"))
        assert bound.stress is None
        # PBE: bond length 0.7517 A, atomization energy 4.54 eV.
        assert np.abs(bound.forces).max() < 0.1
        assert 2 * free.energy - bound.energy == pytest.approx(4.54, abs=0.06)

    @pytest.mark.slow
    @pytest.mark.espresso
    def test_forces_of_rattled_silicon_agree_with_quantum_espresso(self, strained_silicon):
        try:
            get_engine("espresso").check_available()
        except EngineUnavailableError as error:
            pytest.skip(str(error))
        a = get_engine("gpaw", kpoint_spacing=0.8, smearing="gaussian").single_point(strained_silicon)
        b = get_engine("espresso", kpoint_spacing=0.8).single_point(strained_silicon)
        assert a.forces == pytest.approx(b.forces, abs=0.02)
        assert a.stress == pytest.approx(b.stress, abs=1.0 / EV_PER_A3_IN_GPA)

    @pytest.mark.slow
    def test_written_script_gives_the_same_energy(self, strained_silicon, tmp_path, monkeypatch, capsys):
        engine = get_engine("gpaw", **CHEAP)
        script, structure = engine.write_inputs(strained_silicon, tmp_path)
        assert structure.is_file()
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(script))
        energy = float(capsys.readouterr().out.split("energy, eV:")[1].split()[0])
        assert energy == pytest.approx(engine.single_point(strained_silicon).energy, abs=1e-5)
