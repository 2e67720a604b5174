"""What the commands print with."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from atomfoundry.errors import AtomfoundryError

console = Console(width=None if sys.stdout.isatty() else 160, markup=False, emoji=False)
"""Wide where nobody's window sets a width, so that tables in pipes and files are not folded.

No markup: what jobs and users say holds brackets and colons (``[/shared/a]``, ``a.py:100:``). Colours are given to
pieces of text, see ``coloured``.
"""
errors = Console(stderr=True, markup=False, emoji=False)


def coloured(*pieces: str | tuple[str, str]) -> Text:
    """Put pieces of text together, a plain one as it is, one with a style in that style.

    Parameters
    ----------
    *pieces
        Texts, or texts with rich's styles.
    """
    return Text.assemble(*pieces)


def fail(error: AtomfoundryError) -> None:
    """Print an error on one line of the error stream."""
    errors.print(coloured(("Error:", "bold red"), f" {error}"), soft_wrap=True, highlight=False)


def print_json(data: Any) -> None:
    """Print plain JSON, for machines."""
    console.file.write(json.dumps(data, indent=2, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str | None = None) -> None:
    """Print a table, for people."""
    table = Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    console.print(table)


def _text(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4g}"
    return str(cell)
