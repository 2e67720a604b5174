"""The first section: what was made, in a few numbers, and whether the targets were met."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from atomfoundry.documents import ErrorMetrics
from atomfoundry.results.report import text
from atomfoundry.results.report.blocks import Block, Card, Cards, Cell, Section, Table
from atomfoundry.results.report.curves import model_name
from atomfoundry.results.report.data import ReportInputs, TargetRow


def headline(inputs: ReportInputs) -> dict[str, float | str | None]:
    """Return the numbers that stand for the whole run; only those that exist.

    Units: meV/atom, meV/A, GPa, percent, meV/atom/ps, seconds.
    """
    found: dict[str, float | str | None] = {}
    if inputs.structure_sets:
        found["structures"] = sum(s.n_structures for s in inputs.structure_sets)
    if inputs.label_sets:
        found["labels"] = sum(s.n_labelled for s in inputs.label_sets)
        found["labels_reused"] = sum(s.n_reused for s in inputs.label_sets)
        found["labels_failed"] = sum(s.n_failed for s in inputs.label_sets)
    model = inputs.main_model()
    if model is not None:
        found |= {"model": model.name, "parameters": model.n_parameters}
        metrics = shown_metrics(model.metrics)
        if metrics is not None:
            found["split"] = metrics.split
            found["energy_mae_mev_per_atom"] = 1000 * metrics.energy_mae
            found["forces_mae_mev_per_angstrom"] = _times(1000, metrics.forces_mae)
    for doc in inputs.benchmarks:
        if doc.benchmark == "equation_of_state" and "bulk_modulus_gpa" not in found:
            value, truth = doc.summary.get("B0"), doc.reference_summary.get("B0")
            if isinstance(value, float):
                found["bulk_modulus_gpa"] = value
                if isinstance(truth, float) and truth:
                    found["bulk_modulus_reference_gpa"] = truth
                    found["bulk_modulus_error_percent"] = 100 * (value - truth) / abs(truth)
        drift = doc.summary.get("drift")
        if doc.benchmark == "nve_drift" and isinstance(drift, float):
            found.setdefault("nve_drift_mev_per_atom_per_ps", drift)
    for method in ("naive", "replay"):
        ratios = [r.ratio for f in inputs.forgetting for r in f.records if (r.method, r.quantity) == (method, "forces")]
        if ratios:
            found[f"forgetting_forces_{method}"] = min(ratios)
    elapsed = wall_clock(inputs)
    if elapsed is not None:
        found["wall_clock_s"] = elapsed
    if inputs.targets:
        found["targets"] = len(inputs.targets)
        found["targets_met"] = sum(target.passed is True for target in inputs.targets)
    return found


def shown_metrics(metrics: Iterable[ErrorMetrics]) -> ErrorMetrics | None:
    """Return the metrics that count: of the first head's test split, else of the validation split."""
    listed = list(metrics)
    for split in ("test", "valid"):
        own = [m for m in listed if m.split == split]
        if own:
            return own[0]
    return None


def wall_clock(inputs: ReportInputs) -> float | None:
    """Return the seconds from the start of the first job to the end of the last one."""
    spans = [
        (begun, begun + timedelta(seconds=job.wall_time_s))
        for job in inputs.jobs
        if job.wall_time_s is not None and (begun := text.parse_time(job.start)) is not None
    ]
    if not spans:
        return None
    return (max(end for _, end in spans) - min(begun for begun, _ in spans)).total_seconds()


def section(inputs: ReportInputs) -> Section:
    """Return the section with the headline numbers and the targets."""
    key, title = "summary", "Summary"
    cards = _cards(inputs)
    blocks: list[Block] = []
    if cards:
        blocks.append(Cards(cards=cards))
    if inputs.targets:
        blocks.append(_targets(inputs.targets))
    if not blocks:
        return Section(key=key, title=title, absent="There are neither results nor targets to sum up.")
    return Section(key=key, title=title, lead=_lead(inputs), blocks=blocks)


def _lead(inputs: ReportInputs) -> str:
    """Return what was made in one or two sentences."""
    words = ""
    model = inputs.main_model()
    if model is not None:
        words = f"{model_name(model)}: an {model.architecture} potential for {', '.join(model.elements)}"
        if inputs.label_sets:
            words += f", from {text.number(sum(s.n_labelled for s in inputs.label_sets))} labels by " + " and ".join(
                dict.fromkeys(s.level.label for s in inputs.label_sets)
            )
        words += ". "
    if inputs.targets:
        met = sum(target.passed is True for target in inputs.targets)
        everything = len(inputs.targets)
        missed = sum(target.passed is False for target in inputs.targets)
        words += "All targets are met." if met == everything else f"{met} of {everything} targets are met"
        if missed:
            words += f", {missed} missed"
        if met + missed < everything:
            words += f", {everything - met - missed} not measured"
        words = words.removesuffix(".") + "."
    return words.strip()


