"""The accuracy section: parity plots, error distributions and the metrics of every split."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from atomfoundry.documents import ErrorMetrics, ModelDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.alignment import diagonal
from atomfoundry.results.report.arrays import Predictions
from atomfoundry.results.report.blocks import Block, Cell, Figure, Fold, Row, Section, Table, Words
from atomfoundry.results.report.curves import model_name
from atomfoundry.results.report.data import ReportInputs
from atomfoundry.results.report.elements import elements_table
from atomfoundry.units import EV_PER_A3_IN_GPA

POINTS_DRAWN = 1500
"""Points of one split in one parity plot of the main model; a third of it for other models."""

WORST_KEPT = 40
CDF_POINTS = 160


@dataclass(frozen=True)
class Quantity:
    """How one quantity is drawn."""

    key: str
    title: str
    scale: float
    unit: str
    error_scale: float
    error_unit: str
    points: str
    """What one point is."""
    note: str = ""


QUANTITIES = (
    Quantity("energy", "Energy", 1.0, "eV/atom", 1000.0, "meV/atom", "frame", "Energies count from isolated atoms."),
    Quantity("forces", "Forces", 1.0, f"eV/{text.ANGSTROM}", 1000.0, f"meV/{text.ANGSTROM}", "force component"),
    Quantity("stress", "Stress", EV_PER_A3_IN_GPA, "GPa", EV_PER_A3_IN_GPA, "GPa", "stress component"),
)


def section(inputs: ReportInputs) -> Section:
    """Return the section about errors on labelled frames."""
    key, title = "accuracy", "Accuracy"
    models = inputs.ordered_models()
    if not any(model.metrics or model.model.sha256 in inputs.predictions for model in models):
        return Section(key=key, title=title, absent="No model was evaluated on labelled frames.")
    main = inputs.main_model()
    blocks: list[Block] = []
    for model in sorted(models, key=lambda m: m is not main):
        found = _model(model, inputs.predictions.get(model.model.sha256), main=model is main)
        if not found:
            continue
        if model is main:
            blocks += [Words(text=model_name(model), heading=True), *found]
        else:
            blocks.append(Fold(title=f"The same for {model_name(model)}", blocks=found))
    lead = (
        "Predictions against the labels of the quantum-mechanical code. Training frames were fitted, "
        "validation frames decided when to stop, test frames were never used: their numbers count."
    )
    return Section(key=key, title=title, lead=lead, blocks=blocks)


def _model(model: ModelDoc, predictions: Predictions | None, *, main: bool) -> list[Block]:
    """Return the tables and figures of one model, a group a head."""
    blocks: list[Block] = []
    metrics = {(m.head, m.split): m for m in model.metrics}
    if predictions is not None:
        heads = sorted({*map(str, predictions.head)})
        for head in heads:
            if len(heads) > 1:
                blocks.append(Words(text=f"Head “{head}”", heading=True))
            drawn = [_quantity(q, predictions, head, metrics, main=main) for q in QUANTITIES]
            pairs = [pair for pair in drawn if pair is not None]
            if pairs:
                blocks.append(Row(blocks=[parity for parity, _ in pairs], columns=3))
                blocks.append(Row(blocks=[cdf for _, cdf in pairs], columns=3))
    elif main:
        blocks.append(Words(text="No parity plots: the model's predictions were not stored."))
    if model.metrics:
        blocks.append(metrics_table(model.metrics))
    if model.element_metrics:
        blocks.append(elements_table(model.element_metrics))
    return blocks


def metrics_table(metrics: list[ErrorMetrics]) -> Table:
    """Return all metrics of a model, a row a head and split."""
    order = {split: i for i, split in enumerate(style.SPLITS)}
    rows: list[list[Cell | str]] = []
    for m in sorted(metrics, key=lambda m: (m.head, order.get(m.split, len(order)))):
        cells = [(1000.0, m.energy_mae), (1000.0, m.energy_rmse), (0.0, m.energy_r2)]
        cells += [(1000.0, m.forces_mae), (1000.0, m.forces_rmse), (0.0, m.forces_r2)]
        cells += [(EV_PER_A3_IN_GPA, m.stress_mae), (EV_PER_A3_IN_GPA, m.stress_rmse), (0.0, m.stress_r2)]
        rows.append(
            [
                m.head,
                m.split,
                Cell(text=text.number(m.n_frames), kind="number"),
                *(Cell(text=_metric(scale, value), kind="number") for scale, value in cells),
            ]
        )
    a = text.ANGSTROM
    return Table(
        header=[
            "Head",
            "Split",
            "Frames",
            "Energy MAE (meV/atom)",
            "RMSE",
            "R²",
            f"Force MAE (meV/{a})",
            "RMSE",
            "R²",
            "Stress MAE (GPa)",
            "RMSE",
            "R²",
        ],
        rows=rows,
        caption="Errors over all frames of a split; RMSE in the unit of the MAE to its left.",
        numeric=frozenset(range(2, 12)),
    )


def _metric(scale: float, value: float | None) -> str:
    """Return a scaled error, or an R2 (scale 0)."""
    if value is None:
        return text.MISSING
    return text.r_squared(value) if scale == 0.0 else text.number(value * scale)


def scores(ref: np.ndarray, pred: np.ndarray) -> tuple[float, float, float | None]:
    """Return MAE, RMSE and R2 of two flat arrays; R2 is ``None`` where the references do not differ."""
    error = pred - ref
    spread = float(((ref - ref.mean()) ** 2).sum())
    r2 = 1 - float((error**2).sum()) / spread if spread > 0 else None
    return float(np.abs(error).mean()), float(np.sqrt((error**2).mean())), r2


def _quantity(
    quantity: Quantity,
    predictions: Predictions,
    head: str,
    metrics: dict[tuple[str, str], ErrorMetrics],
    *,
    main: bool,
) -> tuple[Figure, Figure] | None:
    """Return the parity plot and the error distribution of one quantity, or ``None`` without data."""
    pairs = {}
    known = [split for split in style.SPLITS if split in set(predictions.split)]
    others = sorted({str(split) for split in predictions.split} - set(known))
    for split in known + others:
        ref, pred = predictions.pairs(quantity.key, head=head, split=split)
        if ref.size:
            pairs[split] = (ref, pred)
    if not pairs:
        return None
    shown = "test" if "test" in pairs else list(pairs)[-1]
    document = metrics.get((head, shown))
    return (
        parity_figure(
            quantity,
            pairs,
            shown,
            _numbers(quantity, document, pairs[shown]),
            limit=POINTS_DRAWN if main else POINTS_DRAWN // 3,
        ),
        distribution_figure(quantity, pairs, shown),
    )


def _numbers(
    quantity: Quantity, document: ErrorMetrics | None, pair: tuple[np.ndarray, np.ndarray]
) -> tuple[float, float, float | None]:
    """Return MAE, RMSE, R2 as the model's document has them, else from the arrays."""
    if document is not None:
        mae, rmse = getattr(document, f"{quantity.key}_mae"), getattr(document, f"{quantity.key}_rmse")
        if mae is not None and rmse is not None:
            return mae, rmse, getattr(document, f"{quantity.key}_r2")
    return scores(*pair)


