"""The data section: structures, labels and why some failed, datasets and their histograms."""

from __future__ import annotations

from collections import Counter

import numpy as np

from atomfoundry.documents import DatasetDoc, LabelSetDoc
from atomfoundry.results.report import style, text
from atomfoundry.results.report.arrays import DatasetArrays
from atomfoundry.results.report.blocks import Block, Cell, Figure, Row, Section, Table, Words
from atomfoundry.results.report.data import ReportInputs

FAILURES_SHOWN = 40


def section(inputs: ReportInputs) -> Section:
    """Return the section about structures, labels and datasets."""
    key, title = "data", "Data"
    blocks: list[Block] = []
    if inputs.structure_sets:
        blocks.append(_structures(inputs))
    if inputs.label_sets:
        blocks += _labels(inputs.label_sets)
    if inputs.datasets:
        blocks.append(_datasets(inputs.datasets))
        rejected = {reason for dataset in inputs.datasets for reason in dataset.rejections}
        if rejected:
            blocks.append(_rejections(inputs.datasets))
    blocks += [_histograms(arrays, i) for i, arrays in enumerate(inputs.dataset_arrays)]
    if not blocks:
        return Section(key=key, title=title, absent="No structure, label or dataset documents were given.")
    return Section(key=key, title=title, lead=_lead(inputs), blocks=blocks)


def _lead(inputs: ReportInputs) -> str:
    """Return the section in a sentence."""
    words = []
    if inputs.structure_sets:
        words.append(text.count(sum(s.n_structures for s in inputs.structure_sets), "structure"))
    if inputs.label_sets:
        good = sum(s.n_labelled for s in inputs.label_sets)
        asked = sum(s.n_requested for s in inputs.label_sets)
        levels = len({s.level_id for s in inputs.label_sets})
        words.append(f"{number_of(good, asked)} labels at {text.count(levels, 'level')} of theory")
    if inputs.datasets:
        words.append(text.count(len(inputs.datasets), "dataset"))
    return ", ".join(words) + "."


def number_of(part: int, whole: int) -> str:
    """Return ``3 of 4``, or ``4`` if all."""
    return text.number(whole) if part == whole else f"{text.number(part)} of {text.number(whole)}"


def _structures(inputs: ReportInputs) -> Table:
    rows: list[list[Cell | str]] = [
        [
            s.name,
            Cell(text=text.number(s.n_structures), kind="number"),
            text.listing(s.formulas),
            text.listing(s.samplings),
            ", ".join(s.elements),
        ]
        for s in inputs.structure_sets
    ]
    return Table(
        header=["Structure set", "Structures", "Formulas", "Sampling", "Elements"],
        rows=rows,
        caption="Structures that were made, by formula and by sampling method.",
        numeric=frozenset({1}),
    )


def _labels(label_sets: list[LabelSetDoc]) -> list[Block]:
    """Return the labels of each level, and the failures with their reasons."""
    rows: list[list[Cell | str]] = []
    for s in label_sets:
        fresh = s.n_labelled - s.n_reused
        each = s.compute_time_s / fresh if fresh > 0 and s.compute_time_s else None
        rows.append(
            [
                s.name,
                s.level.label,
                s.engine,
                Cell(text=text.number(s.n_requested), kind="number"),
                Cell(text=text.number(s.n_labelled), kind="number"),
                Cell(text=text.number(s.n_reused), kind="number"),
                Cell(text=text.number(s.n_failed), kind="bad" if s.n_failed else "number"),
                Cell(text=text.duration(s.compute_time_s), kind="number"),
                Cell(text=text.duration(each), kind="number"),
            ]
        )
    blocks: list[Block] = [
        Table(
            header=[
                "Label set",
                "Level of theory",
                "Engine",
                "Asked",
                "Good",
                "of these reused",
                "Failed",
                "Compute time",
                "Time a label",
            ],
            rows=rows,
            caption="Labels (energy, forces, stress of crystals) per set; reused ones were in the database.",
            numeric=frozenset(range(3, 9)),
        )
    ]
    reasons: Counter[tuple[str, str]] = Counter()
    failures = [(s, failure) for s in label_sets for failure in s.failures]
    for s, failure in failures:
        reasons[(s.level.label, failure.reason)] += 1
    if not failures:
        if not any(s.n_failed for s in label_sets):
            blocks.append(Words(text="No label failed."))
        return blocks
    blocks.append(
        Table(
            header=["Level of theory", "Reason", "Labels"],
            rows=[
                [level, Cell(text=reason, kind="code"), Cell(text=text.number(n), kind="number")]
                for (level, reason), n in sorted(reasons.items(), key=lambda item: -item[1])
            ],
            caption="Why labels failed; the rest went on without them.",
            numeric=frozenset({2}),
        )
    )
    shown = failures[:FAILURES_SHOWN]
    more = "" if len(shown) == len(failures) else f" (the first {len(shown)} of {text.number(len(failures))})"
    blocks.append(
        Table(
            header=["Formula", "Level of theory", "Reason", "Message", "Source", "Frame"],
            rows=[
                [
                    failure.formula,
                    s.level.label,
                    Cell(text=failure.reason, kind="code"),
                    failure.message,
                    failure.source,
                    Cell(text=text.short_hash(failure.frame_id, 8), kind="hash", full=failure.frame_id),
                ]
                for s, failure in shown
            ],
            folded=f"Each failed label{more}",
        )
    )
    return blocks


