from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.datasets import attach_labels, frame_id, labels_of, read_extxyz, write_extxyz
from atomfoundry.errors import DatasetError, StructureError


def frames() -> list[Atoms]:
    rng = np.random.default_rng(0)
    crystal, silane = bulk("Si"), molecule("SiH4")
    for atoms in (crystal, silane):
        atoms.positions += rng.normal(size=atoms.positions.shape)
    crystal.info.update(group_id='a "quoted" name', flags=["x", "y z"], level="123", weight=0.1)
    silane.info.update(charge=1, spin_multiplicity=2)
    return [
        attach_labels(crystal, rng.normal(), rng.normal(size=(2, 3)), rng.normal(size=6)),
        attach_labels(silane, rng.normal(), rng.normal(size=(5, 3))),
        attach_labels(silane, 1.0),
        silane,
    ]


@pytest.mark.parametrize("keys", [{}, {"energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "S"}])
def test_round_trip(tmp_path: Path, keys: dict[str, str]) -> None:
    path = tmp_path / "frames.extxyz"
    assert write_extxyz(path, frames(), **keys) == 4
    for before, after in zip(frames(), read_extxyz(path, **keys), strict=True):
        assert frame_id(before) == frame_id(after)
        assert (before.positions == after.positions).all()
        assert (before.pbc == after.pbc).all()
        for old, new in zip(labels_of(before), labels_of(after), strict=True):
            assert (old is None) == (new is None)
            assert old is None or np.array_equal(old, new)
        for key, value in before.info.items():
            assert after.info[key] == value
    assert [item.name for item in tmp_path.iterdir()] == ["frames.extxyz"]


def test_ase_reads_what_we_write(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames())
    atoms = ase.io.read(path, 0)
    energy, forces, stress = labels_of(frames()[0])
    assert atoms.get_potential_energy() == energy
    assert np.array_equal(atoms.get_forces(), forces)
    assert np.array_equal(atoms.get_stress(), stress)


def test_we_read_what_ase_writes(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    ase.io.write(path, frames()[0])
    (atoms,) = read_extxyz(path, level="abc")
    assert np.allclose(labels_of(atoms)[1], labels_of(frames()[0])[1], atol=1e-8)
    assert atoms.info["level"] == "abc"
    assert atoms.info["source"] == "frames.extxyz"


def test_wrong_keys_and_broken_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames())
    with pytest.raises(DatasetError, match="REF_energy"):
        list(read_extxyz(path, energy_key="REF_energy", forces_key="REF_forces"))
    path.write_text("5\nProperties=species:S:1:pos:R:3\nSi 0 0 0\n")
    with pytest.raises(DatasetError, match=r"frames\.extxyz"):
        list(read_extxyz(path))
    with pytest.raises(DatasetError, match="nothing"):
        list(read_extxyz(tmp_path / "nothing"))


def test_a_failure_keeps_the_older_file(tmp_path: Path) -> None:
    path = tmp_path / "frames.extxyz"
    write_extxyz(path, frames())
    before = path.read_bytes()
    broken = frames()[0].copy()
    broken.positions[0] = np.nan
    with pytest.raises(StructureError, match="NaN"):
        write_extxyz(path, [frames()[0], broken])
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1
