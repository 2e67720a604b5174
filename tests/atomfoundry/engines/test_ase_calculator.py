from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from atomfoundry.engines import get_engine
from atomfoundry.errors import ConfigurationError, EngineUnavailableError, InputError, LabelError

HERE = "foreign_calculators"
MADE: list[str] = []


class EnergyOnly(Calculator):
    implemented_properties: ClassVar = ["energy"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        self.results = {"energy": 0.0}


class Charged(LennardJones):
    """Tells charge and spin in its energy."""

    def __init__(self, net_charge=0, multiplicity=1, **kwargs):
        super().__init__(**kwargs)
        self.state = (net_charge, multiplicity)

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        info = self.atoms.info
        spin = info.get("spin", self.state[1])
        self.results["energy"] = self.results["free_energy"] = 100.0 * (self.state[0] + info.get("q", 0)) + spin


class WritesFiles(LennardJones):
    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        Path(self.directory, "log.txt").write_text("done")
        super().calculate(atoms, properties, system_changes)


class FromFile(LennardJones):
    def __init__(self, model, **kwargs):
        MADE.append(str(model))
        super().__init__(sigma=float(Path(model).read_text()), **kwargs)


def lennard_jones(depth=1.0):
    return LennardJones(epsilon=depth)


def nothing():
    return "no calculator"


class Potentials:
    @classmethod
    def weak(cls):
        return LennardJones(epsilon=0.1)


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, HERE, sys.modules[__name__])


def argon() -> Atoms:
    return Atoms("Ar3", [[0, 0, 0], [0, 0, 1.2], [0, 1.1, 0.3]])


def energy(**settings) -> float:
    return get_engine("ase", **settings).single_point(argon()).energy


def test_classes_factories_and_methods():
    plain = energy(calculator_class="ase.calculators.lj.LennardJones")
    assert energy(calculator_class=f"{HERE}:lennard_jones") == plain
    deep = {"calculator_kwargs": {"depth": 2.0}}
    assert energy(calculator_class=f"{HERE}.lennard_jones", **deep) == pytest.approx(2 * plain)
    for path in (f"{HERE}:Potentials.weak", f"{HERE}.Potentials.weak"):
        assert energy(calculator_class=path) == pytest.approx(0.1 * plain)
    colon, dot = (get_engine("ase", calculator_class=f"{HERE}{sign}lennard_jones") for sign in ":.")
    assert colon.level.id == dot.level.id


def test_calculators_among_the_arguments():
    pair = [
        {"calculator_class": f"{HERE}:lennard_jones", "calculator_kwargs": {"depth": depth}} for depth in (1.0, 0.5)
    ]
    settings = {"calculator_class": "ase.calculators.mixing.SumCalculator", "calculator_kwargs": {"calcs": pair}}
    assert energy(**settings) == pytest.approx(1.5 * energy(calculator_class=f"{HERE}:lennard_jones"))
    turned = {**settings, "calculator_kwargs": {"calcs": [dict(reversed(each.items())) for each in pair]}}
    assert get_engine("ase", **settings).level.id == get_engine("ase", **turned).level.id
    pair[1]["calculator_kwargs"] = {"depth": 0.25}
    assert get_engine("ase", **settings).level.id != get_engine("ase", **turned).level.id


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("nowhere.potentials.Best", "No module named 'nowhere'"),
        ("nowhere.potentials:best", "No module named 'nowhere'"),
        ("ase.calculators.emt.EMTT", "no attribute 'EMTT'"),
        ("ase.calculators.emt:EMTT", "no attribute 'EMTT'"),
        ("EMT", "names no module"),
        ("", "names no module"),
    ],
)
def test_what_cannot_be_imported_is_named(path, reason):
    engine = get_engine("ase", calculator_class=path)
    with pytest.raises(EngineUnavailableError, match=reason) as caught:
        engine.check_available()
    assert f"'{path}'" in str(caught.value)


def test_what_cannot_be_made_stops_the_campaign_not_one_label():
    for path, kwargs, message in (
        (f"{HERE}:lennard_jones", {"deph": 1.0}, "deph"),
        (f"{HERE}:FromFile", {"model": "missing.txt"}, "missing.txt"),
        (f"{HERE}:nothing", {}, "not an ASE calculator"),
    ):
        with pytest.raises(InputError, match=message):
            energy(calculator_class=path, calculator_kwargs=kwargs)


