"""The training section: models and their learning curves."""

from __future__ import annotations

from collections.abc import Callable

from atomfoundry.documents import EpochRecord, ModelDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Section, Table, Words
from atomfoundry.results.report.data import ReportInputs

EPOCHS_DRAWN = 400

KIND_WORDS = {
    "base": "base",
    "naive": "naive fine-tuning",
    "replay": "replay fine-tuning",
    "active_learning": "after active learning",
}


def section(inputs: ReportInputs) -> Section:
    """Return the section about training."""
    key, title = "training", "Training"
    if not inputs.models:
        return Section(key=key, title=title, absent="No model documents were given.")
    models = inputs.ordered_models()
    blocks: list[Block] = [_models(models)]
    curves = [model for model in models if model.history]
    if curves:
        blocks.append(
            Row(
                blocks=[
                    _errors(
                        "Energy error",
                        curves,
                        lambda r: r.energy_mae,
                        "validation MAE (meV/atom)",
                        "Energies of the validation frames, which training never sees: lower is better.",
                    ),
                    _errors(
                        "Force error",
                        curves,
                        lambda r: r.forces_mae,
                        f"validation MAE (meV/{text.ANGSTROM})",
                        "Force components of the validation frames; a flat end: more epochs would not help.",
                    ),
                    _losses(curves),
                ],
                columns=3,
            )
        )
    else:
        blocks.append(Words(text="No learning curves: the model documents hold no history."))
    return Section(key=key, title=title, lead=_lead(models), blocks=blocks)


def model_name(model: ModelDoc) -> str:
    """Return the model's name with its kind in words where the name does not say it."""
    if model.kind.replace("_", " ") in model.name.replace("_", " "):
        return model.name
    return f"{model.name} ({KIND_WORDS.get(model.kind, model.kind)})"


def _lead(models: list[ModelDoc]) -> str:
    sizes = sorted({model.n_parameters for model in models})
    words = " or ".join(text.number(n) for n in sizes)
    time = text.duration(sum(model.training_time_s for model in models))
    return f"{text.count(len(models), 'model')} of {words} parameters, {time} of training in all."


def _models(models: list[ModelDoc]) -> Table:
    rows: list[list[Cell | str]] = [
        [
            model.name,
            KIND_WORDS.get(model.kind, model.kind),
            model.architecture,
            Cell(text=text.number(model.n_parameters), kind="number"),
            ", ".join(model.elements),
            ", ".join(head.name for head in model.heads),
            Cell(text=text.number(model.n_epochs), kind="number"),
            Cell(text=text.duration(model.training_time_s), kind="number"),
            model.stop_reason.replace("_", " "),
        ]
        for model in models
    ]
    return Table(
        header=[
            "Model",
            "Kind",
            "Architecture",
            "Parameters",
            "Elements",
            "Heads",
            "Epochs",
            "Training time",
            "Stopped because",
        ],
        rows=rows,
        numeric=frozenset({3, 6, 7}),
    )


def thinned(history: list[EpochRecord]) -> list[EpochRecord]:
    """Return at most about ``EPOCHS_DRAWN`` records, evenly spaced, the last one kept."""
    step = -(-len(history) // EPOCHS_DRAWN)
    kept = history[::step]
    return kept if kept[-1] is history[-1] else [*kept, history[-1]]


def _errors(
    title: str,
    models: list[ModelDoc],
    read: Callable[[EpochRecord], float | None],
    unit: str,
    caption: str,
) -> Figure:
    """Return one error (eV units, drawn as meV) over the epochs, a line a model."""
    data = []
    for i, model in enumerate(models):
        pairs = [(r.epoch, 1000 * v) for r in thinned(model.history) if (v := read(r)) is not None and v > 0]
        if pairs:
            data.append(_line(model, i, pairs))
    return Figure(
        title=title,
        caption=caption,
        data=data,
        layout=_epoch_layout(unit, data),
        height=320,
    )


def _losses(models: list[ModelDoc]) -> Figure:
    data = []
    for i, model in enumerate(models):
        records = thinned(model.history)
        train = [(r.epoch, r.train_loss) for r in records if r.train_loss > 0]
        valid = [(r.epoch, r.valid_loss) for r in records if r.valid_loss is not None and r.valid_loss > 0]
        if train:
            data.append(_line(model, i, train, dash="dot", width=1.3, showlegend=not valid, suffix=", training"))
        if valid:
            data.append(_line(model, i, valid, suffix=", validation"))
    return Figure(
        title="Loss",
        caption="Training (dotted) and validation (full) loss; a growing gap is overfitting.",
        data=data,
        layout=_epoch_layout("loss", data),
        height=320,
    )


def _epoch_layout(unit: str, data: list[dict]) -> dict:
    heights = [y for trace in data for y in trace["y"]]
    return style.layout(style.axis("epoch", rangemode="tozero"), style.log_axis(unit, heights), hovermode="x unified")


def _line(
    model: ModelDoc,
    place: int,
    pairs: list[tuple[int, float]],
    *,
    dash: str = "solid",
    width: float = 2.0,
    showlegend: bool = True,
    suffix: str = "",
) -> dict:
    """Return one model's curve; a single point is drawn as a marker."""
    kind = model.kind.replace("_", " ")
    return {
        "type": "scatter",
        "mode": "lines" if len(pairs) > 1 else "markers",
        "name": style.plot_text(kind),
        "legendgroup": str(place),
        "showlegend": showlegend,
        "x": [epoch for epoch, _ in pairs],
        "y": style.values([value for _, value in pairs]),
        "line": {"color": style.PALETTE[place % len(style.PALETTE)], "dash": dash, "width": width},
        "hovertemplate": style.plot_text(f"{kind}{suffix}: ") + "%{y:.4g}<extra></extra>",
    }