def _datasets(datasets: list[DatasetDoc]) -> Table:
    rows: list[list[Cell | str]] = []
    for d in datasets:
        span = text.MISSING
        if d.energy_range is not None:
            span = f"{text.fixed(d.energy_range[0], 2)} to {text.fixed(d.energy_range[1], 2)}"
        level = d.level.label if d.level else f"{text.count(len(d.level_ids), 'level')}, aligned or mixed"
        rows.append(
            [
                d.name,
                level,
                Cell(text=text.number(d.n_frames), kind="number"),
                Cell(text=text.number(d.n_atoms), kind="number"),
                *(Cell(text=text.number(d.splits.get(split)), kind="number") for split in style.SPLITS),
                text.listing(d.elements),
                Cell(text=span, kind="number"),
                Cell(text=text.fixed(d.max_force, 2), kind="number"),
            ]
        )
    return Table(
        header=[
            "Dataset",
            "Level of theory",
            "Frames",
            "Atoms",
            "Train",
            "Valid",
            "Test",
            "Atoms by element",
            "Energy range (eV/atom)",
            f"Largest force (eV/{text.ANGSTROM})",
        ],
        rows=rows,
        caption="Datasets and their seeded splits by group; energies count from isolated atoms.",
        numeric=frozenset({2, 3, 4, 5, 6, 8, 9}),
    )


def _rejections(datasets: list[DatasetDoc]) -> Table:
    rows: list[list[Cell | str]] = [
        [d.name, Cell(text=reason, kind="code"), Cell(text=text.number(n), kind="number")]
        for d in datasets
        for reason, n in sorted(d.rejections.items(), key=lambda item: -item[1])
    ]
    return Table(
        header=["Dataset", "Reason", "Frames refused"],
        rows=rows,
        caption="Labelled frames that the quality checks refused.",
        numeric=frozenset({2}),
    )


def _histograms(arrays: DatasetArrays, place: int) -> Row:
    colour = style.PALETTE[place % len(style.PALETTE)]
    name = arrays.name
    return Row(
        blocks=[
            _histogram(
                f"Energies of {name}",
                arrays.energies,
                "energy above isolated atoms (eV/atom)",
                "frames",
                "How the labelled energies spread; gaps are regions that the model has not seen.",
                colour,
            ),
            _histogram(
                f"Forces of {name}",
                arrays.forces,
                f"force on an atom (eV/{text.ANGSTROM})",
                "atoms",
                "How large the forces get; the tail shows how far from equilibrium the sampling goes.",
                colour,
            ),
        ]
    )


def _histogram(title: str, data: np.ndarray, x: str, y: str, caption: str, colour: str) -> Figure:
    """Return a histogram of at most 50 bins, counted here so that the page stays small."""
    data = data[np.isfinite(data)]
    if data.size == 0:
        counts, centres, widths = np.zeros(1), np.zeros(1), np.ones(1)
    else:
        bins = int(np.clip(2 * data.size ** (1 / 3), 10, 50))
        counts, edges = np.histogram(data, bins=bins)
        centres, widths = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    trace = {
        "type": "bar",
        "x": style.values(centres),
        "y": style.values(counts),
        "width": style.values(widths),
        "marker": {"color": colour, "line": {"width": 0}},
        "hovertemplate": "%{x}: %{y}<extra></extra>",
    }
    y_axis = style.axis(f"number of {y}")
    if counts.max() > 50 and counts.max() > 30 * np.median(counts):
        y_axis = style.log_axis(f"number of {y}", [0.5, float(counts.max())])
    words = f"{caption} {text.count(int(data.size), y.removesuffix('s'))}."
    return Figure(
        title=title,
        caption=words,
        data=[trace],
        layout=style.layout(style.axis(x), y_axis, bargap=0.04, showlegend=False),
        height=260,
    )