def test_no_forces():
    with pytest.raises(LabelError, match="EnergyOnly") as caught:
        energy(calculator_class=f"{HERE}:EnergyOnly")
    assert caught.value.reason == "no_forces"


def test_files_go_into_the_folder(tmp_path):
    engine = get_engine("ase", calculator_class=f"{HERE}:WritesFiles")
    engine.compute(argon(), tmp_path / "one")
    assert (tmp_path / "one" / "log.txt").is_file()
    own = {"directory": str(tmp_path)}
    get_engine("ase", calculator_class=f"{HERE}:WritesFiles", calculator_kwargs=own).compute(argon())
    assert (tmp_path / "log.txt").is_file()


def test_charge_and_spin_are_passed_on_or_refused():
    ion = argon()
    ion.info.update(charge=2, spin_multiplicity=3)
    path = {"calculator_class": f"{HERE}:Charged"}
    with pytest.raises(LabelError, match="charge_argument") as caught:
        get_engine("ase", **path).compute(ion)
    assert caught.value.reason == "unsupported"
    named = get_engine("ase", **path, charge_argument="net_charge", spin_argument="multiplicity")
    assert named.single_point(ion).energy == 203
    assert named.single_point(argon()).energy == 1
    read = get_engine("ase", **path, info_keys={"charge": "q", "spin_multiplicity": "spin"})
    assert read.single_point(ion).energy == 203
    assert "q" not in ion.info
    assert len({engine.level.id for engine in (named, read, get_engine("ase", **path))}) == 3


def test_level_knows_model_files_by_their_content(tmp_path):
    model, moved = tmp_path / "model.txt", tmp_path / "other.txt"
    model.write_text("1.0")
    moved.write_text("1.0")
    here, there = (
        get_engine("ase", calculator_class=f"{HERE}:FromFile", calculator_kwargs={"model": str(path)})
        for path in (model, moved)
    )
    level = here.level
    assert level.extra["model"].startswith("sha256:")
    assert level.id == there.level.id
    model.write_text("1.05")
    assert here.level.id != level.id
    folder = tmp_path / "folder"
    (folder / "checkpoint").mkdir(parents=True)
    (folder / "weights").write_text("1")
    engine = get_engine("ase", calculator_class=f"{HERE}:FromFile", calculator_kwargs={"model": str(folder)})
    before = engine.level.id
    (folder / "checkpoint" / "state").write_text("training goes on")
    assert engine.level.id == before
    (folder / "weights").write_text("2")
    assert engine.level.id != before


def test_reuse_keeps_the_calculator_until_its_arguments_change(tmp_path):
    model = tmp_path / "model.txt"
    model.write_text("1.0")
    settings = {"calculator_class": f"{HERE}:FromFile", "calculator_kwargs": {"model": str(model)}}
    MADE.clear()
    fresh = energy(**settings)
    assert energy(**settings, reuse=True) == energy(**settings, reuse=True) == fresh
    assert len(MADE) == 2
    model.write_text("1.05")
    assert energy(**settings, reuse=True) != fresh
    assert len(MADE) == 3


def test_pinned_packages():
    version = metadata.version("ase")
    pinned = get_engine("ase", calculator_class="ase.calculators.emt.EMT", packages={"ase": version})
    pinned.check_available()
    other = get_engine("ase", calculator_class="ase.calculators.emt.EMT", packages={"ase": "3.0", "nowhere": "1"})
    assert len({pinned.level.id, other.level.id, get_engine("ase", calculator_class="a.B").level.id}) == 3
    with pytest.raises(EngineUnavailableError, match=r"ase 3.0, installed is 3\."):
        other.check_available()


def test_settings_of_the_job():
    engine = get_engine("ase", calculator_class="ase.calculators.emt.EMT", profile="gpu", in_process=False)
    assert (engine.profile, engine.in_process) == ("gpu", False)
    plain = get_engine("ase", calculator_class="ase.calculators.emt.EMT")
    assert (plain.profile, plain.in_process) == ("light", True)
    assert engine.level.id == plain.level.id == "8b4c95009786143d"


