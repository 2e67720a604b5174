"""What active learning found: molecular dynamics under watch, and the frames that were selected."""

from __future__ import annotations

import math

from atomfoundry.documents import SelectionDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Table

TRACES_DRAWN = 12
TRACE_POINTS = 300


def selection_blocks(doc: SelectionDoc) -> list[Block]:
    """Return the figures and the table of one round."""
    figures = [f for f in (_traces(doc), _funnel(doc)) if f is not None]
    blocks: list[Block] = [Row(blocks=figures)] if figures else []
    if doc.trajectories:
        blocks.append(
            Table(
                header=[
                    "Start",
                    "Temperature (K)",
                    "Steps",
                    "Time (ps)",
                    f"Largest σ (eV/{text.ANGSTROM})",
                    "Frames flagged",
                    "Ended because",
                ],
                rows=[
                    [
                        t.structure,
                        Cell(text=text.number(t.temperature), kind="number"),
                        Cell(text=text.number(t.n_steps), kind="number"),
                        Cell(text=text.number(t.n_steps * t.timestep / 1000), kind="number"),
                        Cell(text=text.number(max(t.sigma_max, default=None)), kind="number"),
                        Cell(text=text.number(t.n_flagged), kind="number"),
                        t.stop_reason.replace("_", " "),
                    ]
                    for t in doc.trajectories
                ],
                caption=f"Molecular dynamics of round {doc.round}. Uncertainty: {doc.uncertainty}.",
                numeric=frozenset({1, 2, 3, 4, 5}),
            )
        )
    return blocks


def _traces(doc: SelectionDoc) -> Figure | None:
    """Return the largest force uncertainty along each trajectory, with the thresholds."""
    data, every = [], [v for v in doc.thresholds.values() if v > 0]
    for i, t in enumerate(doc.trajectories[:TRACES_DRAWN]):
        step = -(-len(t.times) // TRACE_POINTS) or 1
        points = [(x / 1000, y) for x, y in zip(t.times[::step], t.sigma_max[::step], strict=False) if y > 0]
        if points:
            every += [y for _, y in points]
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "name": style.plot_text(f"{t.structure}, {t.temperature:.0f} K"),
                    "x": style.values([x for x, _ in points]),
                    "y": style.values([y for _, y in points]),
                    "line": {
                        "color": style.PALETTE[i % len(style.PALETTE)],
                        "dash": style.DASHES[i // len(style.PALETTE) % len(style.DASHES)],
                        "width": 1.6,
                    },
                    "hovertemplate": "%{x:.3g} ps: %{y:.3g}<extra>%{fullData.name}</extra>",
                }
            )
    if not data:
        return None
    lines, notes = [], []
    words = {"low": "labelled above this", "high": "stopped above this"}
    for name, value in doc.thresholds.items():
        if value > 0:
            colour = style.RED if name == "high" else style.INK
            lines.append(style.horizontal(value, colour=colour))
            notes.append(
                {
                    "xref": "paper",
                    "x": 1,
                    "xanchor": "right",
                    "y": math.log10(value),
                    "yanchor": "bottom",
                    "text": style.plot_text(words.get(name, name)),
                    "showarrow": False,
                    "font": {"size": 11, "color": colour},
                    "bgcolor": "var(--veil)",
                    "borderpad": 1,
                }
            )
    more = len(doc.trajectories) - TRACES_DRAWN
    caption = "Largest uncertainty of any atom's force along each run; between the lines frames are kept."
    if more > 0:
        caption += f" {text.number(more)} more runs are only in the table."
    return Figure(
        title=f"Molecular dynamics under watch, round {doc.round}",
        caption=caption,
        data=data,
        layout=style.layout(
            style.axis("time (ps)"),
            style.log_axis(f"largest force σ (eV/{text.ANGSTROM})", every, pad=0.1),
            shapes=lines,
            annotations=notes,
        ),
        height=350,
    )


def _funnel(doc: SelectionDoc) -> Figure | None:
    """Return the counts from candidates over rejections to the selected frames."""
    if not doc.n_candidates and not doc.n_selected:
        return None
    rows = [("candidates", doc.n_candidates, style.SKY)]
    rows += [(f"rejected: {reason.replace('_', ' ')}", n, style.ORANGE) for reason, n in doc.n_rejected.items()]
    rows.append(("selected", doc.n_selected, style.BLUE))
    return Figure(
        title=f"What was selected, round {doc.round}",
        caption=f"Of {text.count(doc.n_candidates, 'candidate')} {text.number(doc.n_selected)} went to the "
        "label engine.",
        data=[
            {
                "type": "bar",
                "orientation": "h",
                "y": [style.plot_text(name) for name, _, _ in rows],
                "x": [n for _, n, _ in rows],
                "text": [text.number(n) for _, n, _ in rows],
                "textposition": "outside",
                "cliponaxis": False,
                "constraintext": "none",
                "textangle": 0,
                "marker": {"color": [colour for _, _, colour in rows]},
                "hovertemplate": "%{y}: %{x}<extra></extra>",
            }
        ],
        layout=style.layout(
            style.axis("frames", range=[0, 1.15 * max(n for _, n, _ in rows)]),
            {"autorange": "reversed", "type": "category", "ticksuffix": " "},
            bargap=0.4,
            showlegend=False,
        ),
        height=350,
    )
