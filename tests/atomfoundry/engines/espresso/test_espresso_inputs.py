"""Input files: changing a keyword, and writing one to be run by hand."""

from __future__ import annotations

import pytest
from ase.build import bulk
from ase.io import read

from atomfoundry.engines import get_engine
from atomfoundry.engines.espresso.input_file import PwInput
from atomfoundry.errors import ConfigurationError, InputError, LabelError

TEXT = """&CONTROL
   calculation      = 'scf'
   max_seconds      = 1.5d2
/
&SYSTEM
   nosym            = .true.
   nbnd             = 8
/
&electrons
/
ATOMIC_SPECIES
Si 28.1 a/b.upf
"""


def test_keywords_are_read_and_changed(tmp_path):
    text = PwInput(TEXT)
    assert text.get("control", "calculation") == "scf" and text.get("control", "max_seconds") == 150.0
    assert text.get("system", "nosym") is True and text.get("system", "nbnd") == 8
    assert text.get("electrons", "mixing_beta") is None
    text.set("electrons", "mixing_beta", 0.175)
    text.set("electrons", "startingpot", "file")
    text.set("system", "nosym", False)
    text.set("control", "max_seconds", 1e-05)
    text.write(tmp_path / "in")
    again = PwInput.read(tmp_path / "in")
    assert again.get("electrons", "mixing_beta") == 0.175 and again.get("electrons", "startingpot") == "file"
    assert again.get("system", "nosym") is False and again.get("control", "max_seconds") == 1e-05
    assert again.text.count("nosym") == 1 and again.text.endswith("Si 28.1 a/b.upf\n")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
    with pytest.raises(InputError, match="&ions"):
        again.get("ions", "x")


def test_inputs_to_run_by_hand(own_upf, tmp_path):
    source = own_upf("Si", orbitals=("3P",))
    atoms = bulk("Si", a=5.43)
    folder = tmp_path / "by hand"
    folder.mkdir()
    files = get_engine("espresso", kpoints=[3, 3, 3]).write_inputs(atoms, folder)
    assert [str(path.relative_to(folder)) for path in files] == ["pw.in", "pseudo/Si.upf"]
    assert (folder / "pseudo" / "Si.upf").read_bytes() == source.read_bytes()
    text = PwInput.read(folder / "pw.in")
    assert text.get("control", "pseudo_dir") == "./pseudo" and "3 3 3  0 0 0" in text.text
    assert read(folder / "pw.in", format="espresso-in").positions == pytest.approx(atoms.positions)
    orders = ["ferromagnetic", "antiferromagnetic"]
    files = get_engine("espresso", spin="collinear", magnetic_orders=orders).write_inputs(atoms, folder)
    assert [path.name for path in files] == ["pw.in", "pw-antiferromagnetic.in", "Si.upf"]


def test_no_inputs_for_what_the_engine_refuses(own_upf, tmp_path):
    own_upf("Si", wfc_cutoff=50.0)
    atoms = bulk("Si")
    with pytest.raises(ConfigurationError, match="too low"):
        get_engine("espresso").write_inputs(atoms, tmp_path)
    atoms.info["charge"] = 1
    with pytest.raises(LabelError, match="charge"):
        get_engine("espresso", ecutwfc=700.0).write_inputs(atoms, tmp_path)
