from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, PropertyNotImplementedError, all_changes
from ase.calculators.emt import EMT

from atomfoundry.engines import get_engine, list_engines
from atomfoundry.engines.base import SinglePoint, _checked
from atomfoundry.errors import (
    ConfigurationError,
    EngineUnavailableError,
    LabelError,
    UnknownEngineError,
    UnsupportedElementError,
)


class Exploding(Calculator):
    implemented_properties: ClassVar = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        raise RuntimeError("boom")


class NotANumber(Calculator):
    implemented_properties: ClassVar = ["energy", "forces"]

    def calculate(self, atoms=None, properties=None, system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.results = {"energy": np.nan, "forces": np.zeros((len(self.atoms), 3))}


def emt():
    return get_engine("ase", calculator_class="ase.calculators.emt.EMT", elements=["Cu", "Al"])


def strained_copper() -> Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.02 * np.arange(9).reshape(3, 3) / 9), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


def test_all_engines_are_built_from_their_own_settings():
    for name in list_engines():
        path = "ase.calculators.emt.EMT"
        settings = {
            "ase": {"calculator_class": path},
            "forcefield": {"calculator_meta": path},
            "interpreter": {"calculator_class": path, "interpreter": "python"},
        }.get(name, {})
        engine = get_engine(name, **settings)
        again = get_engine(name, **engine.settings())
        assert again == engine
        assert again.level.id == engine.level.id
        assert engine.supports(["Cu"])


def test_unknown_engine_names_the_nearest():
    with pytest.raises(UnknownEngineError, match="Did you mean 'espresso'"):
        get_engine("expresso")
    with pytest.raises(UnknownEngineError, match=r"Engines: (abinit, )?ase, .*espresso, .*pyscf, .*vasp, .*xtb"):
        get_engine("???")


def test_unknown_and_missing_settings_are_errors():
    with pytest.raises(ConfigurationError, match="Did you mean 'ecutwfc'"):
        get_engine("espresso", ecutwf=300.0)
    with pytest.raises(ConfigurationError, match="calculator_class"):
        get_engine("ase")
    with pytest.raises(ConfigurationError, match="positive"):
        get_engine("espresso", ecutwfc=-1.0)


def test_compute_labels_a_copy_with_the_calculators_own_numbers():
    atoms = strained_copper()
    atoms.info["group_id"] = "g"
    labelled = emt().compute(atoms)
    reference = atoms.copy()
    reference.calc = EMT()
    assert labelled.get_potential_energy() == reference.get_potential_energy(force_consistent=True)
    assert np.array_equal(labelled.get_forces(), reference.get_forces())
    assert np.array_equal(labelled.get_stress(), reference.get_stress())
    assert labelled.info == {"group_id": "g", "level": emt().level.id}
    assert atoms.calc is None and "level" not in atoms.info


def test_molecules_have_no_stress():
    atoms = Atoms("Cu2", [[0, 0, 0], [0, 0, 2.3]])
    labelled = emt().compute(atoms)
    assert "stress" not in labelled.calc.results
    atoms.calc = emt().calculator(atoms)
    atoms.get_forces()
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()
    calculator = emt().calculator()
    atoms.calc = calculator
    with pytest.raises(PropertyNotImplementedError):
        atoms.get_stress()


def test_calculator_agrees_with_compute():
    atoms = strained_copper()
    labelled = emt().compute(atoms)
    atoms.calc = emt().calculator(atoms)
    assert atoms.get_potential_energy() == labelled.get_potential_energy()
    assert np.array_equal(atoms.get_stress(), labelled.get_stress())


def test_unsupported_element_is_named():
    with pytest.raises(UnsupportedElementError, match="cannot compute Si"):
        emt().compute(bulk("Si"))
    with pytest.raises(UnsupportedElementError, match="U"):
        get_engine("espresso").check_elements(["U", "Si"])
    with pytest.raises(UnsupportedElementError, match="Fr"):
        get_engine("xtb").check_elements(["Fr"])


def test_failures_have_reasons(tmp_path):
    path = f"{Exploding.__module__}.Exploding"
    import sys

    sys.modules.setdefault(Exploding.__module__, sys.modules[__name__])
    with pytest.raises(LabelError, match="boom") as caught:
        get_engine("ase", calculator_class=path).compute(bulk("Cu"), tmp_path / "new" / "folder")
    assert caught.value.reason == "crashed"
    with pytest.raises(LabelError) as caught:
        get_engine("ase", calculator_class=path.replace("Exploding", "NotANumber")).compute(bulk("Cu"))
    assert caught.value.reason == "nan"
    with pytest.raises(LabelError) as caught:
        _checked(SinglePoint(0.0, np.zeros((1, 3))), molecule("H2"))
    assert caught.value.reason == "no_forces"


def test_missing_calculator_class():
    with pytest.raises(EngineUnavailableError, match="nowhere"):
        get_engine("ase", calculator_class="nowhere.Calculator").check_available()


def test_levels_depend_on_what_matters_only():
    base = get_engine("espresso")
    assert get_engine("espresso", timeout=1.0, max_steps=5).level.id == base.level.id
    assert get_engine("espresso", ecutwfc=500.0).level.id != base.level.id
    assert get_engine("espresso", kpoint_shift=True).level.id != base.level.id
    assert get_engine("pyscf", threads=4).level.id == get_engine("pyscf").level.id
    assert get_engine("pyscf").level.label == "wB97M-D3(BJ)/def2-SVP (pyscf)"
