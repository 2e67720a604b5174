"""Several processes train as one: the same steps, courses, stops and resumptions, and errors in all of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
import trained_together
from argon import losses, weights

from atomfoundry.models.training.checkpoint import load_checkpoint
from atomfoundry.models.training.logs import CSV_FILE, PART_FILES, read_csv_log

SCRIPT = Path(__file__).parent / "trained_together.py"
ONE_STEP = ("default", "rmse", "universal", "sharpness", "adaptive", "balanced", "rmse_parts")


class Trained:
    """What the script left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def weights(self, size, name, rank=0):
        return load_file(self.folder / f"{size}-{rank}-{name}.safetensors")

    def report(self, size, name, rank=0):
        return json.loads((self.folder / f"{size}-{rank}.json").read_text())[name]

    def difference(self, first, second):
        return max((first[name] - second[name]).abs().max().item() for name in first)


pytestmark = pytest.mark.slow  # a dozen processes that import torch


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Trained(folder)


@pytest.mark.parametrize("name", ONE_STEP)
def test_a_step_of_many_processes_is_that_of_one_with_the_whole_batch(trained, name):
    alone = trained.weights(1, name)
    for size in (2, 4):
        assert trained.difference(alone, trained.weights(size, name)) < 1e-12
        assert trained.report(size, name)["shares"] == pytest.approx(trained.report(1, name)["shares"], rel=1e-9)
        for rank in range(1, size):
            assert trained.difference(trained.weights(size, name), trained.weights(size, name, rank)) == 0.0


def test_batches_after_each_other_are_as_good_as_one(trained):
    """Eleven structures in six batches, on one, two and four processes, and at once."""
    for at_once, in_parts in (("default", "balanced"), ("rmse", "rmse_parts")):
        assert trained.difference(trained.weights(1, at_once), trained.weights(1, in_parts)) < 1e-12
        shares = trained.report(1, at_once)["shares"]
        assert trained.report(4, in_parts)["shares"] == pytest.approx(shares, rel=1e-9)


def test_the_steps_differ_where_the_settings_do(trained):
    assert len({trained.weights(1, name)["two_body.weights.0"].sum().item() for name in ONE_STEP[:5]}) == 5


def test_a_whole_course_does_not_depend_on_the_number_of_processes(trained):
    alone, together = trained.report(1, "course"), trained.report(2, "course")
    assert together["stop_reason"] == "max_epochs"
    for first, second in zip(alone["losses"], together["losses"], strict=True):
        assert second == pytest.approx(first, rel=1e-10)
    assert trained.difference(trained.weights(1, "course"), trained.weights(2, "course")) < 1e-11


def test_errors_by_element_do_not_depend_on_the_number_of_processes(trained):
    """On four processes some have no structure of a head, or none at all that holds an element."""
    alone, of_forces = (trained.report(1, name) for name in ("by_element", "by_force"))
    assert len({entry["low"] for entry in of_forces}) > 1
    for size in (2, 4):
        for first, second in zip(of_forces, trained.report(size, "by_force", size - 1), strict=True):
            assert second["n_atoms"] == first["n_atoms"]
            assert list(second.values())[1:] == pytest.approx(list(first.values())[1:], rel=1e-13)
    named = [(entry["head"], entry["element"]) for entry in alone]
    assert named == [("pt", "Ar"), ("pt", "Kr"), ("ft", "Xe"), ("ft", "Ar")]
    assert sum(entry["n_atoms"] for entry in alone) == 2 * 11 - 2
    for size in (2, 4):
        for rank in range(size):
            together = trained.report(size, "by_element", rank)
            assert together == trained.report(size, "by_element")
            for first, second in zip(alone, together, strict=True):
                assert first.keys() == second.keys()
                for name in ("head", "element", "n_atoms", "alerts"):
                    assert second[name] == first[name]
                for name in ("forces_rmse", "forces_mae", "energy_mae"):
                    assert second[name] == pytest.approx(first[name], rel=1e-13)


def test_a_killed_course_goes_on_bit_for_bit(trained):
    for size in (1, 2):
        for file in PART_FILES.values():
            tables = [(trained.folder / str(size) / name / file).read_bytes() for name in ("course", "resumed")]
            assert tables[0] == tables[1]
            assert tables[0].count(b"\n") >= 1 + 4
        assert trained.report(size, "resumed")["elements"] == trained.report(size, "course")["elements"] != []
        assert trained.report(size, "resumed")["losses"] == trained.report(size, "course")["losses"]
        assert trained.difference(trained.weights(size, "resumed"), trained.weights(size, "course")) == 0.0


def test_a_signal_to_one_process_stops_all_and_the_rest_is_done_later_bit_for_bit(trained):
    for size in (1, 2):
        stopped = [trained.report(size, "stopped", rank) for rank in range(size)]
        assert {(r["stop_reason"], r["interrupted"], r["n_epochs"]) for r in stopped} == {("signal", True, 1)}
        assert trained.report(size, "continued")["losses"] == trained.report(size, "course")["losses"]
        assert trained.difference(trained.weights(size, "continued"), trained.weights(size, "course")) == 0.0


def test_another_number_of_processes_may_go_on(trained):
    """From two to one: the course is the same but for rounding."""
    result = trained_together.course(trained.folder / "2" / "half")
    assert (result.stop_reason, result.n_epochs) == ("max_epochs", 4)
    assert [loss for _, loss, *_ in losses(result)] == pytest.approx(
        [loss for _, loss, *_ in trained.report(1, "course")["losses"]], rel=1e-10
    )
    assert trained.difference(trained.weights(1, "course"), weights(result.model)) < 1e-11


def test_only_the_first_process_writes(trained):
    folder = trained.folder / "2" / "course"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint", CSV_FILE, *PART_FILES.values()]
    assert [record.epoch for record in read_csv_log(folder / CSV_FILE)] == [1, 2, 3, 4]
    state = load_checkpoint(folder / "checkpoint").state
    assert len(state["history"]) == 4


def test_a_step_that_one_process_cannot_do_is_skipped_by_all(trained):
    assert [trained.report(2, "skipped", rank)["n_skipped"] for rank in range(2)] == [2, 2]


def test_all_begin_with_the_weights_of_the_first(trained):
    first, second = trained.weights(2, "first_weights", 0), trained.weights(2, "first_weights", 1)
    assert trained.difference(first, second) == 0.0
    torch.testing.assert_close(first, trained.weights(1, "first_weights"), rtol=1e-4, atol=1e-6)


def test_different_data_are_an_error_in_every_process(trained):
    for rank in range(2):
        assert "do not have the same settings and data" in (trained.folder / "2" / f"other_data-{rank}").read_text()
