"""One description of any calculator, resolved in one place."""

from __future__ import annotations

import json
import sys

import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from atomfoundry.documents import CalculatorSpec
from atomfoundry.documents.calculator import short_name
from atomfoundry.engines import get_engine
from atomfoundry.engines.foreign import calculator_of, calculator_spec, engine_of, engine_settings, read_calculator_spec
from atomfoundry.errors import ConfigurationError, EngineUnavailableError

EMT_CLASS = "ase.calculators.emt.EMT"


def energy(calculator):
    return calculator.get_property("energy", bulk("Cu", a=3.7))


def test_a_class_is_the_class_s_own_object():
    calculator = calculator_of({"calculator_class": EMT_CLASS, "kwargs": {"asap_cutoff": True}})
    assert isinstance(calculator, EMT)
    assert calculator.parameters.asap_cutoff is True


@pytest.mark.parametrize(
    "values",
    [
        {"calculator_class": EMT_CLASS},
        {"force_field": EMT_CLASS},
        {"calculator_class": EMT_CLASS, "interpreter": sys.executable},
        {"engine": "ase", "kwargs": {"calculator_class": EMT_CLASS}},
    ],
)
def test_every_way_gives_the_same_energy(values):
    assert energy(calculator_of(values)) == energy(EMT())
    name, settings = engine_settings(values)
    assert get_engine(name, **settings).single_point(bulk("Cu", a=3.7)).energy == energy(EMT())


def test_versions_count_where_the_calculator_runs(tmp_path):
    """A package that only the other interpreter has."""
    folder = tmp_path / "elsewhere-1.5.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.5\n")
    values = {"calculator_class": EMT_CLASS, "packages": {"elsewhere": "1.5"}}
    with pytest.raises(EngineUnavailableError, match=r"needs elsewhere 1\.5, installed is none"):
        calculator_of(values)
    there = values | {"interpreter": sys.executable, "environment": {"PYTHONPATH": str(tmp_path)}}
    assert calculator_of(there).versions["elsewhere"] == "1.5"


def test_engines_keep_profile_packages_and_elements():
    engine = engine_of({"calculator_class": EMT_CLASS, "profile": "gpu", "elements": ["Cu"], "packages": {"ase": "0"}})
    assert (engine.name, engine.profile, engine.supported_elements()) == ("ase", "gpu", {"Cu"})
    with pytest.raises(EngineUnavailableError, match="needs ase 0"):
        calculator_of({"calculator_class": EMT_CLASS, "packages": {"ase": "0"}})
    with pytest.raises(EngineUnavailableError, match="nosuch"):
        calculator_of({"calculator_class": "nosuch.Calculator"})


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "exactly one"),
        ({"calculator_class": EMT_CLASS, "engine": "xtb"}, "exactly one"),
        ({"calculator_clas": EMT_CLASS}, "calculator_clas"),
        ({"force_field": "CHGNet", "interpreter": "python"}, "'interpreter' goes with 'calculator_class'"),
        ({"calculator_class": EMT_CLASS, "timeout": 3.0}, "'timeout' goes with 'interpreter'"),
        ({"engine": "xtb", "elements": ["H"]}, "settings"),
    ],
)
def test_wrong_descriptions_are_named(values, words):
    with pytest.raises(ConfigurationError, match=words):
        calculator_spec(values)


def test_words_of_the_command_line(tmp_path):
    assert read_calculator_spec(EMT_CLASS).calculator_class == EMT_CLASS
    assert read_calculator_spec("MACE-MPA-0").force_field == "MACE-MPA-0"
    assert read_calculator_spec(str(tmp_path)).model == str(tmp_path)
    values = {"calculator_class": EMT_CLASS, "name": "our EMT"}
    (tmp_path / "emt.json").write_text(json.dumps(values))
    (tmp_path / "emt.toml").write_text(f'calculator_class = "{EMT_CLASS}"\nname = "our EMT"\n')
    (tmp_path / "emt.yaml").write_text(f"calculator_class: {EMT_CLASS}\nname: our EMT\n")
    for suffix in ("json", "toml", "yaml"):
        assert read_calculator_spec(str(tmp_path / f"emt.{suffix}")) == CalculatorSpec(**values)
    with pytest.raises(ConfigurationError, match="Did you mean 'MACE'"):
        read_calculator_spec("MAC")
    with pytest.raises(ConfigurationError, match="is not there"):
        read_calculator_spec("models/none")
    (tmp_path / "bad.json").write_text("[1")
    with pytest.raises(ConfigurationError, match=r"bad\.json.*broken"):
        read_calculator_spec(str(tmp_path / "bad.json"))
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigurationError, match="no mapping"):
        read_calculator_spec(str(tmp_path / "list.json"))


def test_a_method_that_makes_a_calculator_is_called_by_its_class():
    path = "nequip.integrations.ase:NequIPCalculator.from_compiled_model"
    assert (
        CalculatorSpec(calculator_class=path, packages={"nequip": "0.19.1"}).label == "NequIPCalculator (nequip 0.19.1)"
    )
    assert short_name("ase.calculators.emt.EMT") == short_name("ase.calculators.emt:EMT") == "EMT"
    assert short_name("my_package.potentials:make_calculator") == short_name("make_calculator") == "make_calculator"


def test_labels_for_reports():
    assert CalculatorSpec(calculator_class=EMT_CLASS).label == "EMT"
    assert CalculatorSpec(force_field="CHGNet", packages={"matgl": "1.2"}).label == "CHGNet (matgl 1.2)"
    assert CalculatorSpec(model="runs/silicon/", kwargs={"head": "ft"}).label == "silicon [ft]"
    assert CalculatorSpec(engine="xtb", name="cheap").label == "cheap"
