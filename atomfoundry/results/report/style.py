"""Colours and axes that all figures share. Colours are CSS variables, so both themes and print have their own."""

from __future__ import annotations

import html
from collections.abc import Iterable
from typing import Any

import numpy as np

BLUE = "var(--blue)"
ORANGE = "var(--orange)"
GREEN = "var(--green)"
PURPLE = "var(--purple)"
SKY = "var(--sky)"
RED = "var(--red)"
INK = "var(--ink)"
MUTED = "var(--muted)"

PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by colour-blind readers."""

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
"""Marker shapes, so that no figure depends on colour alone."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

SPLITS = ("train", "valid", "test")
SPLIT_COLOURS = {"train": SKY, "valid": ORANGE, "test": BLUE}


def plot_text(text: str) -> str:
    """Return ``text`` so that plotly, which reads some HTML in its texts, shows it letter by letter."""
    return html.escape(text, quote=False)


def values(data: Iterable[float | None] | np.ndarray, digits: int = 5) -> list[float | None]:
    """Return numbers for JSON: few digits, ``None`` for what is not finite."""
    return [
        None if v is None or not np.isfinite(v) else float(f"{v:.{digits}g}")
        for v in (data.tolist() if isinstance(data, np.ndarray) else data)
    ]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title; the theme adds the rest."""
    return {"title": {"text": title}, **more}


def log_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return a logarithmic axis with ticks 1, 2, 5 where there is room and plain decade labels."""
    return {"title": {"text": title}, "type": "log", "dtick": 1, "exponentformat": "power", **more}


def layout(x: dict[str, Any], y: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a layout with two axes and a horizontal legend above the plot."""
    return {
        "xaxis": x,
        "yaxis": y,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "xanchor": "left", "yanchor": "bottom"},
        **more,
    }


def horizontal(y: float, *, colour: str = MUTED, dash: str = "dash", width: float = 1.5) -> dict[str, Any]:
    """Return a line across the whole plot at height ``y`` (in axis units)."""
    return {
        "type": "line",
        "xref": "paper",
        "x0": 0,
        "x1": 1,
        "y0": y,
        "y1": y,
        "line": {"color": colour, "dash": dash, "width": width},
        "layer": "below",
    }


def inset(text: str, **more: Any) -> dict[str, Any]:
    """Return a note in the upper left corner of a plot."""
    return {
        "xref": "paper",
        "yref": "paper",
        "x": 0.03,
        "y": 0.97,
        "xanchor": "left",
        "yanchor": "top",
        "align": "left",
        "showarrow": False,
        "text": text,
        "font": {"size": 11.5},
        "bgcolor": "var(--veil)",
        "borderpad": 3,
        **more,
    }
