"""Logs of a training: one row an epoch whatever happened, events that TensorBoard reads, one live line."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))
from argon import Killed, config, crystals, settings

from atomfoundry.documents.model import EpochRecord
from atomfoundry.errors import TrainingError
from atomfoundry.models.training.logs import CSV_FILE, EVENTS_FOLDER, LiveLine, describe, read_csv_log
from atomfoundry.models.training.trainer import train


def test_the_table_is_the_history(tmp_path):
    result = train(config(), crystals(3), crystals(1), settings=settings(max_epochs=3), directory=tmp_path)
    assert read_csv_log(tmp_path / CSV_FILE) == result.history
    assert (tmp_path / CSV_FILE).read_text().splitlines()[0] == ",".join(EpochRecord.model_fields)


def test_missing_validation_is_an_empty_cell(tmp_path):
    result = train(config(), crystals(2), settings=settings(max_epochs=1), directory=tmp_path)
    assert read_csv_log(tmp_path / CSV_FILE) == result.history
    assert ",,,," in (tmp_path / CSV_FILE).read_text()


def test_epochs_lost_by_a_kill_are_not_in_the_table_twice(tmp_path):
    asked = settings(max_epochs=5, checkpoint_epochs=2)

    def kill(record):
        if record.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        train(config(), crystals(3), settings=asked, directory=tmp_path, callback=kill)
    assert [r.epoch for r in read_csv_log(tmp_path / CSV_FILE)] == [1, 2, 3]
    seen = []
    result = train(config(), crystals(3), settings=asked, directory=tmp_path, callback=seen.append)
    assert [r.epoch for r in seen] == [3, 4, 5]
    assert read_csv_log(tmp_path / CSV_FILE) == result.history
    assert [r.epoch for r in result.history] == [1, 2, 3, 4, 5]


def test_no_table_if_not_wanted(tmp_path):
    train(config(), crystals(2), settings=settings(max_epochs=1, csv_log=False), directory=tmp_path)
    assert not (tmp_path / CSV_FILE).exists()


def test_another_table_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TrainingError, match=r"other.csv is no table"):
        read_csv_log(tmp_path / "other.csv")


def test_events_are_what_tensorboard_reads(tmp_path):
    pytest.importorskip("tensorboard", reason="needs the extra 'tensorboard'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    asked = settings(max_epochs=5, checkpoint_epochs=2, tensorboard=True)

    def kill(record):
        if record.epoch == 3:
            raise Killed

    with pytest.raises(Killed):
        train(config(), crystals(3), crystals(1), settings=asked, directory=tmp_path, callback=kill)
    result = train(config(), crystals(3), crystals(1), settings=asked, directory=tmp_path)
    events = EventAccumulator(str(tmp_path / EVENTS_FOLDER)).Reload()
    read = events.Scalars("validation/forces_mae")
    assert [event.step for event in read] == [1, 2, 3, 4, 5]
    assert [event.value for event in read] == pytest.approx([r.forces_mae for r in result.history], rel=1e-6)
    assert {"training/train_loss", "training/learning_rate", "validation/valid_loss"} <= set(events.Tags()["scalars"])


def test_events_without_the_package_are_an_error(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(TrainingError, match=r"atomfoundry\[tensorboard\]"):
        train(config(), crystals(1), settings=settings(tensorboard=True), directory=tmp_path)


def test_events_need_a_directory():
    with pytest.raises(TrainingError, match="directory"):
        train(config(), crystals(1), settings=settings(tensorboard=True))


RECORD = EpochRecord(epoch=3, train_loss=0.0123, energy_mae=0.0031, forces_mae=0.041)


def test_an_epoch_in_words():
    assert describe(RECORD, 60) == "epoch 3/60, loss 1.23e-02, E 3.1 meV/atom, F 41 meV/A"
    assert describe(EpochRecord(epoch=1, train_loss=2.0), 5) == "epoch 1/5, loss 2.00e+00"


def shown(**kind):
    text = io.StringIO()
    with LiveLine(60, console=Console(file=text, width=100, **kind)) as show:
        show(RECORD)
    return text.getvalue()


def test_a_terminal_shows_one_line_and_a_file_none():
    assert "epoch 3/60, loss 1.23e-02" in shown(force_terminal=True)
    assert shown(force_terminal=False).strip() == ""
