from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import PropertyNotImplementedError

from atomfoundry.datasets import Dataset, attach_labels, duplicate_frames, frame_id, labels_of, merge_datasets
from atomfoundry.datasets.files import file_sha256
from atomfoundry.datasets.metadata import CountKeeper, DatasetMetadata
from atomfoundry.datasets.rows import SCHEMA
from atomfoundry.datasets.writer import ROW_GROUP
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import DatasetError

PBE = LevelOfTheory(code="espresso", method="PBE", cutoff=400.0)
HYBRID = LevelOfTheory(code="pyscf", method="wB97M-D3(BJ)", basis="def2-SVP")


def make_frames(n: int, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for number in range(n):
        atoms = bulk("Si") if number % 2 else molecule("SiH4")
        atoms.positions += rng.normal(size=atoms.positions.shape)
        atoms.info.update(
            group_id=f"g{number // 4}",
            source="made",
            sampling="rattle",
            weight=rng.random(),
            flags=["a", "b"],
        )
        stress = rng.normal(size=6) if atoms.pbc.any() else None
        frames.append(attach_labels(atoms, rng.normal() * 100, rng.normal(size=(len(atoms), 3)), stress))
    return frames


def test_round_trip_is_lossless(tmp_path: Path) -> None:
    frames = make_frames(7)
    frames[2].info.update(charge=-1, spin_multiplicity=2, deformation={"strain": [0.1, 0.0]}, energy_raw=np.pi)
    frames.append(bulk("Ge"))
    dataset = Dataset.create(tmp_path / "set", frames, name="mine", level=PBE, isolated_energies={"Si": -1.25})
    assert len(dataset) == 8
    for before, after in zip(frames, dataset, strict=True):
        assert (before.numbers == after.numbers).all()
        assert (before.positions == after.positions).all()
        assert (before.cell.array == after.cell.array).all()
        assert (before.pbc == after.pbc).all()
        assert after.info["frame_id"] == frame_id(before) == frame_id(after)
        for old, new in zip(labels_of(before), labels_of(after), strict=True):
            assert (old is None) == (new is None)
            assert old is None or np.array_equal(old, new)
        for key in ("weight", "flags", "group_id", "source", "sampling"):
            if key in before.info:
                assert after.info[key] == before.info[key]
    charged = dataset[2].info
    assert (charged["charge"], charged["spin_multiplicity"]) == (-1, 2)
    assert charged["deformation"] == {"strain": [0.1, 0.0]}
    assert charged["energy_raw"] == np.pi
    assert dataset[0].info["level"] == PBE.id
    assert dataset[7].info["level"] == ""
    assert dataset.level == PBE
    assert dataset.levels == [PBE]
    assert dataset.isolated_energies == {"Si": -1.25}
    assert dataset.name == "mine"


def test_counts(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(10), level=PBE)
    counts = dataset.metadata.counts
    assert (counts.frames, counts.atoms) == (10, 5 * 5 + 5 * 2)
    assert (counts.energies, counts.forces, counts.stresses) == (10, 10, 5)
    assert counts.elements == {"H": 20, "Si": 15}
    assert counts.samplings == {"rattle": 10}
    assert counts.levels == {PBE.id: 10}
    assert counts.flags == {"a": 10, "b": 10}


@pytest.mark.parametrize("n", [1, ROW_GROUP, ROW_GROUP + 1, 2 * ROW_GROUP + 5])
def test_many_shards_and_groups_keep_the_order(tmp_path: Path, n: int) -> None:
    frames = [Atoms("H", positions=[[float(i), 0, 0]]) for i in range(n)]
    dataset = Dataset.create(tmp_path / "set", iter(frames), shard_size=ROW_GROUP + 3)
    assert len(dataset) == n
    assert [atoms.positions[0, 0] for atoms in dataset] == list(range(n))
    assert dataset[-1].positions[0, 0] == n - 1
    assert [atoms.positions[0, 0] for atoms in dataset.frames([n - 1, 0])] == [n - 1, 0]
    assert len(dataset.metadata.shards) == -(-n // (ROW_GROUP + 3))
    assert sum(shard.n_frames for shard in dataset.metadata.shards) == n
    with pytest.raises(IndexError):
        dataset[n]
    with pytest.raises(IndexError):
        dataset[-n - 1]


def test_an_exact_multiple_of_the_shard_size_has_no_empty_shard(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(6), shard_size=3)
    assert [shard.n_frames for shard in dataset.metadata.shards] == [3, 3]


def test_no_frames_is_a_dataset(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", [])
    assert len(dataset) == 0
    assert list(dataset) == []
    assert len(dataset.column("energy")) == 0
    dataset.verify()


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    first = Dataset.create(tmp_path / "a", make_frames(20), name="x", shard_size=8)
    second = Dataset.create(tmp_path / "b", make_frames(20), name="x", shard_size=8)
    assert [shard.sha256 for shard in first.metadata.shards] == [shard.sha256 for shard in second.metadata.shards]
    assert (tmp_path / "a/dataset.json").read_bytes() == (tmp_path / "b/dataset.json").read_bytes()
    third = Dataset.create(tmp_path / "c", make_frames(20, seed=1), name="x", shard_size=8)
    assert first.metadata.shards[0].sha256 != third.metadata.shards[0].sha256
    # A copy made from the disk is the same dataset.
    fourth = Dataset.create(tmp_path / "d", first, name="x", shard_size=8)
    assert (tmp_path / "d/dataset.json").read_bytes() == (tmp_path / "a/dataset.json").read_bytes()
    fourth.verify()


def test_columns(tmp_path: Path) -> None:
    frames = [*make_frames(5), bulk("Ge")]
    dataset = Dataset.create(tmp_path / "set", frames, shard_size=4)
    energies = dataset.column("energy")
    assert isinstance(energies, np.ndarray)
    assert energies[:5].tolist() == [labels_of(atoms)[0] for atoms in frames[:5]]
    assert np.isnan(energies[5])
    assert list(dataset.column("n_atoms")) == [len(atoms) for atoms in frames]
    assert dataset.column("group_id")[:5] == ["g0"] * 4 + ["g1"]
    stress = dataset.column("stress")
    assert isinstance(stress, np.ndarray)
    assert stress.shape == (6, 6)
    assert np.isnan(stress[0]).all()
    assert np.array_equal(stress[1], labels_of(frames[1])[2])
    forces = dataset.column("forces")
    assert np.array_equal(forces[0], labels_of(frames[0])[1])
    assert forces[5] is None
    assert dataset.column("cell").shape == (6, 3, 3)
    assert dataset.column("pbc").shape == (6, 3)
    assert dataset.column("numbers")[5].tolist() == [32, 32]
    assert dataset.column("spin_multiplicity") == [None] * 6
    with pytest.raises(DatasetError, match="energie"):
        dataset.column("energie")


def test_splits(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(6), splits={"train": [4, 0, 1], "test": [5]})
    assert [atoms.info["frame_id"] for atoms in dataset.frames(split="train")] == [
        dataset[index].info["frame_id"] for index in (4, 0, 1)
    ]
    with pytest.raises(DatasetError, match=r"'valid'.*train, test"):
        list(dataset.frames(split="valid"))


def test_long_splits_are_packed() -> None:
    rows = np.random.default_rng(0).permutation(30_000)
    splits = {"train": rows[:20_000].tolist(), "test": np.sort(rows[20_000:]).tolist(), "none": []}
    metadata = DatasetMetadata(splits=splits)
    text = metadata.text()
    assert len(text) < 100_000
    again = DatasetMetadata.model_validate_json(text)
    assert again == metadata
    assert again.content_hash == metadata.content_hash
    assert again.text() == text
    content = json.loads(text)
    content["splits"]["test"] = content["splits"]["test"][:-9]
    with pytest.raises(ValueError, match="packed split is damaged"):
        DatasetMetadata.model_validate(content)


@pytest.mark.parametrize("splits", [{"train": [6]}, {"train": [-1]}, {"a": [0], "b": [0]}, {"a": [1, 1]}])
def test_impossible_splits_leave_nothing(tmp_path: Path, splits: dict[str, list[int]]) -> None:
    with pytest.raises(DatasetError, match="Split"):
        Dataset.create(tmp_path / "set", make_frames(6), splits=splits)
    assert list(tmp_path.iterdir()) == []


def test_foreign_level_is_refused(tmp_path: Path) -> None:
    frames = make_frames(2)
    frames[1].info["level"] = HYBRID.id
    with pytest.raises(DatasetError, match=HYBRID.id):
        Dataset.create(tmp_path / "set", frames, level=PBE)
    dataset = Dataset.create(tmp_path / "set", frames, level=PBE, levels=[HYBRID])
    assert dataset.column("level") == [PBE.id, HYBRID.id]


def test_existing_path_is_refused(tmp_path: Path) -> None:
    Dataset.create(tmp_path / "set", make_frames(1))
    with pytest.raises(DatasetError, match="exists"):
        Dataset.create(tmp_path / "set", make_frames(1))


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[Atoms]:
        yield from make_frames(3)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        Dataset.create(tmp_path / "set", broken())
    assert list(tmp_path.iterdir()) == []


def test_info_that_is_not_json_is_named(tmp_path: Path) -> None:
    atoms = bulk("Si")
    atoms.info["spacegroup"] = object()
    with pytest.raises(DatasetError, match="spacegroup"):
        Dataset.create(tmp_path / "set", [atoms])


def test_missing_dataset(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no dataset"):
        Dataset.open(tmp_path / "nothing")


def test_truncated_shard_is_named(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(6), shard_size=3)
    shard = dataset.path / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet"):
        Dataset.open(dataset.path)
    shard.unlink()
    with pytest.raises(DatasetError, match=r"shard-00001\.parquet.*missing"):
        Dataset.open(dataset.path)


def test_flipped_bytes_are_found(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(100))
    shard = dataset.path / "shard-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    damaged = Dataset.open(dataset.path)
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet"):
        damaged.verify()
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet"):
        list(damaged)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 99}, "99"),
        ({"format": "other"}, "does not describe"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_foreign_metadata_are_refused(tmp_path: Path, change: dict[str, object], message: str) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(1))
    file = dataset.path / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(DatasetError, match=message):
        Dataset.open(dataset.path)
    file.write_text("{")
    with pytest.raises(DatasetError, match="cannot be read"):
        Dataset.open(dataset.path)


def test_a_dataset_travels_to_another_process(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(3))
    first = dataset[0]
    copy = pickle.loads(pickle.dumps(dataset))
    assert frame_id(copy[0]) == frame_id(first)


def write_schema_1(folder: Path, frames: list[Atoms]) -> None:
    """Write what the first version of the store wrote."""
    dataset = Dataset.create(folder, frames, level=PBE, shard_size=300)
    content = json.loads((folder / "dataset.json").read_text())
    for shard in content["shards"]:
        table = pq.read_table(folder / shard["file"])
        pq.write_table(table, folder / shard["file"], row_group_size=256, compression="zstd", write_page_checksum=True)
        (folder / shard["index"]["file"]).unlink()
        del shard["index"], shard["rows"]
        shard.update(sha256=file_sha256(folder / shard["file"]), size=(folder / shard["file"]).stat().st_size)
    del content["version"], content["parent"]
    content["schema_version"] = 1
    (folder / "dataset.json").write_text(json.dumps(content))
    assert len(dataset) == len(frames)


def assert_same(one: Atoms, other: Atoms) -> None:
    assert frame_id(one) == frame_id(other)
    assert one.info == other.info
    for old, new in zip(labels_of(one), labels_of(other), strict=True):
        assert (old is None) == (new is None)
        assert old is None or np.array_equal(old, new)


def test_schema_1_is_read_and_can_grow(tmp_path: Path) -> None:
    frames = [*make_frames(700), bulk("Ge")]
    write_schema_1(tmp_path / "old", frames)
    new = Dataset.create(tmp_path / "new", frames, level=PBE)
    old = Dataset.open(tmp_path / "old")
    old.verify()
    assert len(old.metadata.shards) == 3
    for index in (0, 255, 256, 299, 300, 556, 699, 700):
        assert_same(old[index], new[index])
    for name in SCHEMA.names:
        one, other = old.column(name), new.column(name)
        assert type(one) is type(other)
        assert str(one[5]) == str(other[5])
        assert len(one) == len(other) == 701
    assert duplicate_frames([old, new]).tolist() == [*range(701), *range(701)]
    batches = old.batch([700, 3, 400]), new.batch([700, 3, 400])
    for field in fields(batches[0]):
        one, other = (getattr(batch, field.name) for batch in batches)
        assert np.array_equal(one, other, equal_nan=field.name != "level") if field.name != "level" else one == other
    grown = old.append(make_frames(3, seed=5))
    assert (len(grown), grown.version, grown.metadata.schema_version) == (704, 2, 2)
    assert_same(grown[256], new[256])
    merged = merge_datasets(tmp_path / "merged", [grown, new])
    assert len(merged) == 704
    assert_same(merged[256], new[256])
    shard = old.path / "shard-00000.parquet"
    content = bytearray(shard.read_bytes())
    content[len(content) // 3] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet"):
        list(Dataset.open(old.path))


def test_batches_are_the_frames_joined(tmp_path: Path) -> None:
    frames = [*make_frames(9), bulk("Ge"), attach_labels(Atoms("He"), 2.0)]
    dataset = Dataset.create(tmp_path / "set", frames, level=PBE, shard_size=4)
    wanted = [10, 0, -2, 5, 5]
    batch = dataset.batch(wanted)
    chosen = [dataset[index] for index in wanted]
    assert batch.n_atoms.tolist() == [len(atoms) for atoms in chosen]
    assert batch.frame_of_atom.tolist() == [place for place, atoms in enumerate(chosen) for _ in atoms]
    assert np.array_equal(batch.numbers, np.concatenate([atoms.numbers for atoms in chosen]))
    assert np.array_equal(batch.positions, np.concatenate([atoms.positions for atoms in chosen]))
    for place, atoms in enumerate(chosen):
        energy, forces, stress = labels_of(atoms)
        mine = batch.forces[batch.frame_of_atom == place]
        assert np.isnan(mine).all() if forces is None else np.array_equal(mine, forces)
        assert np.isnan(batch.energy[place]) if energy is None else batch.energy[place] == energy
        assert np.isnan(batch.stress[place]).all() if stress is None else np.array_equal(batch.stress[place], stress)
        assert np.array_equal(batch.cell[place], atoms.cell.array)
        assert np.array_equal(batch.pbc[place], atoms.pbc)
        assert batch.weight[place] == atoms.info["weight"]
        assert batch.level[place] == atoms.info["level"]
    empty = dataset.batch([])
    assert (len(empty.n_atoms), len(empty.positions)) == (0, 0)
    with pytest.raises(IndexError):
        dataset.batch([11])


def test_where_reads_columns(tmp_path: Path) -> None:
    frames = [*make_frames(9), bulk("Ge")]
    dataset = Dataset.create(tmp_path / "set", frames, shard_size=4)
    assert dataset.where(sampling="rattle").tolist() == list(range(9))
    assert dataset.where(n_atoms=2).tolist() == [1, 3, 5, 7, 9]
    assert dataset.where(n_atoms=2, elements={"Si"}).tolist() == [1, 3, 5, 7]
    assert dataset.where(elements="Ge").tolist() == [9]
    assert dataset.where(group_id={"g0", "g2"}, n_atoms=lambda n: n > 2).tolist() == [0, 2, 8]
    assert dataset.where(flags=lambda flags: "b" in flags).tolist() == list(range(9))
    assert dataset.where().tolist() == list(range(10))
    with pytest.raises(DatasetError, match="'energi'"):
        dataset.where(energi=1)
    with pytest.raises(DatasetError, match="'Xy'"):
        dataset.where(elements=["Xy"])


def test_a_filter_reads_no_positions(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(6))
    shard = dataset.path / "shard-00000.parquet"
    shard.write_bytes(bytes(shard.stat().st_size))
    damaged = Dataset.open(dataset.path)
    assert damaged.where(n_atoms=2, elements="Si").tolist() == [1, 3, 5]
    assert len(damaged.column("energy")) == 6
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet' is corrupt: row 1 "):
        damaged[1]
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet"):
        damaged.batch([1])


def test_a_shard_cut_short_while_it_is_open_is_named(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(6))
    assert len(dataset[0]) == 5
    os.truncate(dataset.path / "shard-00000.parquet", 500)
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet' is corrupt"):
        dataset[5]
    with pytest.raises(DatasetError, match=r"shard-00000\.parquet' has 500 bytes instead of"):
        Dataset.open(dataset.path)


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(6))
    index = dataset.path / "shard-00000.index.arrow"
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 1
    index.write_bytes(content)
    with pytest.raises(DatasetError, match=r"shard-00000\.index\.arrow' is corrupt"):
        Dataset.open(dataset.path)[0]
    index.unlink()
    with pytest.raises(DatasetError, match=r"shard-00000\.index\.arrow' is missing"):
        Dataset.open(dataset.path)


def test_any_parquet_reader_reads_a_shard(tmp_path: Path) -> None:
    frames = make_frames(5)
    dataset = Dataset.create(tmp_path / "set", frames)
    table = pq.read_table(dataset.path / "shard-00000.parquet", page_checksum_verification=True)
    assert table.schema == SCHEMA
    for row, atoms in zip(table.to_pylist(), frames, strict=True):
        assert np.array_equal(np.reshape(row["positions"], (-1, 3)), atoms.positions)
        assert np.array_equal(np.reshape(row["forces"], (-1, 3)), labels_of(atoms)[1])
        assert row["frame_id"] == frame_id(atoms)


def test_frames_are_like_those_that_ase_makes(tmp_path: Path) -> None:
    atoms = make_frames(2)[1]
    read = Dataset.create(tmp_path / "set", [atoms])[0]
    assert read.__dict__.keys() == atoms.__dict__.keys()
    assert read.calc.__dict__.keys() == atoms.calc.__dict__.keys()
    assert read.calc.get_spin_polarized.__self__ is read.calc
    assert type(read.cell) is type(atoms.cell)
    assert read.arrays["numbers"].dtype == atoms.arrays["numbers"].dtype
    assert np.array_equal(read.get_forces(), atoms.get_forces())
    assert read.get_potential_energy() == atoms.get_potential_energy()
    assert read.copy() == atoms
    moved = read.copy()
    moved.calc = read.calc
    moved.positions[0] += 1
    with pytest.raises(PropertyNotImplementedError):
        moved.get_potential_energy()
    other = Dataset.open(tmp_path / "set")[0]
    read.set_cell(np.eye(3))
    read.calc.results["energy"] = 0.0
    assert other == atoms


def test_a_source_may_change_its_one_frame(tmp_path: Path) -> None:
    def moving() -> Iterator[Atoms]:
        atoms = Atoms("H")
        for step in range(5):
            atoms.positions[0, 0] = step
            yield atoms

    dataset = Dataset.create(tmp_path / "set", moving())
    assert [atoms.positions[0, 0] for atoms in dataset] == list(range(5))


def test_large_frames_make_small_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.datasets import writer

    monkeypatch.setattr(writer, "_GROUP_ATOMS", 10)
    monkeypatch.setattr(writer, "_SHARD_ATOMS", 40)
    frames = [Atoms("H4", positions=np.arange(12.0).reshape(4, 3) + number) for number in range(25)]
    dataset = Dataset.create(tmp_path / "set", frames)
    assert [shard.n_frames for shard in dataset.metadata.shards] == [12, 12, 1]
    assert pq.ParquetFile(dataset.path / "shard-00000.parquet").num_row_groups == 4
    assert [atoms.positions[0, 0] for atoms in dataset] == list(range(25))
    assert dataset.metadata.counts.atoms == 100


def test_counts_from_the_index_are_those_of_the_writer(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", [*make_frames(9), bulk("Ge")], level=PBE, shard_size=4)
    keeper = CountKeeper()
    for number in range(len(dataset.metadata.shards)):
        dataset.shard(number).count(keeper)
    assert keeper.counts() == dataset.metadata.counts


def test_import_is_light() -> None:
    code = "import sys, atomfoundry.datasets; print({'ase', 'pyarrow', 'numpy'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_what_is_read_may_be_changed(tmp_path: Path) -> None:
    dataset = Dataset.create(tmp_path / "set", make_frames(2))
    frame = dataset[0]
    frame.info["flags"].append("mine")
    frame.positions += 1
    frame.calc.results["forces"] += 1
    again = dataset[0]
    assert again.info["flags"] == ["a", "b"]
    assert frame_id(again) == again.info["frame_id"]
    assert np.array_equal(labels_of(again)[1], labels_of(make_frames(2)[0])[1])
