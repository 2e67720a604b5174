"""When checkpoints are written, and how a computation ends where its process must end."""

from __future__ import annotations

import time

import numpy as np
import pytest

from atomfoundry.checkpoint import Checkpoints, Saved, fingerprint, keeper, opened
from atomfoundry.checkpoint.arrays import KeptArrays
from atomfoundry.deadline import NoTimeLeftError, _Request, forget_stop
from atomfoundry.errors import CheckpointError, ConfigurationError, InputError, LabelError
from atomfoundry.settings import settings


@pytest.fixture(autouse=True)
def forget_afterwards(monkeypatch):
    for name in ("ATOMFOUNDRY_DEADLINE", "ATOMFOUNDRY_DEADLINE_MARGIN", "SLURM_JOB_END_TIME", "PBS_WALLTIME"):
        monkeypatch.delenv(name, raising=False)
    yield
    forget_stop()


@pytest.fixture
def clock(monkeypatch):
    """Time that only tests move."""

    class Clock:
        now = 1000.0

        def __call__(self):
            return self.now

    clock = Clock()
    monkeypatch.setattr(keeper.time, "perf_counter", clock)
    return clock


def state(value):
    return lambda: Saved({"x": np.array([value])}, {"value": value})


def test_the_interval_is_a_setting(tmp_path, monkeypatch):
    settings.cache_clear()
    monkeypatch.setenv("ATOMFOUNDRY_CHECKPOINT_INTERVAL", "7")
    assert Checkpoints(tmp_path).interval == 7.0
    settings.cache_clear()
    monkeypatch.delenv("ATOMFOUNDRY_CHECKPOINT_INTERVAL")
    assert Checkpoints(tmp_path).interval == 60.0
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match=r"every -1 s"):
        Checkpoints(tmp_path, interval=-1)


def test_written_at_intervals(tmp_path, clock):
    checkpoint = Checkpoints(tmp_path / "later", interval=60).open("md", {})
    for second in range(150):
        clock.now += 1
        checkpoint.keep(state(second), what="md")
        expected = None if second < 59 else 59 if second < 119 else 119
        found = Checkpoints(tmp_path / "later").open("md", {}).load()
        assert (found and found.state["value"]) == expected


def test_dear_writing_is_rarer(tmp_path, clock, monkeypatch):
    def slowly(path, saved):
        clock.now += 2.0

    monkeypatch.setattr(keeper, "write_saved", slowly)
    checkpoints = Checkpoints(tmp_path, interval=60)
    checkpoint = checkpoints.open("md", {})
    checkpoint.save(Saved())
    clock.now += 199
    assert not checkpoints.due
    clock.now += 2
    assert checkpoints.due