def test_force_field_by_import_path_is_the_calculator():
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    engine = get_engine("forcefield", calculator_meta="ase.calculators.emt.EMT", elements=["Cu"])
    engine.check_available()
    result = engine.single_point(copper)
    copper.calc = EMT()
    assert result.energy == copper.get_potential_energy(force_consistent=True)
    assert np.array_equal(result.forces, copper.get_forces())
    assert np.array_equal(result.stress, copper.get_stress())
    assert engine.level.label == "EMT (atomate2)"
    with pytest.raises(EngineUnavailableError, match="nowhere"):
        get_engine("forcefield", calculator_meta="nowhere.Best").check_available()
    wrong = get_engine("forcefield", calculator_meta=f"{HERE}.lennard_jones", calculator_kwargs={"deph": 1})
    with pytest.raises(EngineUnavailableError, match="deph"):
        wrong.compute(copper)


def test_force_fields_by_name():
    with pytest.raises(ConfigurationError, match="Did you mean 'CHGNet'"):
        get_engine("forcefield", calculator_meta="CHGNET2")
    engine = get_engine("forcefield", calculator_meta="MLFF.NEP")
    assert engine.level.method == "NEP"
    if "calorine" not in sys.modules:
        with pytest.raises(EngineUnavailableError, match="pip install calorine"):
            engine.check_available()


def test_every_name_is_atomate2s():
    from atomate2.forcefields.utils import MLFF

    from atomfoundry.engines.force_fields import _MODULES

    assert set(_MODULES) == {member.value for member in MLFF} - {"Forcefield"}


def test_named_force_field_keeps_atomate2s_default_arguments(monkeypatch):
    """matgl's stress is in GPa unless it is told otherwise; atomate2 tells it, but only by force_field_name."""
    from atomate2.forcefields import utils

    asked = {}

    def ase_calculator(meta, **kwargs):
        asked.update(kwargs)
        return EMT()

    monkeypatch.setattr(utils, "ase_calculator", ase_calculator)
    engine = get_engine("forcefield", calculator_meta="M3GNet", reuse=False)
    monkeypatch.setattr(engine, "check_available", lambda: None)
    engine.compute(bulk("Cu"))
    assert asked == {"stress_unit": "eV/A3"}


def test_own_models_are_named_by_import_path_too(tmp_path):
    from atomfoundry.models import Allegro, AllegroConfig, HeadConfig, save_model

    config = AllegroConfig(
        type_names=["Cu"],
        cutoff=4.0,
        num_channels=4,
        l_max=1,
        n_layers=1,
        avg_num_neighbors=10.0,
        heads=[HeadConfig(name="main", isolated_energies={"Cu": 0.0})],
    )
    save_model(Allegro(config), tmp_path / "model", metadata={})
    settings = {"calculator_kwargs": {"model": str(tmp_path / "model")}, "elements": ["Cu"], "reuse": True}
    engine = get_engine("ase", calculator_class="atomfoundry.models.FoundryCalculator", **settings)
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    result = engine.single_point(copper)
    assert result.stress is not None
    assert engine.level.extra["model"].startswith("sha256:")
    field = get_engine("forcefield", calculator_meta="atomfoundry.models.FoundryCalculator", **settings)
    assert field.single_point(copper).energy == pytest.approx(result.energy, abs=1e-6)


def test_molecule_without_stress():
    assert get_engine("ase", calculator_class=f"{HERE}:lennard_jones").single_point(molecule("CO2")).stress is None


def test_where_a_calculator_writes_is_no_level(tmp_path):
    log = tmp_path / "run.log"
    arguments = {
        "epsilon": 1.0,
        "logfile": str(log),
        "inner": {"calculator_class": "a.B", "calculator_kwargs": {"txt": "x"}},
    }
    engine = get_engine("ase", calculator_class="ase.calculators.lj.LennardJones", calculator_kwargs=arguments)
    before = engine.level.id
    log.write_text("a first line\n")
    assert engine.level.id == before
    assert "logfile" not in engine.level.extra
