"""Errors by element while training: exact, the same however the work is shared out, and in logs that survive a kill."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from argon import Killed, config, crystals, labelled, losses, settings
from ase import Atoms
from ase.build import bulk

from atomfoundry.errors import TrainingError
from atomfoundry.models.allegro.config import HeadConfig
from atomfoundry.models.allegro.model import Allegro
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.graph import collate
from atomfoundry.models.training.checkpoint import CHECKPOINT_FILE, load_checkpoint, save_checkpoint
from atomfoundry.models.training.elements import ElementSums, ForceBinSums
from atomfoundry.models.training.loader import prepare_graphs
from atomfoundry.models.training.logs import CSV_FILE, EVENTS_FOLDER, PART_FILES, read_csv_log, read_part_log
from atomfoundry.models.training.loss import Loss
from atomfoundry.models.training.monitor import ElementErrors, ElementMonitor, ForceBinErrors
from atomfoundry.models.training.part_history import PartErrors, PartHistory
from atomfoundry.models.training.settings import TrainingSettings
from atomfoundry.models.training.trainer import train
from atomfoundry.models.training.validation import in_chunks, validate

HEADS = [HeadConfig(name=name, isolated_energies={"Ar": 0.0, "Kr": 0.1, "Xe": 0.2}) for name in ("pt", "ft")]
ELEMENTS_FILE, FORCES_FILE = PART_FILES["elements"], PART_FILES["force_bins"]
NOBLE = {"type_names": ["Xe", "Ar", "Kr"]}


def mixture(symbols, seed=0, keys=("energy", "forces", "stress"), n=3):
    """Crystals of three atoms, one of each given element."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n):
        atoms = bulk("Ar", "fcc", a=4.1) * (3, 1, 1)
        atoms.symbols = symbols
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        frames.append(labelled(atoms, keys))
    return frames


def model():
    return Allegro(config(HEADS, dtype="float64", **NOBLE))


def graphs(of, frames, head="pt"):
    return prepare_graphs(of, frames, head=of.head_index(head))


def measured(of, entries, chunk=4):
    return validate(of, in_chunks(entries, chunk), Loss(TrainingSettings().loss, force_rms={0: 1.0, 1: 1.0}))


def directly(of, entries):
    """Head and element -> atoms, RMSE, MAE and energy MAE, atom by atom."""
    errors, energies = {}, {}
    for graph in entries:
        outputs = of(collate([graph]), forces=True, stress=True, create_graph=False)
        head = of.config.heads[int(graph.head)].name
        symbols = [of.config.type_names[t] for t in graph.types]
        for i, symbol in enumerate(symbols):
            for k in range(3):
                if math.isfinite(graph.forces[i, k]):
                    error = float(outputs["forces"][i, k] - graph.forces[i, k])
                    errors.setdefault((head, symbol), []).append((id(graph), i, error))
        if math.isfinite(graph.energy):
            error = abs(float(outputs["energy"][0] - graph.energy[0])) / len(symbols)
            for symbol in set(symbols):
                share = symbols.count(symbol) / len(symbols)
                energies.setdefault((head, symbol), []).append((share, share * error))
    found = {}
    for key in {**errors, **energies}:
        values = np.array([error for *_, error in errors.get(key, [])])
        shares = np.array(energies.get(key, np.empty((0, 2))))
        found[key] = (
            len({atom[:2] for atom in errors.get(key, [])}),
            np.sqrt(np.mean(values**2)) if len(values) else np.nan,
            np.mean(np.abs(values)) if len(values) else np.nan,
            shares[:, 1].sum() / shares[:, 0].sum() if len(shares) else np.nan,
        )
    return found


def numbers(errors):
    return {(e.head, e.element): (e.n_atoms, e.forces_rmse, e.forces_mae, e.energy_mae) for e in errors}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for key, values in first.items():
        np.testing.assert_allclose(values, second[key], rtol=1e-12, err_msg=str(key))


