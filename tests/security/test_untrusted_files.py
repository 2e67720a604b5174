"""Files that others made cannot run code: every reader meets payloads that would leave a mark."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from safetensors.torch import save_file

from atomfoundry.alignment.transform import Alignment
from atomfoundry.checkpoint.files import read_saved
from atomfoundry.cli.inputs import read_settings
from atomfoundry.datasets import Dataset, read_frames
from atomfoundry.datasets.convert import INPUTS
from atomfoundry.datasets.files import file_sha256
from atomfoundry.datasets.structure_record import structure_of
from atomfoundry.engines.foreign import read_calculator_spec
from atomfoundry.errors import (
    AtomfoundryError,
    CheckpointError,
    ConfigurationError,
    DatasetError,
    ModelError,
    StructureError,
)
from atomfoundry.harvest import harvest
from atomfoundry.models import Allegro, AllegroConfig, HeadConfig, load_model, save_model
from atomfoundry.models.training.checkpoint import CHECKPOINT_FILE, load_checkpoint
from atomfoundry.models.training.edge_cache import read_block
from atomfoundry.models.uncertainty.llpr import load_uncertainty
from atomfoundry.results.report.arrays import Predictions
from atomfoundry.settings import settings
from atomfoundry.sources import fetch_structures
from atomfoundry.workflows.flow_file import load_flow_file


def test_an_array_instead_of_an_archive(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.zeros(3))
    (tmp_path / "data.npy").rename(tmp_path / "data.npz")
    assert not harvest(tmp_path / "data.npz").frames
    with pytest.raises(CheckpointError):
        read_saved(tmp_path / "data.npz")
    with pytest.raises(DatasetError):
        list(read_frames(tmp_path / "data.npz"))


def pickles(trap: Any) -> dict[str, bytes]:
    """A pickle as it is, inside PyTorch's zip, inside NumPy's array, and both in a zip that climbs."""
    torch_file, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save(trap.bomb, torch_file)
    np.save(array, np.array([trap.bomb], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(archive, "w") as members:
        for name in ("n_atoms.npy", "positions.npy", "symbols.npy", "energies.npy", "../../climbed.npy"):
            members.writestr(name, array.getvalue())
    return {
        "pickle": trap.pickled,
        "torch": torch_file.getvalue(),
        "npy": array.getvalue(),
        "zip": archive.getvalue(),
        "gzip": gzip.compress(trap.pickled),
    }


@pytest.fixture
def model(tmp_path: Path) -> Path:
    config = AllegroConfig(
        type_names=["Si"],
        cutoff=3.0,
        num_channels=2,
        two_body_dims=[4, 4],
        latent_dims=[4],
        avg_num_neighbors=4.0,
        heads=[HeadConfig(name="pt", isolated_energies={"Si": -1.0})],
    )
    return save_model(Allegro(config), tmp_path / "model", metadata={})


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    frames = []
    for scale in (1.0, 1.01, 1.02):
        atoms = bulk("Si", a=5.43 * scale)
        atoms.calc = SinglePointCalculator(atoms, energy=-scale, forces=np.zeros((2, 3)))
        frames.append(atoms)
    return Dataset.create(tmp_path / "set", frames).path


def test_weights(trap: Any, model: Path) -> None:
    record = json.loads((model / "config.json").read_text())
    for content in pickles(trap).values():
        (model / "model.safetensors").write_bytes(content)
        (model / "config.json").write_text(
            json.dumps(record | {"sha256": file_sha256(model / "model.safetensors"), "metadata": trap.thing})
        )
        with pytest.raises(ModelError):
            load_model(model)


def test_model_description(trap: Any, model: Path) -> None:
    record = json.loads((model / "config.json").read_text())
    for payload in (trap.thing, trap.function):
        (model / "config.json").write_text(json.dumps(record | {"config": record["config"] | payload}))
        with pytest.raises(ModelError):
            load_model(model)
        (model / "config.json").write_text(json.dumps(record | {"metadata": payload}))
        load_model(model)


def test_checkpoints_uncertainty_and_kept_edges(trap: Any, model: Path, tmp_path: Path) -> None:
    loaded = load_model(model)
    for content in pickles(trap).values():
        (tmp_path / CHECKPOINT_FILE).write_bytes(content)
        with pytest.raises(AtomfoundryError):
            load_checkpoint(tmp_path)
        (tmp_path / "llpr.safetensors").write_bytes(content)
        with pytest.raises(ModelError):
            load_uncertainty(tmp_path, loaded)
        (tmp_path / "progress.npz").write_bytes(content)
        with pytest.raises(CheckpointError):
            read_saved(tmp_path / "progress.npz")
        (tmp_path / "block").write_bytes(content)
        assert read_block(tmp_path / "block", n_frames=1) is None
    save_file({"a": torch.zeros(1)}, tmp_path / "block", metadata={"edges": json.dumps(trap.thing)})
    assert read_block(tmp_path / "block", n_frames=1) is None


def _with_file(folder: Path, key: str, content: bytes, name: str = "") -> None:
    """Put a file into a dataset as its maker would: name, size and hash recorded."""
    record = json.loads((folder / "dataset.json").read_text())
    shard = record["shards"][0]
    entry = shard if key == "shard" else (shard.get(key) or {})
    entry["file"] = name or entry.get("file") or "rows.npy"
    (folder / entry["file"]).write_bytes(content)
    entry.update(sha256=file_sha256(folder / entry["file"]), size=len(content))
    if key != "shard":
        shard[key] = entry
    (folder / "dataset.json").write_text(json.dumps(record))


@pytest.mark.parametrize("key", ["shard", "index", "rows"])
def test_files_of_a_dataset(trap: Any, dataset: Path, key: str) -> None:
    for content in pickles(trap).values():
        _with_file(dataset, key, content)
        with pytest.raises(DatasetError):
            list(Dataset.open(dataset).frames())


def test_files_of_a_dataset_lie_in_its_folder(trap: Any, dataset: Path, tmp_path: Path) -> None:
    record = json.loads((dataset / "dataset.json").read_text())
    for name in ("../secret", str(tmp_path / "secret"), "sub/file", "..", ""):
        (tmp_path / "secret").write_bytes(b"x")
        record["shards"][0]["file"] = name
        (dataset / "dataset.json").write_text(json.dumps(record))
        with pytest.raises(DatasetError, match="no name of a file in the folder"):
            Dataset.open(dataset)


def test_description_of_a_dataset(trap: Any, dataset: Path) -> None:
    record = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps(record | trap.thing))
    with pytest.raises(DatasetError):
        Dataset.open(dataset)
    (dataset / "dataset.json").write_text(json.dumps(record | {"lineage": trap.thing}))
    assert len(Dataset.open(dataset)) == 3


def test_parquet_with_foreign_metadata(trap: Any, tmp_path: Path) -> None:
    """What pandas and Arrow's own types say in a file's metadata is not obeyed."""
    said = {"index_columns": [], "columns": [], "pandas_version": "2", "creator": trap.thing}
    storage = pa.field(
        "split",
        pa.binary(),
        metadata={
            b"ARROW:extension:name": b"arrow.py_extension_type",
            b"ARROW:extension:metadata": trap.pickled,
        },
    )
    schema = pa.schema([storage], metadata={b"pandas": json.dumps(said).encode()})
    pq.write_table(pa.table([pa.array([b"a"])], schema=schema), tmp_path / "predictions.parquet")
    with pytest.raises(AtomfoundryError):
        Predictions.from_parquet(tmp_path / "predictions.parquet")
    for content in pickles(trap).values():
        (tmp_path / "predictions.parquet").write_bytes(content)
        with pytest.raises(AtomfoundryError):
            Predictions.from_parquet(tmp_path / "predictions.parquet")


@pytest.mark.parametrize("kind", [name for name in INPUTS if name != "dataset"])
def test_frames_of_every_format(trap: Any, tmp_path: Path, kind: str) -> None:
    for content in pickles(trap).values():
        (tmp_path / "frames").write_bytes(content)
        with pytest.raises(DatasetError):
            list(read_frames(tmp_path / "frames", format=kind))
    assert not list(tmp_path.parent.glob("climbed*"))


SUFFIXES = (".cif", ".xyz", ".traj", ".json", ".db", ".vasp", ".py", ".pckl", ".pkl", ".gpw", ".yaml", ".nc", ".xml")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_structure_files(trap: Any, tmp_path: Path, suffix: str) -> None:
    python = f"import os\nos.system({trap.command!r})\n".encode()
    for content in (*pickles(trap).values(), python, trap.yaml.encode(), json.dumps(trap.thing).encode()):
        (tmp_path / f"structure{suffix}").write_bytes(content)
        with pytest.raises(StructureError):
            fetch_structures([tmp_path / f"structure{suffix}"])


def test_harvest(trap: Any, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    folder.mkdir()
    for kind, content in pickles(trap).items():
        for name in ("frames.traj", "frames.xyz", "data.npz", "task.json", "task.json.gz", "vasprun.xml", "OUTCAR"):
            (folder / kind).mkdir(exist_ok=True)
            (folder / kind / name).write_bytes(content)
    assert not harvest(folder).frames


def test_harvest_of_a_document_that_names_a_class(trap: Any, tmp_path: Path) -> None:
    structure = {
        "lattice": {"matrix": [[3, 0, 0], [0, 3, 0], [0, 0, 3]]},
        "sites": [{"species": [{"element": "Si", "occu": 1}], "abc": [0, 0, 0], "properties": {"magmom": trap.thing}}],
        "properties": trap.thing,
    }
    step = {"structure": structure, "e_fr_energy": -1.0, "e_0_energy": -1.0, "forces": [[0, 0, 0]]}
    calc = {"input": {"parameters": {}, "incar": {}}, "output": {"ionic_steps": [step]}}
    (tmp_path / "task.json").write_text(
        json.dumps({"calcs_reversed": [calc], "@module": trap.module, "@class": "Thing"})
    )
    (frame,) = harvest(tmp_path / "task.json", steps="all").frames or [None]
    assert frame is None or len(frame) == 1
    # as the Materials Project's answers are read
    assert structure_of(structure).formula == "Si1"


def test_structure_of_keeps_what_it_needs() -> None:
    from pymatgen.core import Lattice, Structure

    given = Structure(Lattice.cubic(3.1), [{"Na+": 0.5, "K+": 0.5}, "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]], charge=0.0)
    assert structure_of(given.as_dict()) == given


def test_entities_that_grow(trap: Any, tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 11))
    text = f'<?xml version="1.0"?><!DOCTYPE m [<!ENTITY e0 "x">{entities}]><modeling>&e10;</modeling>'
    (tmp_path / "vasprun.xml").write_text(text)
    (tmp_path / "data-file-schema.xml").write_text(text)
    stolen = tmp_path / "stolen"
    stolen.write_text("1.0")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "vasprun.xml").write_text(
        f'<!DOCTYPE m [<!ENTITY e SYSTEM "file://{stolen}">]><modeling>&e;</modeling>'
    )
    assert not harvest(tmp_path).frames


YAML_READERS: list[Callable[[Path, str], Any]] = [
    lambda path, text: load_flow_file(path),
    lambda path, text: read_calculator_spec(str(path)),
    lambda path, text: read_settings([str(path)]),
    lambda path, text: read_settings([f"key={text}"]),
]


@pytest.mark.parametrize("reader", YAML_READERS)
def test_yaml(trap: Any, tmp_path: Path, reader: Callable[[Path, str], Any]) -> None:
    path = tmp_path / "file.yaml"
    for text in (trap.yaml, f"key: {trap.yaml}", f"key: !!python/module:{trap.module} ''"):
        path.write_text(text)
        with pytest.raises(ConfigurationError):
            reader(path, text)


def test_settings_file(trap: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.yaml").write_text(f"home: {trap.yaml}")
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "settings.yaml"))
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=r"no plain YAML \(line 1\)"):
        settings()


def test_training_settings_of_the_command_line(trap: Any) -> None:
    from atomfoundry.cli.train import _changes

    with pytest.raises(ConfigurationError):
        list(_changes([f"lr={trap.yaml}"]))


def test_alignment(trap: Any, tmp_path: Path) -> None:
    for content in (*pickles(trap).values(), json.dumps(trap.thing).encode()):
        (tmp_path / "alignment.json").write_bytes(content)
        with pytest.raises(AtomfoundryError):
            Alignment.load(tmp_path / "alignment.json")