def test_where_the_process_must_end_all_is_written(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    checkpoint = checkpoints.open("md", {})
    checkpoint.keep(state(1), what="md")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("ATOMFOUNDRY_DEADLINE", str(time.time() + 5))
    with pytest.raises(NoTimeLeftError, match=r"md, step 2: interrupted, because the job ends soon.*goes on"):
        checkpoint.keep(state(2), what="md, step 2")
    assert checkpoints.open("md", {}).load().state == {"value": 2}
    monkeypatch.delenv("ATOMFOUNDRY_DEADLINE")
    _Request.signal = "SIGUSR1"
    with pytest.raises(NoTimeLeftError, match="SIGUSR1 asked"):
        checkpoint.keep(state(3), what="md")
    assert checkpoints.open("md", {}).load().state == {"value": 3}


def test_time_adds_up(tmp_path, clock):
    first = Checkpoints(tmp_path).open("md", {})
    clock.now += 10
    first.save(Saved())
    clock.now += 1000
    second = Checkpoints(tmp_path).open("md", {})
    assert second.load() is not None
    clock.now += 5
    assert (second.earlier_s, second.elapsed_s) == (10, 15)


def test_other_computations_have_other_files(tmp_path):
    positions = np.arange(6.0)
    values = {"positions": positions, "settings": {"n": 1, "t": 300.0}, "none": None, "numpy": np.float64(0.5)}
    assert fingerprint(values) == fingerprint(dict(reversed(list(values.items()))))
    others = [{**values, "positions": np.nextafter(positions, 9)}, {**values, "positions": positions.reshape(2, 3)}]
    others += [{**values, "settings": {"n": 1, "t": 300.5}}, {**values, "none": 0}]
    assert len({fingerprint(each) for each in [values, *others]}) == 5
    Checkpoints(tmp_path, scope="a").open("md", values).save(Saved({}, {"value": 1}))
    for found in (Checkpoints(tmp_path, scope="b").open("md", values), Checkpoints(tmp_path).open("md", values)):
        assert found.load() is None
    mine, other = (Checkpoints(tmp_path, scope=scope).open("md", values) for scope in "ab")
    mine.path.rename(other.path)
    with pytest.raises(CheckpointError, match=r"another computation.*Remove it"):
        other.load()


def test_what_is_finished_waits_for_the_next_checkpoint(tmp_path, clock):
    checkpoints = Checkpoints(tmp_path, interval=60)
    for number in range(3):
        checkpoints.open("md", {"n": number}).finish(Saved({}, {"value": number}))
    assert list(tmp_path.iterdir()) == []
    assert checkpoints.open("md", {"n": 1}).load().state == {"value": 1}
    running = checkpoints.open("md", {"n": 3})
    clock.now += 61
    running.keep(state(3), what="md")
    assert len(list(tmp_path.iterdir())) == 4
    assert Checkpoints(tmp_path).open("md", {"n": 1}).load().state == {"value": 1}


def test_an_error_writes_what_is_finished(tmp_path):
    with pytest.raises(LabelError), Checkpoints(tmp_path) as checkpoints:
        checkpoints.open("md", {}).finish(Saved())
        raise LabelError("no", reason="crashed")
    assert len(list(tmp_path.iterdir())) == 1
    with Checkpoints(tmp_path / "short") as checkpoints:
        checkpoints.open("md", {}).finish(Saved())
    assert not (tmp_path / "short").exists(), "a short job writes nothing"


def test_a_calculation_that_dies_of_the_end_loses_no_long_step(tmp_path, clock):
    checkpoint = Checkpoints(tmp_path, interval=1e6).open("md", {})
    clock.now += 10
    checkpoint.keep(state(1), what="md")
    clock.now += 10
    checkpoint.keep(state(2), what="md")
    assert list(tmp_path.iterdir()) == []
    _Request.signal = "SIGTERM"
    with pytest.raises(NoTimeLeftError, match="SIGTERM"), checkpoint.guard("md"):
        raise RuntimeError("the code was terminated")
    assert Checkpoints(tmp_path).open("md", {}).load().state == {"value": 2}


@pytest.mark.parametrize(
    ("signal", "error", "ends"),
    [
        (None, RuntimeError("broken"), False),
        ("SIGUSR1", RuntimeError("broken"), False),
        ("SIGTERM", InputError("wrong"), False),
        ("SIGTERM", LabelError("x", reason="unconverged"), False),
        ("SIGTERM", LabelError("x", reason="crashed"), True),
        ("SIGUSR1", LabelError("x", reason="timeout"), True),
        (None, LabelError("x", reason="timeout"), False),
    ],
)
def test_which_errors_are_the_end(tmp_path, signal, error, ends):
    _Request.signal = signal
    checkpoint = Checkpoints(tmp_path).open("md", {})
    with pytest.raises(NoTimeLeftError if ends else type(error)), checkpoint.guard("md"):
        raise error


def test_without_a_folder_nothing_is_kept_and_nothing_stops():
    _Request.signal = "SIGTERM"
    checkpoint = opened(None, "md", lambda: pytest.fail("not asked"))
    assert checkpoint.load() is None
    checkpoint.keep(state(1), what="md")
    checkpoint.finish(Saved())
    checkpoint.tell(lambda: pytest.fail("nobody listens"))
    with pytest.raises(RuntimeError), checkpoint.guard("md"):
        raise RuntimeError


def test_messages_are_made_at_most_twice_a_second(tmp_path, clock):
    heard = []
    checkpoint = Checkpoints(tmp_path, report=lambda message, fraction: heard.append((message, fraction))).open(
        "md", {}
    )
    for step in range(10):
        checkpoint.tell(lambda step=step: f"step {step}", step / 10)
        clock.now += 0.2
    assert heard == [("step 0", 0.0), ("step 3", 0.3), ("step 6", 0.6), ("step 9", 0.9)]


def test_finished_arrays_are_kept(tmp_path):
    done = []

    def square(number):
        if number in (2, 5) and number not in done:
            _Request.signal = "SIGTERM"
        done.append(number)
        return np.array([number**2])

    for _ in range(2):
        forget_stop()
        with pytest.raises(NoTimeLeftError, match=r"squares, items [36] of 7"):
            list(KeptArrays(Checkpoints(tmp_path), "squares", "squares", dict).each("items", 7, square))
    forget_stop()
    found = list(KeptArrays(Checkpoints(tmp_path), "squares", "squares", dict).each("items", 7, square))
    assert [int(each[0]) for each in found] == [number**2 for number in range(7)]
    assert done == list(range(7))


def test_arrays_of_one_computation_wait_while_the_job_goes_on_with_another(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    list(KeptArrays(checkpoints, "squares", "squares", dict).each("items", 3, lambda number: np.array([number])))
    assert list(tmp_path.iterdir()) == []
    _Request.signal = "SIGUSR2"
    with pytest.raises(NoTimeLeftError):
        checkpoints.open("md", {}).keep(state(1), what="md")
    forget_stop()
    known = KeptArrays(Checkpoints(tmp_path), "squares", "squares", dict)
    assert len(list(known.each("items", 3, lambda number: pytest.fail("done before")))) == 3
