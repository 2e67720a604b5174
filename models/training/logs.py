"""What a training writes down epoch by epoch: a CSV table, TensorBoard events, one live line on a terminal."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from atomfoundry.checkpoint import write_atomically
from atomfoundry.documents.model import EpochRecord
from atomfoundry.errors import TrainingError
from atomfoundry.models.training.part_history import PARTS, PartErrors, PartHistory

if TYPE_CHECKING:
    from rich.console import Console

    from atomfoundry.models.training.settings import TrainingSettings

CSV_FILE = "training.csv"
PART_FILES = {"elements": "training_elements.csv", "force_bins": "training_forces.csv"}
"""Tables of the validation's parts."""
EVENTS_FOLDER = "tensorboard"
COLUMNS = tuple(EpochRecord.model_fields)
"""Of the table: the fields of an epoch's record."""
ERRORS = ("forces_mae", "forces_rmse", "energy_mae")
"""Of a part, for TensorBoard."""


class EpochLog(Protocol):
    """Something that takes epoch after epoch."""

    def add(self, record: EpochRecord, parts: PartErrors | None = None) -> None:
        """Write one epoch, with the errors by part where it was validated."""

    def close(self) -> None:
        """Write what is left."""


class CsvLog:
    """A CSV table, one row an epoch; each is there as soon as the epoch is done.

    It is made anew from the history of the checkpoint, so that epochs that a killed training did but did not keep
    are not in it twice.

    Parameters
    ----------
    path
        The file.
    history
        Epochs done before.
    """

    def __init__(self, path: Path, history: Sequence[EpochRecord] = ()) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        header = ",".join(COLUMNS) + "\r\n"
        write_atomically(path, (header + "".join(_row(record) for record in history)).encode())

    def add(self, record: EpochRecord, parts: PartErrors | None = None) -> None:
        """Append one epoch."""
        with self.path.open("a", newline="") as file:
            file.write(_row(record))

    def close(self) -> None:
        """Do nothing: every row is on the disk."""


def _row(record: EpochRecord) -> str:
    text = io.StringIO()
    values = record.model_dump()
    csv.writer(text).writerow(["" if values[name] is None else repr(values[name]) for name in COLUMNS])
    return text.getvalue()