def mixed(of):
    """Two heads with different elements, labels missing in every way."""
    some = mixture("ArArKr", seed=1)
    some[0].calc.results["forces"][1, 2] = np.nan
    some[0].calc.results["forces"][2] = np.nan
    return [
        *graphs(of, [*some, *mixture("KrArKr", 2, ("energy",)), *mixture("ArArAr", 3, ("forces",))]),
        *graphs(of, [*crystals(2), *mixture("XeArXe", 4, ("energy",))], head="ft"),
    ]


def test_the_numbers_are_those_of_a_loop_over_the_atoms():
    of = model()
    entries = mixed(of)
    errors = measured(of, entries).parts.elements
    assert [(e.head, e.element) for e in errors] == [("pt", "Ar"), ("pt", "Kr"), ("ft", "Xe"), ("ft", "Ar")]
    assert_same(numbers(errors), directly(of, entries))
    assert numbers(errors)["pt", "Ar"][0] == 3 * 2 + 3 * 3
    assert numbers(errors)["pt", "Kr"][0] == 2
    xenon = errors[2]
    assert (xenon.n_atoms, math.isnan(xenon.forces_rmse), math.isnan(xenon.forces_mae)) == (0, True, True)
    assert xenon.energy_mae > 0


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_batches_do_not_matter(chunk):
    of = model()
    entries = mixed(of)
    assert_same(numbers(measured(of, entries, chunk).parts.elements), numbers(measured(of, entries, 5).parts.elements))


def test_the_elements_make_the_whole():
    of = model()
    entries = graphs(of, [*mixture("ArArKr"), *mixture("XeArKr", 1)])
    whole = measured(of, entries)
    components = [3 * e.n_atoms for e in whole.parts.elements]
    assert sum(components) == sum(graph.forces.numel() for graph in entries)
    assert np.average([e.forces_mae for e in whole.parts.elements], weights=components) == pytest.approx(
        whole.forces_mae
    )


def test_an_evaluation_afterwards_says_the_same():
    of = model()
    frames = [*mixture("ArArKr"), *mixture("XeArKr", 1), *mixture("XeXeXe", 2, ("energy",))]
    _, predictions = evaluate(of, frames)
    afterwards = predictions.by_element()
    errors = measured(of, graphs(of, frames)).parts.elements
    assert_same(numbers(errors), numbers(afterwards))
    assert {e.element: e.alerts for e in errors} == {e.element: e.alerts for e in afterwards}


def test_one_element_is_the_whole():
    of = Allegro(config())
    whole = measured(of, graphs(of, crystals(3), head="pt"))
    (argon,) = whole.parts.elements
    assert (argon.element, argon.n_atoms, argon.alerts) == ("Ar", 6, ("few_atoms",))
    assert argon.forces_mae == pytest.approx(whole.forces_mae, rel=1e-12)
    assert argon.energy_mae == pytest.approx(whole.energy_mae, rel=1e-12)


def test_a_large_error_and_few_atoms_are_told_head_by_head():
    of = model()
    dimers = [Atoms(pair, positions=[[0, 0, 0], [3, 0, 0]]) for pair in ("ArKr", "KrXe")]
    (batch,) = in_chunks(graphs(of, dimers * 100), 200)
    batch.forces[:] = 0.0
    wrong = torch.full_like(batch.forces, 0.1)
    wrong[batch.types == 0] = -0.4  # xenon
    sums = ElementSums(["pt", "ft"], of.config.type_names)
    sums.add({"energy": torch.zeros(200), "forces": wrong}, batch)
    errors = {e.element: e for e in sums.errors()}
    assert {element: e.alerts for element, e in errors.items()} == {"Ar": (), "Kr": (), "Xe": ("large_error",)}
    assert (errors["Xe"].forces_rmse, errors["Xe"].forces_mae) == pytest.approx((0.4, 0.4), rel=1e-12)
    assert math.isnan(errors["Xe"].energy_mae)