def parity_figure(
    quantity: Quantity,
    pairs: dict[str, tuple[np.ndarray, np.ndarray]],
    shown: str,
    numbers: tuple[float, float, float | None],
    *,
    limit: int = POINTS_DRAWN,
) -> Figure:
    """Return predictions against labels.

    Parameters
    ----------
    quantity
        What is drawn.
    pairs
        Split -> labels and predictions, flat, in the documents' units.
    shown
        The split that the inset is about.
    numbers
        MAE, RMSE (documents' units) and R2 of that split.
    limit
        Points drawn of a split; the worst are always among them.
    """
    everything = np.concatenate([np.concatenate(pair) for pair in pairs.values()]) * quantity.scale
    low, high = float(everything.min()), float(everything.max())
    pad = 0.05 * (high - low or 1.0)
    ends = [low - pad, high + pad]
    data = [diagonal(ends)]
    thinned = False
    for i, (split, (ref, pred)) in enumerate(pairs.items()):
        kept = _subsample(np.abs(pred - ref), limit)
        thinned |= kept.size < ref.size
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": style.plot_text(split),
                "x": style.values(ref[kept] * quantity.scale, 6),
                "y": style.values(pred[kept] * quantity.scale, 6),
                "marker": {
                    "color": _colour(split, i),
                    "size": 5 if split != shown else 6,
                    "opacity": 0.55 if split != shown else 0.75,
                    "symbol": style.SYMBOLS[i % len(style.SYMBOLS)],
                    "line": {"width": 0},
                },
                "hovertemplate": "label %{x:.5g}<br>model %{y:.5g}<extra>" + style.plot_text(split) + "</extra>",
            }
        )
    mae, rmse, r2 = numbers
    lines = [f"<b>{style.plot_text(shown)}</b>"]
    if r2 is not None:
        lines.append(f"R² {text.r_squared(r2)}")
    lines.append(f"MAE {text.number(mae * quantity.error_scale)} {quantity.error_unit}")
    lines.append(f"RMSE {text.number(rmse * quantity.error_scale)} {quantity.error_unit}")
    caption = f"One point a {quantity.points}; on the dashed line model and label agree."
    if quantity.note:
        caption += f" {quantity.note}"
    if thinned:
        total = sum(ref.size for ref, _ in pairs.values())
        caption += f" Drawn: a random share of {text.number(total)}, the {WORST_KEPT} worst of each split always."
    return Figure(
        title=quantity.title,
        caption=caption,
        data=data,
        layout=style.layout(
            style.axis(f"label ({quantity.unit})", range=ends),
            style.axis(f"model ({quantity.unit})", range=ends),
            annotations=[style.inset("<br>".join(lines))],
        ),
        height=350,
    )


