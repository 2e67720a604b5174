from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.io import read, write

from atomfoundry.datasets import frame_id
from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines import get_engine, structure_of, write_campaign
from atomfoundry.engines.base import Engine, SinglePoint
from atomfoundry.engines.inputs import RECORD, TABLE, read_campaign
from atomfoundry.errors import ConfigurationError, LabelError, UnsupportedElementError


@dataclass(kw_only=True)
class PaperEngine(Engine):
    """Writes what a code run by hand would read."""

    name: ClassVar[str] = "paper"

    cutoff: float = 300.0

    @property
    def level(self) -> LevelOfTheory:
        return LevelOfTheory(code="paper", method="PBE", cutoff=self.cutoff)

    def supported_elements(self) -> set[str]:
        return {"Cu", "Al", "H", "O"}

    def check_available(self) -> None:
        return

    def evaluate(self, atoms: Atoms, directory: Path) -> SinglePoint:
        raise NotImplementedError

    def write_inputs(self, atoms: Atoms, directory: Path) -> list[Path]:
        path = directory / "paper.in"
        path.write_text(f"cutoff {self.cutoff}\n{len(atoms)} atoms\n")
        if not atoms.pbc.any():
            raise LabelError("Molecules do not fit on paper.", reason="unsupported")
        return [path]


def crystals(number: int = 3) -> list[Atoms]:
    frames = []
    for seed in range(number):
        atoms = bulk("Cu", cubic=True)
        atoms.rattle(0.05, seed=seed)
        atoms.info.update(group_id="copper", source="copper.cif")
        frames.append(atoms)
    return frames


def contents(folder: Path) -> dict[str, tuple[bytes, int]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def test_one_folder_each_and_a_table_of_them(tmp_path):
    frames, engine = crystals(), PaperEngine()
    campaign = write_campaign([*frames, frames[0]], tmp_path / "new" / "campaign", engine=engine)
    root = tmp_path / "new" / "campaign"
    assert sorted(path.name for path in root.iterdir()) == ["0001-Cu4", "0002-Cu4", "0003-Cu4", TABLE]
    assert sorted(path.name for path in (root / "0001-Cu4").iterdir()) == [RECORD, "paper.in"]
    assert [record["frame_id"] for record in campaign.written] == [frame_id(atoms) for atoms in frames]
    with (root / TABLE).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["folder"] for row in rows] == ["0001-Cu4", "0002-Cu4", "0003-Cu4"]
    assert [row["frame_id"] for row in rows] == [frame_id(atoms) for atoms in frames]
    assert rows[0]["level_id"] == engine.level.id and rows[0]["group_id"] == "copper" and rows[0]["n_atoms"] == "4"
    assert json.loads((root / "0002-Cu4" / RECORD).read_text()) == campaign.written[1]


def test_a_rerun_touches_nothing_and_adds_what_is_new(tmp_path):
    write_campaign(crystals(2), tmp_path, engine=PaperEngine())
    (tmp_path / "0001-Cu4" / "paper.out").write_text("precious")
    before = contents(tmp_path / "0001-Cu4")
    again = write_campaign(crystals(4)[::-1], tmp_path, engine=PaperEngine())
    assert contents(tmp_path / "0001-Cu4") == before
    assert [record["folder"] for record in again.written] == ["0003-Cu4", "0004-Cu4"]
    assert {record["folder"] for record in again.skipped} == {"0001-Cu4", "0002-Cu4"}
    assert len(read_campaign(tmp_path)) == 4
    assert len((tmp_path / TABLE).read_text().splitlines()) == 5


def test_a_refused_structure_leaves_nothing_and_costs_only_itself(tmp_path):
    campaign = write_campaign([*crystals(1), molecule("H2O"), *crystals(2)], tmp_path, engine=PaperEngine())
    assert [record["folder"] for record in campaign.written] == ["0001-Cu4", "0002-Cu4"]
    assert [(item["formula"], item["reason"]) for item in campaign.failed] == [("H2O", "unsupported")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001-Cu4", "0002-Cu4", TABLE]


def test_interrupted_writing_leaves_whole_folders_and_a_table(tmp_path, monkeypatch):
    engine, written = PaperEngine(), []

    def write_inputs(atoms, directory):
        if len(written) == 1:
            (directory / "half").write_text("half")
            raise KeyboardInterrupt
        written.append(directory)
        return []

    monkeypatch.setattr(engine, "write_inputs", write_inputs)
    with pytest.raises(KeyboardInterrupt):
        write_campaign(crystals(), tmp_path, engine=engine)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0001-Cu4", TABLE]
    again = write_campaign(crystals(), tmp_path, engine=PaperEngine())
    assert (len(again.skipped), len(again.written)) == (1, 2)


def test_wrong_campaigns_write_nothing(tmp_path):
    root = tmp_path / "campaign"
    with pytest.raises(UnsupportedElementError, match="cannot compute Si"):
        write_campaign([*crystals(1), bulk("Si")], root, engine=PaperEngine())
    assert not root.exists()
    with pytest.raises(ConfigurationError, match="no input files"):
        write_campaign(crystals(1), root, engine=get_engine("xtb"))
    write_campaign(crystals(1), root, engine=PaperEngine())
    for engine in (PaperEngine(cutoff=500.0), None):
        with pytest.raises(ConfigurationError, match="a folder of its own"):
            write_campaign(crystals(2), root, engine=engine)
    assert len(read_campaign(root)) == 1
    (root / "0001-Cu4" / RECORD).write_text("{")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        write_campaign(crystals(2), root, engine=PaperEngine())


def test_poscar_is_the_structure(tmp_path):
    mixed = bulk("NaCl", "rocksalt", a=5.64, cubic=True)
    mixed.rattle(0.05, seed=1)
    skewed = bulk("Cu")
    skewed.set_cell(skewed.cell.array + 0.1 * np.eye(3)[[1, 2, 0]], scale_atoms=True)
    campaign = write_campaign([mixed, skewed, molecule("H2O")], tmp_path)
    assert [item["formula"] for item in campaign.failed] == ["H2O"]
    order = campaign.written[0]["order"]
    back = read(tmp_path / "0001-Cl4Na4" / "POSCAR")
    assert back.get_chemical_symbols() == ["Na"] * 4 + ["Cl"] * 4
    assert back.positions == pytest.approx(mixed.positions[order], abs=1e-9)
    # an unsorted one is the very frame
    assert "order" not in campaign.written[1]
    assert frame_id(read(tmp_path / "0002-Cu" / "POSCAR")) == frame_id(skewed)


def test_harvested_frames_are_found_again(tmp_path):
    from atomfoundry.harvest import harvest

    frames = crystals()
    write_campaign(frames, tmp_path, engine=PaperEngine())
    for record, atoms in zip(read_campaign(tmp_path), frames, strict=True):
        rounded = Atoms("Cu4", np.round(atoms.positions, 6), cell=atoms.cell, pbc=True)
        rounded.calc = EMT()
        rounded.get_forces()
        write(tmp_path / record["folder"] / "result.extxyz", rounded)
    report = harvest(tmp_path)
    harvested = list(report.frames)
    assert len(harvested) == 3 and not report.rejections
    for atoms in harvested:
        record = structure_of(tmp_path, atoms.info["source"])
        asked = next(frame for frame in frames if frame_id(frame) == record["frame_id"])
        assert atoms.positions == pytest.approx(asked.positions, abs=1e-5)
    assert structure_of(tmp_path, "elsewhere/result.extxyz") is None