def test_predictions_that_are_no_numbers_show():
    of = model()
    (batch,) = in_chunks(graphs(of, mixture("ArArKr", n=1)), 1)
    forces = torch.zeros_like(batch.forces)
    forces[batch.types == of.config.type_names.index("Kr")] = torch.nan
    sums = ElementSums(["pt", "ft"], of.config.type_names)
    sums.add({"energy": batch.energy, "forces": forces}, batch)
    errors = {e.element: e for e in sums.errors()}
    assert math.isfinite(errors["Ar"].forces_rmse) and math.isnan(errors["Kr"].forces_rmse)


def test_forces_by_size_are_those_of_the_evaluation():
    of = model()
    scaled = mixture("ArArKr", n=6)
    for factor, atoms in zip((0.01, 0.3, 2, 4, 20, 80), scaled, strict=True):
        atoms.calc.results["forces"] *= factor
    entries = graphs(of, scaled)
    bins = measured(of, entries).parts.force_bins
    monitor = ElementMonitor("pt")
    for graph in entries:
        error = of(graph, forces=True, stress=False, create_graph=False)["forces"] - graph.forces
        monitor.add(["Ar"] * 3, forces=graph.forces.numpy(), forces_error=error.detach().numpy())
    wanted = monitor.force_bins()
    assert [(b.low, b.high, b.n_atoms) for b in bins] == [(w["low"], w["high"], w["n_atoms"]) for w in wanted]
    assert [b.forces_rmse for b in bins] == pytest.approx([w["rmse"] for w in wanted], rel=1e-12)
    assert [b.n_atoms > 0 for b in bins] == [True] * 4
    absolute = sum(b.forces_mae * b.n_atoms for b in bins) / sum(b.n_atoms for b in bins)
    assert absolute == pytest.approx(measured(of, entries).forces_mae, rel=1e-12)


def test_the_edges_of_the_bins_and_what_has_no_label():
    of = model()
    (batch,) = in_chunks(graphs(of, mixture("ArArKr", n=2)), 2)
    batch.forces[:] = torch.tensor([[1.0, 0, 0], [0, 10, 0], [0, 0, 50], [0, 0, 0.999], [torch.nan, 0, 0], [60, 0, 0]])
    batch.head[1] = 1
    sums = ForceBinSums(["pt", "ft"])
    sums.add({"forces": batch.forces + 0.5}, batch)
    found = [(b.head, b.low, b.high, b.n_atoms) for b in sums.errors()]
    assert found == [("pt", 1, 10, 1), ("pt", 10, 50, 1), ("pt", 50, np.inf, 1), ("ft", 0, 1, 1), ("ft", 50, np.inf, 1)]
    assert {(b.forces_mae, b.forces_rmse) for b in sums.errors()} == {(0.5, 0.5)}


def test_a_history_comes_back_from_its_tables():
    history = PartHistory()
    for epoch in (2, 4):
        argon = ElementErrors("Ar", "pt", 5 * epoch, 0.1 / epoch, 0.2, math.nan, ("few_atoms",))
        history.add(epoch, PartErrors([argon], [ForceBinErrors("pt", 50.0, math.inf, epoch, 0.3, 0.4)]))
    again = PartHistory.of_tables(json.loads(json.dumps(history.names)), history.tables())
    assert [(epoch, again.of(epoch).elements[0].n_atoms) for epoch in again] == [(2, 10), (4, 20)]
    (argon,) = again.of(4).elements
    assert (argon.element, argon.head, argon.forces_rmse, argon.forces_mae) == ("Ar", "pt", 0.1 / 4, 0.2)
    assert math.isnan(argon.energy_mae)
    assert argon.alerts == ("few_atoms",)
    assert again.of(4).force_bins == [ForceBinErrors("pt", 50.0, math.inf, 4, 0.3, 0.4)]
    assert again.of(3) == again.of(None) == PartHistory().of(1) == PartErrors()


