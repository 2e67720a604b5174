"""Edges kept on disk: the same graphs, no neighbour list the second time, and damage is mended."""

from __future__ import annotations

import logging
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from ase import Atoms
from ase.build import bulk

sys.path.insert(0, str(Path(__file__).parent))
from argon import CUTOFF, config, crystals, equal, labelled, losses, settings, weights

from atomfoundry.errors import TrainingError
from atomfoundry.models import graph as graph_module
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.training import edge_cache
from atomfoundry.models.training.loader import prepare_graphs
from atomfoundry.models.training.trainer import train


@pytest.fixture
def frames():
    return [*crystals(4), labelled(Atoms("Ar")), labelled(Atoms("Ar2", positions=[[0, 0, 0], [2.8, 0, 0]]))]


@pytest.fixture
def model():
    return Allegro(config())


@pytest.fixture
def no_neighbour_lists(monkeypatch):
    """Let nobody make one any more; for the second half of a test."""

    def forbid():
        def refuse(*arguments, **options):
            raise AssertionError("a neighbour list was made")

        monkeypatch.setattr(graph_module, "neighbour_pairs", refuse)

    return forbid


def same(first, second):
    for a, b in zip(first, second, strict=True):
        for field in fields(a):
            x, y = getattr(a, field.name), getattr(b, field.name)
            assert torch.equal(x.nan_to_num(7.0), y.nan_to_num(7.0)) if isinstance(x, torch.Tensor) else x == y
            assert not isinstance(x, torch.Tensor) or x.dtype == y.dtype
    return True


def test_kept_edges_give_the_same_graphs_without_a_neighbour_list(tmp_path, frames, model, no_neighbour_lists):
    plain = prepare_graphs(model, frames)
    assert same(plain, prepare_graphs(model, frames, edge_cache=tmp_path))
    no_neighbour_lists()
    assert same(plain, prepare_graphs(model, frames, edge_cache=tmp_path))


def test_trainings_do_not_notice(tmp_path, frames, no_neighbour_lists):
    plain = train(config(), frames, settings=settings(max_epochs=2))
    train(config(), frames, settings=settings(max_epochs=1), edge_cache=tmp_path)
    no_neighbour_lists()
    kept = train(config(), frames, settings=settings(max_epochs=2), edge_cache=tmp_path)
    assert losses(kept) == losses(plain)
    assert equal(weights(kept.model), weights(plain.model))


def test_graphs_made_before_are_taken_as_they_are(tmp_path, frames, model):
    made = prepare_graphs(model, frames[:1])
    mixed = prepare_graphs(model, [frames[1], made[0], frames[2]], edge_cache=tmp_path, head=0)
    assert same(mixed, prepare_graphs(model, [frames[1], frames[0], frames[2]]))
    assert mixed[1] is made[0]


def test_labels_are_not_kept(tmp_path, frames, model):
    prepare_graphs(model, frames, edge_cache=tmp_path)
    relabelled = [labelled(frame, keys=("energy",)) for frame in frames]
    assert same(prepare_graphs(model, relabelled), prepare_graphs(model, relabelled, edge_cache=tmp_path))


@pytest.mark.parametrize("what", ["positions", "cell", "pbc", "cutoff", "order"])
def test_other_structures_have_other_files(tmp_path, what):
    frames = [bulk("Ar", a=4.1), bulk("Ar", a=4.2)]
    changed, cutoff = [frame.copy() for frame in frames], CUTOFF
    if what == "positions":
        changed[0].positions += 1e-12
    elif what == "cell":
        changed[0].cell[0, 0] += 1e-12
    elif what == "pbc":
        changed[0].pbc = [True, True, False]
    elif what == "cutoff":
        cutoff += 1e-9
    else:
        changed.reverse()
    path = edge_cache.block_path(frames, cutoff=CUTOFF, folder=tmp_path)
    assert path == edge_cache.block_path([frame.copy() for frame in frames], cutoff=CUTOFF, folder=tmp_path)
    assert path != edge_cache.block_path(changed, cutoff=cutoff, folder=tmp_path)


def test_a_longer_dataset_finds_its_old_blocks(tmp_path, model, monkeypatch):
    monkeypatch.setattr(edge_cache, "BLOCK", 2)
    frames = crystals(5)
    prepare_graphs(model, frames[:4], edge_cache=tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(before) == 2
    graphs = prepare_graphs(model, frames, edge_cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert same(graphs, prepare_graphs(model, frames))


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text", "foreign"])
def test_a_damaged_file_is_made_again(tmp_path, frames, model, damage, caplog, no_neighbour_lists):
    plain = prepare_graphs(model, frames)
    prepare_graphs(model, frames, edge_cache=tmp_path)
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    if damage == "foreign":
        edge_cache.write_block(path, [(torch.zeros((2, 1), dtype=torch.int64), torch.zeros((1, 3)))])
    else:
        path.write_bytes(
            {
                "cut": whole[:-5],
                "flipped": whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
                "empty": b"",
                "text": b"edges",
            }[damage]
        )
    with caplog.at_level(logging.WARNING):
        assert same(plain, prepare_graphs(model, frames, edge_cache=tmp_path))
    assert "damaged" in caplog.text
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    no_neighbour_lists()
    assert same(plain, prepare_graphs(model, frames, edge_cache=tmp_path))


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, frames, model):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="Edges cannot be kept in"):
        prepare_graphs(model, frames, edge_cache=tmp_path / "file")
