"""Predictions and errors of whole datasets: exact, in bounded memory."""

from __future__ import annotations

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from atomfoundry.datasets import attach_labels, labels_of, read_extxyz, with_metadata, write_extxyz
from atomfoundry.errors import LabelError, ModelError
from atomfoundry.models import Allegro, AllegroConfig, HeadConfig
from atomfoundry.models.accuracy import GROUPS_KEPT, Accuracy, gather, predicted_frames
from atomfoundry.models.accuracy_page import write_accuracy_page
from atomfoundry.models.element_shift import ElementShift
from atomfoundry.models.evaluation import evaluate
from atomfoundry.models.prediction import Prediction, predict
from atomfoundry.models.running_errors import POINTS_KEPT, PointSample, RunningErrors

SMALL = {
    "cutoff": 3.5,
    "num_channels": 4,
    "l_max": 1,
    "n_layers": 1,
    "two_body_dims": [8, 8],
    "latent_dims": [8, 8],
    "edge_energy_dims": [8],
    "avg_num_neighbors": 12.0,
}


@pytest.fixture(scope="module")
def model():
    heads = [HeadConfig(isolated_energies={"Cu": -1.0, "Au": -2.0}, scale=0.7)]
    return Allegro(AllegroConfig(type_names=["Cu", "Au"], heads=heads, **SMALL)).eval()


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(0)
    found = []
    for number in range(11):
        atoms = bulk("Cu", cubic=True)
        atoms.symbols[: number % 4] = "Au"
        atoms.positions += rng.normal(0, 0.1, atoms.positions.shape)
        atoms.calc = EMT()
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = None
        frame = with_metadata(atoms, source=f"{'ab'[number % 2]}.cif#{number}", sampling="rattle")
        # a frame without stress and one without forces
        found.append(
            attach_labels(frame, labels[0], None if number == 3 else labels[1], None if number == 4 else labels[2])
        )
    return found


def judged(predictor, frames, **more):
    accuracy = Accuracy(**more)
    for frame, prediction in predict(predictor, frames, batch_size=4):
        accuracy.add(frame, prediction)
    return accuracy


def test_streamed_errors_are_those_of_one_pass(model, frames):
    accuracy = judged(model, frames, head="pt", split="test", isolated_energies={"Cu": -1.0, "Au": -2.0})
    metrics, predictions = evaluate(model, frames, head="pt")
    streamed = accuracy.metrics().model_dump()
    for key, value in metrics.model_dump().items():
        assert streamed[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value)
    assert accuracy.shifted()[1] == pytest.approx(predictions.shifted_energy_rmse(), rel=1e-6)
    for mine, theirs in zip(accuracy.by_element(), predictions.by_element(), strict=True):
        assert mine.element == theirs.element
        assert mine.forces_rmse == pytest.approx(theirs.forces_rmse, rel=1e-6)


def test_a_calculator_and_its_own_labels_agree(frames):
    accuracy = judged(EMT(), frames)
    metrics = accuracy.metrics()
    assert metrics.energy_rmse < 1e-12
    assert metrics.forces_rmse < 1e-12
    assert metrics.stress_rmse < 1e-12
    assert metrics.n_frames == 11
    assert accuracy.overall.errors["forces"].count == 10 * 12
    assert accuracy.overall.errors["stress"].count == 10 * 6
    assert {name: group.n_frames for name, group in accuracy.by_source.items()} == {"a.cif": 6, "b.cif": 5}


def test_batches_do_not_change_predictions(model, frames):
    single = [p for _, p in predict(model, frames, batch_size=1)]
    batched = [p for _, p in predict(model, frames, batch_size=5)]
    for one, other in zip(single, batched, strict=True):
        assert one.energy == pytest.approx(other.energy, abs=1e-5)
        assert np.allclose(one.forces, other.forces, atol=1e-5)
        assert np.allclose(one.stress, other.stress, atol=1e-6)


def test_frames_are_read_as_they_are_needed(model, frames):
    """Never more than a batch is ahead."""
    taken = []

    def stream():
        for frame in frames:
            taken.append(frame)
            yield frame

    for number, _ in enumerate(predict(model, stream(), batch_size=3), start=1):
        assert len(taken) - number < 3


def test_unknown_elements_cost_their_frame_only(model, frames):
    silicon = with_metadata(bulk("Si"))
    items = list(predict(model, [frames[0], silicon, frames[1]], batch_size=8))
    assert [atoms.get_chemical_symbols()[0] for atoms, _ in items] == ["Cu", "Si", "Au"]
    assert isinstance(items[1][1], LabelError)
    assert items[1][1].reason == "unsupported"
    accuracy = Accuracy(split="mixed")
    for item in items:
        accuracy.add(*item)
    assert (accuracy.overall.n_frames, accuracy.n_failed) == (2, 1)
    assert accuracy.failures[0].frame == silicon.info["frame_id"]
    only = Accuracy(split="silicon")
    only.add(*items[1])
    with pytest.raises(ModelError, match="does not know the element"):
        only.metrics()


def test_a_head_without_an_element_s_energy_cannot_predict_it(frames):
    heads = [HeadConfig(isolated_energies={"Cu": -1.0})]
    partial = Allegro(AllegroConfig(type_names=["Cu", "Au"], heads=heads, **SMALL)).eval()
    found = [p for _, p in predict(partial, frames[:2])]
    assert isinstance(found[0], Prediction)
    assert isinstance(found[1], LabelError)
    assert "Au" in str(found[1])


