"""The fine-tuning section: what was learned and what was forgotten, naive against replay."""

from __future__ import annotations

import math

from atomfoundry.documents import ErrorMetrics, ForgettingDoc, ForgettingRecord
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Section, Table, Words
from atomfoundry.results.report.data import ReportInputs
from atomfoundry.units import EV_PER_A3_IN_GPA

METHOD_COLOURS = {"naive": style.ORANGE, "replay": style.BLUE}
UNITS = {
    "energy": (1000.0, "meV/atom"),
    "forces": (1000.0, f"meV/{text.ANGSTROM}"),
    "stress": (EV_PER_A3_IN_GPA, "GPa"),
}
"""Quantity -> factor from documents' units, unit shown."""

TICKS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def section(inputs: ReportInputs) -> Section:
    """Return the section about forgetting."""
    key, title = "forgetting", "Fine-tuning"
    if not inputs.forgetting:
        return Section(key=key, title=title, absent="No fine-tuning was compared.")
    blocks: list[Block] = []
    for doc in inputs.forgetting:
        if len(inputs.forgetting) > 1:
            blocks.append(Words(text=f"Task “{doc.task}”", heading=True))
        figures = [figure for figure in (_ratios(doc), _task(doc)) if figure is not None]
        if figures:
            blocks.append(Row(blocks=figures))
        if doc.records:
            blocks.append(_table(doc.records))
    return Section(key=key, title=title, lead=_lead(inputs.forgetting[0]), blocks=blocks)


def _lead(doc: ForgettingDoc) -> str:
    words = f"The base model was fine-tuned to “{doc.task}”, once naively and once with replay"
    if doc.n_replay:
        words += f" of {text.count(doc.n_replay, 'frame')} from the first training set"
    words += "."
    best = {
        method: min(ratios)
        for method in METHOD_COLOURS
        if (ratios := [r.ratio for r in doc.records if r.method == method and r.quantity == "forces"])
    }
    if len(best) == 2:
        words += (
            f" On what it knew before, its force errors became {text.number(best['naive'])} times as large "
            f"naively and {text.number(best['replay'])} times with replay."
        )
    return words


def _ratios(doc: ForgettingDoc) -> Figure | None:
    """Return the forgetting ratios as bars from the line at 1, on a logarithmic axis."""
    records = [r for r in doc.records if r.ratio > 0 and math.isfinite(r.ratio)]
    if not records:
        return None
    methods = list(dict.fromkeys((r.method, r.head) for r in records))
    heads_of: dict[str, int] = {}
    tasks = {r.task for r in records}
    data = []
    for i, (method, head) in enumerate(methods):
        own = [r for r in records if (r.method, r.head) == (method, head)]
        nth = heads_of.get(method, 0)
        heads_of[method] = nth + 1
        categories = [r.quantity if len(tasks) == 1 else f"{r.quantity}, {r.task}" for r in own]
        data.append(
            {
                "type": "bar",
                "name": style.plot_text(f"{method}, head {head}"),
                "x": [style.plot_text(category) for category in categories],
                # Bars of a log axis cannot start at 1, so logarithms are drawn on a linear one.
                "y": style.values([math.log10(r.ratio) for r in own]),
                "text": [f"{text.number(r.ratio)}×" for r in own],
                "textposition": "outside",
                "cliponaxis": False,
                "constraintext": "none",
                "textangle": 0,
                "marker": {
                    "color": METHOD_COLOURS.get(method, style.PALETTE[i % len(style.PALETTE)]),
                    "pattern": {"shape": ("", "/", "x", ".")[nth % 4], "fillmode": "overlay", "size": 7},
                },
                "hovertemplate": style.plot_text(f"{method}, head {head}: ") + "%{text}<extra></extra>",
            }
        )
    logs = [math.log10(r.ratio) for r in records]
    low, high = min(*logs, 0.0), max(*logs, 0.0)
    pad = 0.14 * max(high - low, 0.3)
    ends = [low - pad, high + pad]
    ticks = [t for t in TICKS if ends[0] <= math.log10(t) <= ends[1]]
    on_task = next(iter(tasks)) if len(tasks) == 1 else "several tasks"
    return Figure(
        title="What was forgotten",
        caption=f"Error after fine-tuning over error before, on {on_task}: 1 means nothing was forgotten, "
        "above is worse, below better.",
        data=data,
        layout=style.layout(
            style.axis("quantity", type="category"),
            style.axis(
                "RMSE after / RMSE before",
                range=ends,
                tickvals=style.values([math.log10(t) for t in ticks]),
                ticktext=[f"{t:g}" for t in ticks],
            ),
            barmode="group",
            bargap=0.25,
            shapes=[style.horizontal(0.0, colour=style.INK, dash="solid", width=1.2) | {"layer": "above"}],
        ),
        height=340,
    )


def _task(doc: ForgettingDoc) -> Figure | None:
    """Return the errors on the fine-tuning task before and after."""
    order = ("pretrained", "naive", "replay")
    methods = sorted(doc.task_metrics, key=lambda m: (order.index(m) if m in order else len(order), m))
    if not methods:
        return None
    colours = {"pretrained": style.MUTED, **METHOD_COLOURS}
    data: list[dict] = []
    heights: list[float] = []
    for method in methods:
        shown = [entry for entry in _task_numbers(doc.task_metrics[method]) if entry[1] > 0]
        heights += [value for _, value in shown]
        data.append(
            {
                "type": "bar",
                "name": style.plot_text(method),
                "x": [name for name, _ in shown],
                "y": style.values([value for _, value in shown]),
                "text": [text.number(value) for _, value in shown],
                "textposition": "outside",
                "cliponaxis": False,
                "constraintext": "none",
                "textangle": 0,
                "marker": {"color": colours.get(method, style.GREEN)},
                "hovertemplate": style.plot_text(f"{method}: ") + "%{y:.4g}<extra></extra>",
            }
        )
    return Figure(
        title="What was learned",
        caption=f"Errors on the task itself, “{doc.task}”: both ways of fine-tuning should be far below the "
        "pretrained model.",
        data=data,
        layout=style.layout(
            style.axis("quantity", type="category"),
            style.log_axis("RMSE (unit below each group)", heights, pad=0.15),
            barmode="group",
            bargap=0.25,
        ),
        height=340,
    )


def _task_numbers(metrics: ErrorMetrics) -> list[tuple[str, float]]:
    """Return (name with unit, RMSE) of the quantities that a metrics record has."""
    found = []
    for quantity, (scale, unit) in UNITS.items():
        value = getattr(metrics, f"{quantity}_rmse")
        if value is not None:
            found.append((f"{quantity} ({unit})", scale * value))
    return found


def _table(records: list[ForgettingRecord]) -> Table:
    rows: list[list[Cell | str]] = []
    for r in records:
        scale, unit = UNITS.get(r.quantity, (1.0, ""))
        rows.append(
            [
                r.method,
                r.head,
                r.task,
                f"{r.quantity} ({unit})" if unit else r.quantity,
                Cell(text=text.number(scale * r.before), kind="number"),
                Cell(text=text.number(scale * r.after), kind="number"),
                Cell(text=text.number(r.ratio), kind="number"),
            ]
        )
    return Table(
        header=["Method", "Head", "Task", "Quantity", "RMSE before", "RMSE after", "Ratio"],
        rows=rows,
        caption="Forgetting ratio: RMSE of the fine-tuned over that of the pretrained model on an old task.",
        numeric=frozenset({4, 5, 6}),
    )