def distribution_figure(quantity: Quantity, pairs: dict[str, tuple[np.ndarray, np.ndarray]], shown: str) -> Figure:
    """Return the cumulative distribution of absolute errors, a line a split.

    Parameters
    ----------
    quantity
        What is drawn.
    pairs
        Split -> labels and predictions, flat, in the documents' units.
    shown
        The split that the caption is about.
    """
    levels = 1 - np.geomspace(1.0, 1e-3, CDF_POINTS)
    levels = np.unique(np.concatenate([levels, np.linspace(0, 1, CDF_POINTS)]))
    data = []
    largest, smallest = 0.0, np.inf
    for i, (split, (ref, pred)) in enumerate(pairs.items()):
        errors = np.abs(pred - ref) * quantity.error_scale
        x = np.quantile(errors, levels)
        largest = max(largest, float(errors.max()))
        smallest = min(smallest, float(np.quantile(errors, 0.02)))
        data.append(
            {
                "type": "scatter",
                "mode": "lines",
                "name": style.plot_text(split),
                "x": style.values(x),
                "y": style.values(100 * levels),
                "line": {"color": _colour(split, i), "width": 2, "dash": style.DASHES[(2 - i) % 3]},
                "hovertemplate": "%{y:.0f} % below %{x:.3g}<extra>" + style.plot_text(split) + "</extra>",
            }
        )
    ref, pred = pairs[shown]
    half, ninety = np.quantile(np.abs(pred - ref) * quantity.error_scale, [0.5, 0.9])
    caption = (
        f"Share of {shown} {quantity.points}s below an error: half are below {text.number(float(half))}, "
        f"90 % below {text.number(float(ninety))} {quantity.error_unit}."
    )
    x_axis = style.log_axis(
        f"absolute error ({quantity.error_unit})", [max(smallest, largest * 1e-5), largest], pad=0.02
    )
    return Figure(
        title=f"{quantity.title}: error distribution",
        caption=caption,
        data=data,
        layout=style.layout(x_axis, style.axis("share below (%)", range=[0, 101])),
        height=290,
    )


def _colour(split: str, place: int) -> str:
    return style.SPLIT_COLOURS.get(split, style.PALETTE[(place + 3) % len(style.PALETTE)])


def _subsample(errors: np.ndarray, limit: int) -> np.ndarray:
    """Return the rows to draw: a seeded random share, and always the worst ones."""
    if errors.size <= limit:
        return np.arange(errors.size)
    worst = np.argsort(errors)[-WORST_KEPT:]
    chosen = np.random.default_rng(0).choice(errors.size, limit - WORST_KEPT, replace=False)
    return np.union1d(worst, chosen)