FRAMES = {"pt": mixture("ArArKr", n=4), "ft": mixture("XeArXe", 1)}
VALID = {"pt": mixture("KrArAr", 2), "ft": mixture("XeXeAr", 3)}


def run(folder, callback=None, **changes):
    asked = settings(**({"max_epochs": 5, "checkpoint_epochs": 2} | changes))
    architecture = config(HEADS, **NOBLE)
    return train(architecture, FRAMES, VALID, settings=asked, directory=folder, callback=callback)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, run(folder)


def kill_at(epoch):
    def kill(record):
        if record.epoch == epoch:
            raise Killed

    return kill


def test_the_table_has_a_row_for_each_epoch_head_and_element(undisturbed):
    folder, result = undisturbed
    lines = (folder / ELEMENTS_FILE).read_bytes().decode().split("\r\n")
    assert lines[0] == "epoch,head,element,n_atoms,forces_mae,forces_rmse,energy_mae"
    keys = [("pt", "Ar", "6"), ("pt", "Kr", "3"), ("ft", "Xe", "6"), ("ft", "Ar", "3")]
    assert [tuple(line.split(",")[:4]) for line in lines[1:-1]] == [(str(n), *key) for n in range(1, 6) for key in keys]
    history = read_part_log(folder / ELEMENTS_FILE)
    for record in read_csv_log(folder / CSV_FILE):
        errors = history.of(record.epoch).elements
        assert np.average([e.forces_mae for e in errors], weights=[e.n_atoms for e in errors]) == pytest.approx(
            record.forces_mae
        )
    assert sorted(result.elements, key=str) == sorted(history.of(result.best_epoch).elements, key=str)
    assert [e.forces_rmse for e in result.elements] == sorted([e.forces_rmse for e in result.elements], reverse=True)


def test_the_result_holds_the_errors_of_the_weights_returned(undisturbed):
    _, result = undisturbed
    of = result.model
    entries = [graph for head, frames in VALID.items() for graph in graphs(of, frames, head)]
    found = numbers(measured(of, entries, chunk=32).parts.elements)
    assert numbers(result.elements) == {key: found[key] for key in numbers(result.elements)}


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_kill_leaves_no_trace_in_the_table(tmp_path, undisturbed, epoch):
    """Before the first checkpoint, with an epoch that the checkpoint lacks, and with none."""
    folder, whole = undisturbed
    with pytest.raises(Killed):
        run(tmp_path, kill_at(epoch))
    assert list(read_part_log(tmp_path / ELEMENTS_FILE)) == list(range(1, epoch + 1))
    result = run(tmp_path)
    assert losses(result) == losses(whole)
    for name in PART_FILES.values():
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert result.elements == whole.elements
    first, second = (load_checkpoint(path / "checkpoint").group("parts") for path in (tmp_path, folder))
    assert first.keys() == second.keys() == PART_FILES.keys()
    assert all(torch.equal(first[kind], second[kind]) for kind in first)


def test_a_lost_table_comes_back(tmp_path, undisturbed):
    folder, _ = undisturbed
    with pytest.raises(Killed):
        run(tmp_path, kill_at(3))
    (tmp_path / ELEMENTS_FILE).unlink()
    run(tmp_path)
    assert (tmp_path / ELEMENTS_FILE).read_bytes() == (folder / ELEMENTS_FILE).read_bytes()


def test_a_checkpoint_of_an_older_version_goes_on(tmp_path, undisturbed):
    folder, whole = undisturbed
    with pytest.raises(Killed):
        run(tmp_path, kill_at(3))
    checkpoint = load_checkpoint(tmp_path / "checkpoint")
    for kind in PART_FILES:
        del checkpoint.tensors[f"parts/{kind}"]
    del checkpoint.state["part_names"]
    save_checkpoint(tmp_path / "checkpoint", checkpoint)
    assert (tmp_path / "checkpoint" / CHECKPOINT_FILE).is_file()
    assert losses(run(tmp_path)) == losses(whole)
    history, complete = (read_part_log(path / ELEMENTS_FILE) for path in (tmp_path, folder))
    assert list(history) == [3, 4, 5]
    assert [history.of(n) for n in history] == [complete.of(n) for n in history]


