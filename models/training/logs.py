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
from atomfoundry.models.training.elements import ElementHistory
from atomfoundry.models.training.monitor import ElementErrors

if TYPE_CHECKING:
    from rich.console import Console

    from atomfoundry.models.training.settings import TrainingSettings

CSV_FILE = "training.csv"
ELEMENTS_FILE = "training_elements.csv"
EVENTS_FOLDER = "tensorboard"
COLUMNS = tuple(EpochRecord.model_fields)
"""Of the table: the fields of an epoch's record."""
ELEMENT_COLUMNS = ("epoch", "head", "element", "n_atoms", "forces_mae", "forces_rmse", "energy_mae")
"""Of the table of elements: validation, eV/A over components and eV/atom."""


class EpochLog(Protocol):
    """Something that takes epoch after epoch."""

    def add(self, record: EpochRecord, elements: Sequence[ElementErrors] = ()) -> None:
        """Write one epoch, and its errors by element where it was validated."""

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

    def add(self, record: EpochRecord, elements: Sequence[ElementErrors] = ()) -> None:
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


class ElementsCsvLog:
    """A CSV table of the validation, one row an epoch, head and element.

    It is made anew from the checkpoint, as `CsvLog` is; without validation there is none. A cell without a number
    says that there was no label.

    Parameters
    ----------
    path
        The file.
    history
        Errors of the epochs done before.
    """

    def __init__(self, path: Path, history: ElementHistory | None = None) -> None:
        self.path = path
        # of epochs that a killed training did but did not keep
        path.unlink(missing_ok=True)
        if history:
            self._begin("".join(_element_rows(epoch, history.of(epoch)) for epoch in history))

    def _begin(self, rows: str) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, (",".join(ELEMENT_COLUMNS) + "\r\n" + rows).encode())

    def add(self, record: EpochRecord, elements: Sequence[ElementErrors] = ()) -> None:
        """Append one epoch."""
        rows = _element_rows(record.epoch, elements)
        if rows and not self.path.exists():
            self._begin(rows)
        elif rows:
            with self.path.open("a", newline="", encoding="utf-8") as file:
                file.write(rows)

    def close(self) -> None:
        """Do nothing: every row is on the disk."""


def _element_rows(epoch: int, elements: Sequence[ElementErrors]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    for entry in elements:
        numbers = [getattr(entry, name) for name in ELEMENT_COLUMNS[4:]]
        cells = ["" if math.isnan(number) else repr(number) for number in numbers]
        writer.writerow([epoch, entry.head, entry.element, entry.n_atoms, *cells])
    return text.getvalue()


def read_elements_log(path: str | Path) -> ElementHistory:
    """Return what a CSV table says of the elements.

    Parameters
    ----------
    path
        A file that :class:`ElementsCsvLog` wrote.

    Raises
    ------
    TrainingError
        If it is another kind of file.
    """
    history = ElementHistory()
    with Path(path).open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != ELEMENT_COLUMNS:
            raise TrainingError(f"{path} is no table of elements: its columns are {reader.fieldnames}.")
        for epoch, rows in groupby(reader, key=lambda row: int(row["epoch"])):
            history.add(
                epoch,
                [
                    ElementErrors(
                        element=row["element"],
                        head=row["head"],
                        n_atoms=int(row["n_atoms"]),
                        forces_mae=float(row["forces_mae"] or "nan"),
                        forces_rmse=float(row["forces_rmse"] or "nan"),
                        energy_mae=float(row["energy_mae"] or "nan"),
                    )
                    for row in rows
                ],
            )
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

    def add(self, record: EpochRecord, elements: Sequence[ElementErrors] = ()) -> None:
        """Write one scalar for each number of the record and of its elements."""
        for name, value in record.model_dump(exclude={"epoch"}).items():
            if value is not None:
                kind = "validation" if name.endswith("_mae") or name == "valid_loss" else "training"
                self.writer.add_scalar(f"{kind}/{name}", value, record.epoch)
        for entry in elements:
            for name in ELEMENT_COLUMNS[4:]:
                value = getattr(entry, name)
                if not math.isnan(value):
                    self.writer.add_scalar(f"elements_{name}/{entry.head}/{entry.element}", value, record.epoch)
        self.writer.flush()

    def close(self) -> None:
        """Close the file."""
        self.writer.close()


def open_logs(
    settings: TrainingSettings,
    directory: Path | None,
    *,
    history: Sequence[EpochRecord],
    elements: ElementHistory | None = None,
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
    elements
        Their errors by element.

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
        logs.append(ElementsCsvLog(directory / ELEMENTS_FILE, elements))
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