def read_csv_log(path: str | Path) -> list[EpochRecord]:
    """Return the epochs of a CSV table.

    Parameters
    ----------
    path
        A file that :class:`CsvLog` wrote.

    Raises
    ------
    TrainingError
        If it is another kind of file.
    """
    with Path(path).open(newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise TrainingError(f"{path} is no table of a training: its columns are {reader.fieldnames}.")
        return [EpochRecord.model_validate({k: v for k, v in row.items() if v != ""}) for row in reader]


class PartCsvLog:
    """A CSV table of the validation by part, one row an epoch and part.

    It is made anew from the checkpoint, as `CsvLog` is; without validation there is none. An empty cell
    says that there was no label, or that a prediction was not a number.

    Parameters
    ----------
    path
        The file.
    kind
        'elements' or 'force_bins'.
    history
        Errors of the epochs done before.
    """

    def __init__(self, path: Path, kind: str, history: PartHistory | None = None) -> None:
        self.path, self.kind = path, kind
        history = history or PartHistory()
        rows = "".join(self._rows(epoch, history.of(epoch)) for epoch in history)
        if rows:
            self._begin(rows)
        else:  # a table of epochs that a killed training did but did not keep
            path.unlink(missing_ok=True)

    def add(self, record: EpochRecord, parts: PartErrors | None = None) -> None:
        """Append one epoch."""
        rows = self._rows(record.epoch, parts or PartErrors())
        if rows and not self.path.exists():
            self._begin(rows)
        elif rows:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(rows)

    def close(self) -> None:
        """Do nothing: every row is on the disk."""

    def _rows(self, epoch: int, parts: PartErrors) -> str:
        text = io.StringIO()
        writer = csv.writer(text)
        for entry in getattr(parts, self.kind):
            values = [getattr(entry, name) for name in part_columns(self.kind)[1:]]
            writer.writerow([epoch, *("" if value != value else value for value in values)])
        return text.getvalue()

    def _begin(self, rows: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (",".join(part_columns(self.kind)) + "\r\n" + rows).encode())


def part_columns(kind: str) -> tuple[str, ...]:
    """Return the columns of a table of parts.

    Parameters
    ----------
    kind
        'elements' or 'force_bins'.
    """
    _, names, numbers = PARTS[kind]
    return ("epoch", *names, *numbers)


def read_part_log(path: str | Path) -> PartHistory:
    """Return the errors of a CSV table of parts; those of the other kind are not in it.

    Parameters
    ----------
    path
        A file that :class:`PartCsvLog` wrote.

    Raises
    ------
    TrainingError
        If it is another kind of file.
    """
    history = PartHistory()
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        kind = next((kind for kind in PARTS if part_columns(kind) == tuple(reader.fieldnames or ())), None)
        if kind is None:
            raise TrainingError(f"{path} is no table of a validation's parts: its columns are {reader.fieldnames}.")
        entry, names, numbers = PARTS[kind]
        for epoch, rows in groupby(reader, key=lambda row: int(row["epoch"])):
            entries = []
            for row in rows:
                values = {name: float(row[name] or "nan") for name in numbers} | {"n_atoms": int(row["n_atoms"])}
                entries.append(entry(**{name: row[name] for name in names}, **values))
            history.add(epoch, PartErrors(**{kind: entries}))
    return history


class EventLog:
    """TensorBoard event files, the epoch as step.

    A training that goes on tells TensorBoard to drop what came after the epochs of its checkpoint.

    Parameters
    ----------
    folder
        Of the event files.
    n_done
        Epochs done before.

    Raises
    ------
    TrainingError
        If the package tensorboard is not installed.
    """

    def __init__(self, folder: Path, *, n_done: int = 0) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise TrainingError(
                "Setting 'tensorboard' needs the package tensorboard, which is not installed.",
                remedy="Install 'atomfoundry[tensorboard]', or leave the setting out: the CSV table has the same.",
            ) from error
        self.writer: Any = SummaryWriter(str(folder), purge_step=n_done + 1 if n_done else None)

    def add(self, record: EpochRecord, parts: PartErrors | None = None) -> None:
        """Write one scalar for each number of the record and of its parts."""
        for name, value in record.model_dump(exclude={"epoch"}).items():
            if value is not None:
                kind = "validation" if name.endswith("_mae") or name == "valid_loss" else "training"
                self.writer.add_scalar(f"{kind}/{name}", value, record.epoch)
        parts = parts or PartErrors()
        by_part: list[tuple[str, str, object]] = [("elements", f"{e.head}/{e.element}", e) for e in parts.elements]
        by_part += [("force_bins", f"{b.head}/from_{b.low:g}", b) for b in parts.force_bins]
        for kind, name, entry in by_part:
            for quantity in ERRORS:
                value = getattr(entry, quantity, math.nan)
                if not math.isnan(value):
                    self.writer.add_scalar(f"{kind}_{quantity}/{name}", value, record.epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


def open_logs(
    settings: TrainingSettings,
    directory: Path | None,
    *,
    history: Sequence[EpochRecord],
    parts: PartHistory | None = None,
) -> list[EpochLog]:
    """Return the logs that the settings ask for.

    Parameters
    ----------
    settings
        ``csv_log`` and ``tensorboard``.
    directory
        Of the training; None: there is no table.
    history
        Epochs done before.
    parts
        Their errors by part.

    Raises
    ------
    TrainingError
        If TensorBoard events are asked for without a directory or without its package.
    """
    logs: list[EpochLog] = []
    if settings.tensorboard:
        if directory is None:
            raise TrainingError("Setting 'tensorboard' needs a directory to write to.", remedy="Give 'directory'.")
        logs.append(EventLog(directory / EVENTS_FOLDER, n_done=len(history)))
    if settings.csv_log and directory is not None:
        logs.append(CsvLog(directory / CSV_FILE, history))
        logs += [PartCsvLog(directory / name, kind, parts) for kind, name in PART_FILES.items()]
    return logs


def describe(record: EpochRecord, max_epochs: int) -> str:
    """Return one epoch in words, e.g. ``epoch 3/60, loss 1.2e-02, E 3.1 meV/atom, F 41 meV/A``.

    Parameters
    ----------
    record
        The epoch.
    max_epochs
        Epochs to do.
    """
    text = f"epoch {record.epoch}/{max_epochs}, loss {record.train_loss:.2e}"
    if record.energy_mae is not None:
        text += f", E {record.energy_mae * 1000:.1f} meV/atom"
    if record.forces_mae is not None:
        text += f", F {record.forces_mae * 1000:.0f} meV/A"
    return text


class LiveLine:
    """A callback that keeps one line of a terminal up to date; anywhere else it shows nothing.

    A context manager: ``with LiveLine(settings.max_epochs) as show: train(..., callback=show)``.

    Parameters
    ----------
    max_epochs
        Epochs to do.
    console
        Where to; None: standard error.
    """

    def __init__(self, max_epochs: int, *, console: Console | None = None) -> None:
        from rich.console import Console as RichConsole
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.max_epochs = max_epochs
        console = console or RichConsole(stderr=True)
        columns = (BarColumn(20), TextColumn("{task.description}"), TimeRemainingColumn(compact=True))
        self._display = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._display.add_task("training begins", total=max_epochs)

    def __enter__(self) -> LiveLine:
        self._display.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def __call__(self, record: EpochRecord) -> None:
        """Show an epoch."""
        self._display.update(self._task, completed=record.epoch, description=describe(record, self.max_epochs))