def test_isolated_atoms_do_not_count(model, frames):
    atom = attach_labels(with_metadata(Atoms("Cu")), -1.0)
    accuracy = judged(model, [atom, frames[0]])
    assert (accuracy.n_isolated, accuracy.overall.n_frames) == (1, 1)


def test_calculators_that_fail_are_reasons(frames):
    class Broken(LennardJones):
        def calculate(self, *args, **kwargs):
            raise RuntimeError("no licence")

    accuracy = judged(Broken(), frames[:3])
    assert accuracy.reasons == {"crashed": 3}
    with pytest.raises(ModelError, match="no licence"):
        accuracy.metrics()


def test_running_errors_are_exact_in_portions():
    rng = np.random.default_rng(1)
    reference = rng.normal(size=1000) - 2e4
    predicted = reference + rng.normal(0, 0.01, 1000)
    running = RunningErrors()
    for part in np.array_split(np.arange(1000), 7):
        running.add(reference[part], predicted[part])
    error = predicted - reference
    assert running.mae == pytest.approx(np.abs(error).mean(), rel=1e-12)
    assert running.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-12)
    assert running.r2 == pytest.approx(1 - (error**2).sum() / ((reference - reference.mean()) ** 2).sum(), rel=1e-9)
    assert running.largest == np.abs(error).max()


def test_samples_are_bounded_and_hold_the_worst():
    sample = PointSample(limit=100, seed=3)
    for start in range(0, 10_000, 500):
        x = np.arange(start, start + 500, dtype=float)
        sample.add(x, x + (x == 4321.0))
    reference, predicted = sample.points()
    assert 100 <= len(reference) <= 100 + 40
    assert predicted[reference == 4321.0] == [4322.0]
    kept = reference[reference != 4321.0]
    assert abs(kept.mean() - 5000) < 1500


def test_memory_does_not_grow_with_the_frames():
    accuracy = Accuracy()
    atoms = attach_labels(with_metadata(Atoms("Cu2", [[0, 0, 0], [0, 0, 2]])), 1.0, np.zeros((2, 3)))
    for number in range(GROUPS_KEPT + 500):
        atoms.info["source"] = f"file-{number}"
        accuracy.add(atoms, Prediction(1.1, np.full((2, 3), 0.1)))
    assert len(accuracy.by_source) == GROUPS_KEPT + 1
    assert accuracy.by_source["others"].n_frames == 500
    assert len(accuracy.samples["forces"].points()[0]) <= POINTS_KEPT + 40
    assert accuracy.metrics().forces_mae == pytest.approx(0.1)


def test_shifts_are_found_under_large_energies():
    """The residual is small beside energies of 1e5 eV/atom."""
    rng = np.random.default_rng(2)
    truth, shift = {"H": -13.6, "O": -2.0e3, "U": -7.6e5}, ElementShift()
    noise = rng.normal(0, 1e-3, 3000)
    rows, errors = [], []
    for number in range(3000):
        counts = rng.integers(0, 4, 3) + np.array([1, 0, number > 1500])
        symbols = [s for s, n in zip(truth, counts, strict=True) for _ in range(n)]
        error = sum(truth[s] for s in symbols) / len(symbols) + noise[number]
        rows.append(counts / counts.sum())
        errors.append(error)
        shift.add(symbols, error)
    found, left = shift.solve()
    matrix, target = np.array(rows), np.array(errors)
    exact = np.linalg.lstsq(matrix, target, rcond=None)[0]
    assert left == pytest.approx(np.sqrt(np.mean((target - matrix @ exact) ** 2)), rel=1e-4)
    assert [found[s] for s in truth] == pytest.approx(exact, rel=1e-7)


def test_shifts_of_one_composition_take_the_mean():
    shift = ElementShift()
    for error in (1.0, 3.0):
        shift.add(["H", "H", "O"], error)
    found, left = shift.solve()
    assert (2 * found["H"] + found["O"]) / 3 == pytest.approx(2.0)
    assert left == pytest.approx(1.0)


def test_predictions_as_a_file(model, frames, tmp_path):
    accuracy = Accuracy()
    path = tmp_path / "predicted.xyz"
    assert write_extxyz(path, predicted_frames(gather(accuracy, predict(model, frames)))) == 11
    assert accuracy.overall.n_frames == 11
    direct = [p for _, p in predict(model, frames)]
    for frame, prediction in zip(read_extxyz(path), direct, strict=True):
        energy, forces, stress = labels_of(frame)
        assert energy == prediction.energy
        assert np.array_equal(forces, prediction.forces)
        assert np.allclose(stress, prediction.stress)
        assert frame.info["level"] == ""


def test_the_page_shows_numbers_of_every_set(model, frames, tmp_path):
    accuracies = [judged(model, frames, head="pt", split="one"), judged(EMT(), [*frames, with_metadata(bulk("Si"))])]
    page = tmp_path / "page.html"
    write_accuracy_page(page, accuracies, title="A model")
    content = page.read_text()
    for words in ("A model", "one, head", "a.cif", "11 frames compared", "1 without a prediction", "Si2"):
        assert words in content