def _cards(inputs: ReportInputs) -> list[Card]:
    found = headline(inputs)
    cards = []
    if "labels" in found:
        notes = [f"{text.number(found[f'labels_{kind}'])} {kind}" for kind in ("reused", "failed")]  # type: ignore[arg-type]
        cards.append(Card(label="Labels", value=text.number(found["labels"]), note=", ".join(notes)))  # type: ignore[arg-type]
    model = inputs.main_model()
    if model is not None:
        epochs = text.count(model.n_epochs, "epoch") + f" in {text.duration(model.training_time_s)}"
        cards.append(Card(label="Parameters", value=text.number(model.n_parameters), note=epochs))
    cards += _error_cards(found)
    cards += _physics_cards(found)
    if "wall_clock_s" in found:
        cards.append(
            Card(
                label="Time",
                value=text.duration(float(found["wall_clock_s"])),  # type: ignore[arg-type]
                note=f"{text.count(len(inputs.jobs), 'job')}, first start to last end",
            )
        )
    return cards


def _error_cards(found: dict[str, float | str | None]) -> list[Card]:
    cards = []
    for key, label, unit in (
        ("energy_mae_mev_per_atom", "Energy error", "meV/atom"),
        ("forces_mae_mev_per_angstrom", "Force error", f"meV/{text.ANGSTROM}"),
    ):
        value = found.get(key)
        if isinstance(value, float):
            words = f"MAE, {found['split']} frames"
            cards.append(Card(label=label, value=text.number(value), unit=unit, note=words))
    return cards


def _physics_cards(found: dict[str, float | str | None]) -> list[Card]:
    cards = []
    modulus, error = found.get("bulk_modulus_gpa"), found.get("bulk_modulus_error_percent")
    if isinstance(modulus, float):
        note = "equation of state"
        if isinstance(error, float):
            note = f"engine {text.number(float(found['bulk_modulus_reference_gpa']), 4)}: "  # type: ignore[arg-type]
            note += f"{error:+.1f} %".replace("-", text.MINUS)
        cards.append(Card(label="Bulk modulus", value=text.number(modulus, 4), unit="GPa", note=note))
    drift = found.get("nve_drift_mev_per_atom_per_ps")
    if isinstance(drift, float):
        cards.append(Card(label="NVE drift", value=text.number(drift), unit="meV/atom/ps", note="energy conservation"))
    naive, replay = found.get("forgetting_forces_naive"), found.get("forgetting_forces_replay")
    if isinstance(replay, float):
        note = f"naive: {text.number(naive)}×" if isinstance(naive, float) else "force errors, earlier task"
        cards.append(Card(label="Forgetting, replay", value=f"{text.number(replay)}×", note=note))
    return cards


def _targets(targets: list[TargetRow]) -> Table:
    rows: list[list[Cell | str]] = []
    for target in targets:
        verdict, words = judge(target)
        sign = "<" if target.direction == "below" else ">"
        rows.append(
            [
                target.name,
                Cell(text=_with_unit(text.number(target.value), target.unit), kind="number"),
                Cell(text=_with_unit(f"{sign} {text.plain(target.target)}", target.unit), kind="number"),
                verdict,
                words,
            ]
        )
    return Table(
        header=["Target", "Reached", "Wanted", "Verdict", "In words"],
        rows=rows,
        caption="What the run should reach, and what it reached.",
        numeric=frozenset({1, 2}),
    )


def judge(target: TargetRow) -> tuple[Cell, str]:
    """Return the verdict on a target, and the same in plain words."""
    if target.value is None or target.passed is None:
        return Cell(text="not measured", kind="quiet"), "There is no number for it in this run."
    gap = abs(target.value - target.target)
    distance = _with_unit(text.number(gap), target.unit)
    if target.target:
        distance += f" ({text.number(100 * gap / abs(target.target), 2)} %)"
    side = "below" if target.value < target.target else "above"
    if gap == 0:
        words = "Exactly at the limit."
    else:
        words = f"{distance} {side} the limit."
    if target.passed:
        return Cell(text="\N{CHECK MARK} met", kind="good"), words
    return Cell(text="\N{MULTIPLICATION X} missed", kind="bad"), words


def _with_unit(number: str, unit: str) -> str:
    return f"{number} {unit}" if unit and number != text.MISSING else number


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
