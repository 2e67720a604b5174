"""A bar for long work on datasets: on the error stream, and only where somebody looks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from atomfoundry.cli.console import errors


@contextmanager
def counting(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """Show how much is done; gives the function that adds to it."""
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns, TimeElapsedColumn(), console=errors, disable=not errors.is_terminal, transient=True
    ) as progress:
        task = progress.add_task(what, total=total)

        def advance(number: int) -> None:
            progress.advance(task, number)

        yield advance
