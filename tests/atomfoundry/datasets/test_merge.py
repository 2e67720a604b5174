from __future__ import annotations

import errno
import shutil
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from atomfoundry.datasets import Dataset, attach_labels, labels_of, merge_datasets
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

PBE = LevelOfTheory(code="espresso", method="PBE")
HYBRID = LevelOfTheory(code="pyscf", method="wB97M-D3(BJ)")


def frames_of(base: Atoms, n: int, start: float = 0.0) -> list[Atoms]:
    frames = []
    for number in range(n):
        atoms = base.copy()
        atoms.positions[0, 0] += 0.01 * number + start
        atoms.info["group_id"] = f"{base.get_chemical_formula()}-{number // 2}"
        frames.append(attach_labels(atoms, float(number), np.zeros((len(atoms), 3))))
    return frames


def test_merge_keeps_frames_splits_and_energies(tmp_path: Path) -> None:
    silicon = frames_of(bulk("Si"), 4)
    one = Dataset.create(
        tmp_path / "one",
        silicon,
        level=PBE,
        isolated_energies={"Si": -1.0},
        splits={"train": [0, 1], "test": [2]},
    )
    two = Dataset.create(
        tmp_path / "two",
        [silicon[3], silicon[1], *frames_of(bulk("Ge"), 2)],
        level=PBE,
        isolated_energies={"Si": -1.0, "Ge": -2.0},
        splits={"train": [0, 2], "valid": [1]},
    )
    merged = merge_datasets(tmp_path / "both", [one, two], name="both")
    assert len(merged) == 6
    assert merged.level == PBE
    assert merged.isolated_energies == {"Ge": -2.0, "Si": -1.0}
    # Row 3 of the first (in no split there) stays out; the Si-1 group stays where the first dataset had it.
    assert merged.splits == {"train": [0, 1, 4], "test": [2]}
    assert [shards["name"] for shards in merged.metadata.lineage["merged"]] == ["one", "two"]


def test_mixed_levels(tmp_path: Path) -> None:
    crystals = Dataset.create(tmp_path / "c", frames_of(bulk("Si"), 2), level=PBE, isolated_energies={"Si": -1.0})
    molecules = Dataset.create(
        tmp_path / "m", frames_of(molecule("SiH4"), 2), level=HYBRID, isolated_energies={"Si": -7.0}
    )
    with pytest.raises(DatasetError, match=r"2 levels.*PBE"):
        merge_datasets(tmp_path / "x", [crystals, molecules])
    assert not (tmp_path / "x").exists()
    mixed = merge_datasets(tmp_path / "mixed", [crystals, molecules], allow_mixed_levels=True)
    assert mixed.level is None
    assert {level.id for level in mixed.levels} == {PBE.id, HYBRID.id}
    assert mixed.isolated_energies == {}

    def align(atoms: Atoms) -> Atoms:
        energy, forces, stress = labels_of(atoms)
        assert energy is not None
        aligned = attach_labels(atoms, energy + 100, forces, stress)
        aligned.info["level"] = PBE.id
        return aligned

    joined = merge_datasets(tmp_path / "joined", [crystals, molecules], alignments={HYBRID.id: align})
    assert joined.level == PBE
    assert joined.isolated_energies == {"Si": -1.0}
    assert joined.column("energy").tolist() == [0, 1, 100, 101]


def test_contradicting_isolated_energies(tmp_path: Path) -> None:
    one = Dataset.create(tmp_path / "one", frames_of(bulk("Si"), 1), level=PBE, isolated_energies={"Si": -1.0})
    two = Dataset.create(tmp_path / "two", frames_of(bulk("Si"), 1, 0.3), level=PBE, isolated_energies={"Si": -1.1})
    with pytest.raises(DatasetError, match="Isolated Si"):
        merge_datasets(tmp_path / "x", [one, two])


def write_pair(tmp_path: Path) -> list[Dataset]:
    silicon = frames_of(bulk("Si"), 6)
    one = Dataset.create(tmp_path / "one", silicon[:4], level=PBE, shard_size=2)
    two = Dataset.create(tmp_path / "two", [*silicon[3:], *frames_of(bulk("Ge"), 3)], level=PBE)
    return [one, two]


def test_shards_are_shared_not_copied(tmp_path: Path) -> None:
    one, two = write_pair(tmp_path)
    merged = merge_datasets(tmp_path / "both", [one, two])
    assert merged.column("energy").tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    sources = [one.path / "shard-00000.parquet", one.path / "shard-00001.parquet", two.path / "shard-00000.parquet"]
    for source, shard in zip(sources, merged.metadata.shards, strict=True):
        assert (merged.path / shard.file).samefile(source)
    # The frame that both have is hidden, not copied away.
    assert [shard.rows is not None for shard in merged.metadata.shards] == [False, False, True]
    assert merged.metadata.counts.elements == {"Ge": 6, "Si": 12}
    assert merged.metadata.counts.frames == 9
    merged.verify()


def test_a_merged_dataset_outlives_its_sources_and_a_move(tmp_path: Path) -> None:
    sources = write_pair(tmp_path)
    expected = [atoms.positions.tolist() for atoms in merge_datasets(tmp_path / "both", sources)]
    for source in sources:
        shutil.rmtree(source.path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "both").rename(tmp_path / "elsewhere" / "moved")
    moved = Dataset.open(tmp_path / "elsewhere" / "moved")
    moved.verify()
    assert [atoms.positions.tolist() for atoms in moved] == expected
    # What is hidden stays hidden when it is merged again, and when it grows.
    again = merge_datasets(tmp_path / "again", [moved, moved])
    assert [atoms.positions.tolist() for atoms in again] == expected
    assert again.metadata.counts == moved.metadata.counts
    assert len(moved.append(frames_of(bulk("C"), 2))) == 11


def test_where_links_are_not_possible_files_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "another file system")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    one, two = write_pair(tmp_path)
    merged = merge_datasets(tmp_path / "both", [one, two])
    assert len(merged) == 9
    assert not (merged.path / "shard-00000.parquet").samefile(one.path / "shard-00000.parquet")
    merged.verify()


def test_what_is_mostly_hidden_is_written_anew(tmp_path: Path) -> None:
    silicon = frames_of(bulk("Si"), 9)
    one = Dataset.create(tmp_path / "one", silicon[:8], level=PBE)
    two = Dataset.create(tmp_path / "two", silicon, level=PBE)
    merged = merge_datasets(tmp_path / "both", [one, two])
    assert [shard.n_frames for shard in merged.metadata.shards] == [8, 1]
    assert merged.metadata.shards[1].rows is None
    assert len(list(merged.path.glob("*.npy"))) == 0
    assert merged.column("energy").tolist() == list(range(9))


def test_nothing_to_merge_and_a_killed_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(merge_datasets(tmp_path / "none", [])) == 0
    sources = write_pair(tmp_path)

    def stop(number: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge_datasets(tmp_path / "both", sources, progress=stop)
    assert not (tmp_path / "both").exists()
    for source in sources:
        Dataset.open(source.path).verify()
