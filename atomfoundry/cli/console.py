"""What the commands print with."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from atomfoundry.errors import AtomfoundryError

console = Console(width=None if sys.stdout.isatty() else 160)
"""Wide where nobody's window sets a width, so that tables in pipes and files are not folded."""
errors = Console(stderr=True)


def fail(error: AtomfoundryError) -> None:
    """Print an error on one line of the error stream."""
    errors.print(f"[bold red]Error:[/] {_plain(str(error))}", soft_wrap=True, highlight=False)


def print_json(data: Any) -> None:
    """Print plain JSON, for machines."""
    console.file.write(json.dumps(data, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table, for people."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(_text(cell)) for cell in row))
    console.print(table)


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")
