"""Levels of theory from the input sets: when they are equal, when not, and what the harvest says of the same run."""

from __future__ import annotations

import subprocess
import sys

import pytest
from ase import Atoms
from ase.build import bulk

from atomfoundry.engines import get_engine, list_engines
from atomfoundry.engines.vasp.presets import PRESETS
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, UnsupportedElementError


def level(**settings):
    return get_engine("vasp", **settings).level


EXPECTED = {
    # preset: functional, cutoff, POTCARs, k-point spacing, smearing, +U
    "static": ("PBEsol", 680, "PBE_54", None, "ISMEAR=-5 SIGMA=0.2", True),
    "static_pbe": ("PBE", 520, "PBE", None, "ISMEAR=-5 SIGMA=0.05", True),
    "static_hse": ("HSE06", 680, "PBE_54", None, "ISMEAR=-5 SIGMA=0.2", False),
    "mp_static_r2scan": ("r2SCAN", 680, "PBE_54", 0.22, "ISMEAR=-5 SIGMA=0.05", False),
    "mp24_static_r2scan": ("r2SCAN", 680, "PBE_64", 0.22, "ISMEAR=-5 SIGMA=0.05", False),
    "matpes_pbe": ("PBE", 680, "PBE_64", 0.22, "ISMEAR=0 SIGMA=0.05", False),
    "matpes_r2scan": ("r2SCAN", 680, "PBE_64", 0.22, "ISMEAR=0 SIGMA=0.05", False),
}


