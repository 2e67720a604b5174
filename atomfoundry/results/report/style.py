"""Colours and axes that all figures share; colours are CSS variables, so each theme and print has its own."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from atomfoundry.results.report.text import short_number

BLUE = "var(--blue)"
ORANGE = "var(--orange)"
GREEN = "var(--green)"
PURPLE = "var(--purple)"
SKY = "var(--sky)"
RED = "var(--red)"
INK = "var(--ink)"
MUTED = "var(--muted)"
FAINT = "var(--faint)"

PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED)
"""Okabe and Ito's colours (jfly.uni-koeln.de/color), told apart by colour-blind readers."""

SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x", "cross")
"""Marker shapes, so that no figure depends on colour alone."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")

SPLITS = ("train", "valid", "test")
SPLIT_COLOURS = {"train": FAINT, "valid": ORANGE, "test": BLUE}


def plot_text(text: str) -> str:
    """Return ``text`` so that plotly, which reads some HTML in its texts, shows it letter by letter."""
    return html.escape(text, quote=False)


def values(data: Iterable[float | None] | np.ndarray, digits: int = 5) -> list[float | None]:
    """Return numbers for JSON: few digits, ``None`` for what is not finite."""
    return [
        None if v is None or not math.isfinite(v) else float(f"{v:.{digits}g}")
        for v in (data.tolist() if isinstance(data, np.ndarray) else data)
    ]


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title; the theme adds the rest."""
    return {"title": {"text": title}, **more}


def log_axis(title: str, data: Iterable[float], *, pad: float = 0.08) -> dict[str, Any]:
    """Return a logarithmic axis over the positive data, with plain numbers at 1, 2, 5 or the decades.

    Parameters
    ----------
    title
        With the unit.
    data
        What is drawn along the axis, in its unit.
    pad
        Free room at both ends, as a share of the span.
    """
    positive = [v for v in data if v is not None and v > 0 and math.isfinite(v)] or [0.1, 10.0]
    low, high = math.log10(min(positive)), math.log10(max(positive))
    room = pad * max(high - low, 0.5)
    low, high = low - room, high + room
    steps = (1, 2, 5) if high - low < 2.2 else (1,)
    # More decades than are seen, so that there still are ticks after zooming out or panning.
    ticks = [m * 10.0**k for k in range(math.floor(low) - 2, math.ceil(high) + 3) for m in steps]
    return {
        "title": {"text": title},
        "type": "log",
        "range": [low, high],
        "tickvals": [float(f"{t:.1g}") for t in ticks],
        "ticktext": [short_number(t) for t in ticks],
    }


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
