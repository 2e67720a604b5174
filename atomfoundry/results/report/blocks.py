"""What a section of the report is made of. The template knows these classes and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell of a table."""

    text: str
    kind: Literal["text", "number", "good", "bad", "quiet", "hash", "code"] = "text"
    full: str = ""
    """What a click copies, for hashes; what the pointer shows, else."""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; a plain string stands for a text cell."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    caption: str = ""
    numeric: frozenset[int] = frozenset()
    """Columns that are set to the right."""
    folded: str = ""
    """If not empty: the table is folded away behind this text."""
    kind: ClassVar[str] = "table"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One interactive figure: a plotly specification (``data`` and ``layout``) with its words."""

    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int = 330
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True, kw_only=True)
class Row:
    """Figures or tables side by side; ``columns`` of them fit on a laptop."""

    blocks: Sequence[Figure | Table]
    columns: int = 2
    kind: ClassVar[str] = "row"


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """An inline SVG, made and escaped by us."""

    title: str
    caption: str
    svg: str
    kind: ClassVar[str] = "drawing"


@dataclass(frozen=True, kw_only=True)
class Card:
    """One headline number."""

    label: str
    value: str
    unit: str = ""
    note: str = ""
    verdict: Literal["", "good", "bad"] = ""


@dataclass(frozen=True, kw_only=True)
class Cards:
    """A row of headline numbers."""

    cards: Sequence[Card]
    kind: ClassVar[str] = "cards"


@dataclass(frozen=True, kw_only=True)
class Words:
    """A paragraph, or a heading inside the section."""

    text: str
    heading: bool = False
    kind: ClassVar[str] = "words"


@dataclass(frozen=True, kw_only=True)
class Fold:
    """Blocks behind a line that opens on a click."""

    title: str
    blocks: Sequence[Block]
    kind: ClassVar[str] = "fold"


Block = Table | Figure | Row | Drawing | Cards | Words | Fold


@dataclass(frozen=True, kw_only=True)
class Section:
    """One section; without blocks, ``absent`` says why there is nothing to show."""

    key: str
    title: str
    lead: str = ""
    blocks: Sequence[Block] = field(default_factory=list)
    absent: str = ""