def test_presets_are_what_they_are_called():
    assert EXPECTED.keys() == PRESETS.keys()
    levels = {preset: level(preset=preset) for preset in PRESETS}
    for preset, found in levels.items():
        spacing = found.kpoint_spacing
        told = (found.method, found.cutoff, found.pseudopotentials, spacing, found.smearing, bool(found.hubbard_u))
        assert told == EXPECTED[preset], preset
        assert found.spin == "polarised" and found.dispersion is None and found.code == "vasp"
        assert ("kpoints" in found.extra) == (spacing is None)
    assert len({found.id for found in levels.values()}) == len(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_the_level_is_that_of_the_files_written(preset, tmp_path):
    """What INCAR and KPOINTS of a structure say is what the level says."""
    from pymatgen.io.vasp import Incar, Kpoints

    engine = get_engine("vasp", preset=preset)
    engine.write_inputs(bulk("Si"), tmp_path)
    tags, found = Incar.from_file(tmp_path / "INCAR"), engine.level
    assert (tags["ENCUT"], tags.get("KSPACING")) == (found.cutoff, found.kpoint_spacing)
    assert f"ISMEAR={tags['ISMEAR']} SIGMA={tags['SIGMA']:g}" == found.smearing
    assert {key: value for key, value in tags.items() if key in ("LASPH", "PREC", "GGA_COMPAT", "PRECFOCK")} == {
        key: value for key, value in found.extra.items() if key.isupper()
    }
    if found.kpoint_spacing is None:
        density = float(found.extra["kpoints"].split()[1].rstrip(","))
        from pymatgen.io.ase import AseAtomsAdaptor

        expected = Kpoints.automatic_density_by_vol(AseAtomsAdaptor.get_structure(bulk("Si")), int(density), True)
        assert Kpoints.from_file(tmp_path / "KPOINTS").kpts == expected.kpts


@pytest.mark.parametrize(
    "cheap",
    [
        {"user_incar_settings": {"NCORE": 4, "KPAR": 2, "NPAR": 2, "LPLANE": True, "NSIM": 8}},
        {"user_incar_settings": {"ALGO": "All", "EDIFF": 1e-7, "NELM": 300, "AMIX": 0.1, "LMAXMIX": 4}},
        {"user_incar_settings": {"LWAVE": True, "LCHARG": False, "LORBIT": None, "SYSTEM": "x"}},
        {"user_incar_settings": {"LDAU": False}},
        {"handlers": [], "timeout": 5.0, "polling_time_step": 1.0, "keep_files": True, "keep_wavecar": True},
        {"run_vasp_kwargs": {"max_errors": 1}, "restart_from": "/somewhere"},
        {"user_potcar_functional": "PBE_64"},
        {"user_incar_settings": {"ENCUT": 680}},
        {"user_incar_settings": {"KGAMMA": True}},
    ],
)
def test_what_changes_only_cost_keeps_the_id(cheap):
    assert level(**cheap).id == level().id


DIFFERENT = [
    {"user_incar_settings": {"ENCUT": 520}},
    {"user_incar_settings": {"GGA": "PS"}},
    {"user_incar_settings": {"GGA": "RP"}},
    {"user_incar_settings": {"METAGGA": "SCAN", "GGA": None}},
    {"user_incar_settings": {"SIGMA": 0.1}},
    {"user_incar_settings": {"ISMEAR": 1}},
    {"user_incar_settings": {"ISMEAR": -5}},
    {"user_incar_settings": {"KSPACING": 0.3}},
    {"user_incar_settings": {"KGAMMA": False}},
    {"user_incar_settings": {"ISPIN": 1}},
    {"user_incar_settings": {"IVDW": 11}},
    {"user_incar_settings": {"IVDW": 12}},
    {"user_incar_settings": {"PREC": "Normal"}},
    {"user_incar_settings": {"LREAL": "Auto"}},
    {"user_incar_settings": {"LASPH": False}},
    {"user_incar_settings": {"ADDGRID": True}},
    {"user_incar_settings": {"NUPDOWN": 0}},
    {"user_incar_settings": {"MAGMOM": {"Fe": -5}}},
    {"user_incar_settings": {"LDAU": True}},
    {"user_incar_settings": {"LDAU": True, "LDAUU": {"Fe": 4.0}}},
    {"user_incar_settings": {"LDAU": True, "LDAUU": {"O": {"Fe": 4.0}}}},
    {"user_incar_settings": {"A_TAG_OF_TOMORROW": 3}},
    {"user_kpoints_settings": {"reciprocal_density": 100}},
    {"user_kpoints_settings": {"reciprocal_density": 200}},
    {"user_kpoints_settings": {"grid_density": 100}},
    {"user_kpoints_settings": {"grid": [4, 4, 4]}},
    {"user_kpoints_settings": {"grid": [4, 4, 4], "shift": [0.5, 0.5, 0.5]}},
    {"user_potcar_settings": {"Fe": "Fe"}},
    {"user_potcar_functional": "PBE_54"},
    {"vacuum": 10.0},
]


def test_what_changes_the_surface_changes_the_id():
    ids = [level(**settings).id for settings in [{}, *DIFFERENT]]
    assert len(set(ids)) == len(ids)


def test_names():
    assert level(user_incar_settings={"IVDW": 12}).dispersion == "D3(BJ)"
    assert level(user_incar_settings={"LUSE_VDW": True, "ZAB_VDW": -1.8867}).dispersion == "nonlocal (Zab_vdW=-1.8867)"
    assert level(user_incar_settings={"LHFCALC": True, "HFSCREEN": 0.2}).method == "HSE06"
    assert level(user_incar_settings={"LHFCALC": True}).method == "PBE0"
    assert level(user_incar_settings={"METAGGA": "Scan", "GGA": None}).method == "SCAN"
    assert level(user_incar_settings={"ISPIN": 1}).spin == "none"
    assert "initial_moments" not in level(user_incar_settings={"ISPIN": 1}).extra
    assert level(user_kpoints_settings={"grid": [4, 4, 2]}).extra["kpoints"] == "gamma 4x4x2 shift 0 0 0"


def test_plus_u_is_a_rule_over_compositions(tmp_path):
    """One level for the oxide, the metal and the sulphide, and the numbers that the oxide's INCAR has."""
    from pymatgen.io.vasp import Incar

    engine = get_engine("vasp", preset="static_pbe")
    assert engine.level.hubbard_u["Fe with O"] == engine.level.hubbard_u["Fe with F"] == 5.3
    for name, atoms in {
        "oxide": bulk("FeO", "rocksalt", a=4.3),
        "sulphide": bulk("FeS", "rocksalt", a=5.0),
        "metal": bulk("Fe"),
    }.items():
        (tmp_path / name).mkdir()
        engine.write_inputs(atoms, tmp_path / name)
        tags = Incar.from_file(tmp_path / name / "INCAR")
        assert tags.get("LDAUU") == ([5.3, 0] if name == "oxide" else None)
    everywhere = level(preset="static_pbe", user_incar_settings={"LDAUU": {"Fe": 4.0}})
    assert everywhere.hubbard_u == {"Fe": 4.0}
    off = level(preset="static_pbe", user_incar_settings={"LDAU": False})
    assert off.hubbard_u is None and "hubbard_rule" not in off.extra


def test_the_harvest_reads_the_same_level_from_the_run(standin, tmp_path):
    """Where both speak, they say the same. Silent is the harvest on k-points, POTCAR releases and symbols, PREC,
    LASPH and on rules (initial moments, +U): an output has the numbers of one structure only.
    """
    from atomfoundry.harvest import harvest

    cases = {
        "pbe": {},
        "r2scan": {"preset": "matpes_r2scan"},
        "sol": {"preset": "static", "user_incar_settings": {"IVDW": 12, "ISPIN": 1}},
    }
    for name, settings in cases.items():
        engine = get_engine("vasp", polling_time_step=0.05, **settings)
        labelled = engine.compute(bulk("Cu"), tmp_path / name)
        report = harvest(tmp_path / name)
        (frame,), (theirs,) = report.frames, report.levels.values()
        ours = engine.level
        for field in ("code", "method", "cutoff", "smearing", "dispersion", "spin"):
            assert getattr(ours, field) == getattr(theirs, field), field
        assert theirs.pseudopotentials == "PAW_PBE" and ours.pseudopotentials.startswith("PBE")
        assert theirs.kpoint_spacing is None and not theirs.extra
        assert frame.get_potential_energy() == pytest.approx(labelled.get_potential_energy(), abs=1e-9)
        assert frame.get_forces() == pytest.approx(labelled.get_forces(), abs=1e-9)
        assert frame.get_stress() == pytest.approx(labelled.get_stress(), abs=1e-9)


def test_settings_for_other_structures():
    engine = get_engine("vasp", user_kpoints_settings={"grid": [4, 4, 4]}, restart_from="x", vacuum=9.0)
    assert get_engine("vasp", **engine.settings_for(["Si"])) == get_engine("vasp", vacuum=9.0)
    dense = get_engine("vasp", user_kpoints_settings={"reciprocal_density": 100})
    assert dense.settings_for(["Si"]) == dense.settings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "matpes_pbee"}, "Did you mean 'matpes_pbe'"),
        ({"user_kpoints_settings": {"reciprocal_densty": 3}}, "Did you mean 'reciprocal_density'"),
        ({"user_incar_settings": {"encut": 400}}, "Write 'ENCUT'"),
        ({"user_incar_settings": {"NSW": 5}}, "single point"),
        ({"user_incar_settings": {"ICHARG": 11}}, "single point"),
        ({"user_incar_settings": {"MAGMOM": [1, 1]}}, "by element"),
        ({"timeout": 0}, "positive"),
        ({"presett": "static"}, "Did you mean 'preset'"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        get_engine("vasp", **settings)


def test_what_is_missing_is_told_with_its_remedy(standin, monkeypatch, tmp_path):
    import atomate2
    from pymatgen.core import SETTINGS

    engine = get_engine("vasp")
    engine.check_available()
    engine.check_elements(["Cu", "O"])
    assert "vasp" in list_engines()
    with pytest.raises(ConfigurationError, match="VaspErrorHandler"):
        get_engine("vasp", handlers=["VaspErrorHandlr"]).check_available()
    with pytest.raises(ConfigurationError, match="wall_time"):
        get_engine("vasp", run_vasp_kwargs={"wall_time": 3}).check_available()
    with pytest.raises(UnsupportedElementError, match=r"PBE_64 POTCAR Au"):
        engine.check_elements(["Cu", "Au"])
    with pytest.raises(UnsupportedElementError, match="cannot compute Og"):
        engine.check_elements(["Og"])
    with pytest.raises(EngineUnavailableError, match=r"no PBE_52 POTCARs.*PBE_54, PBE_64"):
        get_engine("vasp", user_potcar_functional="PBE_52").check_available()
    monkeypatch.setitem(atomate2.SETTINGS.VASP_INCAR_UPDATES, "NCORE", 4)
    engine.check_available()
    monkeypatch.setitem(atomate2.SETTINGS.VASP_INCAR_UPDATES, "ENCUT", 400)
    with pytest.raises(ConfigurationError, match="ENCUT"):
        engine.check_available()
    monkeypatch.setattr(atomate2.SETTINGS, "VASP_INCAR_UPDATES", {})
    monkeypatch.setattr(atomate2.SETTINGS, "VASP_CMD", "no_such_vasp")
    for missing in (engine.check_available, lambda: engine.single_point(bulk("Cu"))):
        with pytest.raises(EngineUnavailableError, match=r"no_such_vasp.*ATOMATE2_VASP_CMD"):
            missing()
    monkeypatch.setattr(atomate2.SETTINGS, "VASP_CMD", str(standin.home / "vasp_std"))
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    for missing in (engine.check_available, lambda: engine.single_point(bulk("Cu"))):
        with pytest.raises(EngineUnavailableError, match="PMG_VASP_PSP_DIR"):
            missing()
    assert not standin.calls


def test_input_files_without_and_with_potcars(standin, monkeypatch, tmp_path):
    from pymatgen.core import SETTINGS

    atoms = bulk("NiO", "rocksalt", a=4.2)
    engine = get_engine("vasp", preset="static")
    assert {path.name for path in engine.write_inputs(atoms, tmp_path)} == {
        "POSCAR",
        "INCAR",
        "KPOINTS",
        "POTCAR",
        "POTCAR.spec",
    }
    assert "LAECHG = True" in (tmp_path / "INCAR").read_text()
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", None)
    other = tmp_path / "other"
    other.mkdir()
    written = {path.name for path in get_engine("vasp").write_inputs(Atoms("Fe"), other)}
    assert written == {"POSCAR", "INCAR", "KPOINTS", "POTCAR.spec"}
    assert (other / "POTCAR.spec").read_text().split() == ["Fe_pv"]
    assert "NUPDOWN = 4" in (other / "INCAR").read_text()


def test_the_registry_stays_light():
    code = (
        "import sys, atomfoundry.engines.vasp.engine\n"
        "assert not {'ase', 'pymatgen', 'atomate2', 'custodian', 'torch'} & set(sys.modules), sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