def test_forces_by_size_have_a_table(undisturbed):
    folder, _ = undisturbed
    lines = (folder / FORCES_FILE).read_text().splitlines()
    assert lines[0] == "epoch,head,low,high,n_atoms,forces_mae,forces_rmse"
    history = read_part_log(folder / FORCES_FILE)
    assert list(history) == [1, 2, 3, 4, 5]
    of_elements = read_part_log(folder / ELEMENTS_FILE)
    for epoch in history:
        for head in ("pt", "ft"):
            bins = [b for b in history.of(epoch).force_bins if b.head == head]
            elements = [e for e in of_elements.of(epoch).elements if e.head == head]
            squares = [sum(x.n_atoms * x.forces_rmse**2 for x in part) for part in (bins, elements)]
            assert squares[0] == pytest.approx(squares[1], rel=1e-12)


def test_only_epochs_that_were_validated_have_rows(tmp_path):
    run(tmp_path, eval_interval=2)
    assert list(read_part_log(tmp_path / ELEMENTS_FILE)) == [2, 4, 5]


def test_an_element_far_worse_than_the_others_is_named_in_the_end(tmp_path, caplog):
    frames = [*mixture("ArArKr", n=3), *mixture("ArXeKr", 5, n=2)]
    for atoms in frames[3:]:
        atoms.calc.results["forces"][1] += 40.0
    asked = settings(max_epochs=2)
    result = train(config(HEADS, **NOBLE), frames[:3], frames, settings=asked, directory=tmp_path)
    assert result.elements[0].element == "Xe"
    assert ["large_error" in e.alerts for e in result.elements] == [True, False, False]
    (message,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert (
        f"force RMSE of Xe ({result.elements[0].forces_rmse:.3g} eV/A, 2 atoms) is over 3 times the median" in message
    )


def test_no_table_without_validation_or_if_not_wanted(tmp_path):
    result = train(config(), crystals(2), settings=settings(max_epochs=1), directory=tmp_path / "blind")
    assert result.elements == []
    assert not (tmp_path / "blind" / ELEMENTS_FILE).exists()
    assert not (tmp_path / "blind" / FORCES_FILE).exists()
    assert run(tmp_path / "quiet", max_epochs=1, csv_log=False).elements
    assert not (tmp_path / "quiet" / ELEMENTS_FILE).exists()


def test_another_table_is_refused(tmp_path, undisturbed):
    with pytest.raises(TrainingError, match=r"training.csv is no table of a validation's parts"):
        read_part_log(undisturbed[0] / CSV_FILE)


def test_tensorboard_shows_the_elements(tmp_path, undisturbed):
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with pytest.raises(Killed):
        run(tmp_path, kill_at(3), tensorboard=True)
    run(tmp_path, tensorboard=True)
    events = EventAccumulator(str(tmp_path / EVENTS_FOLDER)).Reload()
    history = read_part_log(undisturbed[0] / ELEMENTS_FILE)
    for name in ("forces_mae", "forces_rmse", "energy_mae"):
        read = events.Scalars(f"elements_{name}/ft/Xe")
        assert [event.step for event in read] == [1, 2, 3, 4, 5]
        wanted = [
            getattr(e, name) for n in history for e in history.of(n).elements if (e.head, e.element) == ("ft", "Xe")
        ]
        assert [event.value for event in read] == pytest.approx(wanted, rel=1e-6)
    sizes = {tag for tag in events.Tags()["scalars"] if tag.startswith("force_bins_forces_rmse/")}
    assert sizes == {
        f"force_bins_forces_rmse/{b.head}/from_{b.low:g}"
        for b in read_part_log(undisturbed[0] / FORCES_FILE).of(1).force_bins
    }
