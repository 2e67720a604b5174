"""``atomfoundry evaluate``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.dataset_progress import counting
from atomfoundry.cli.run import JsonOption
from atomfoundry.cli.train import print_errors
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from ase import Atoms
    from ase.calculators.calculator import BaseCalculator

    from atomfoundry.models import Allegro
    from atomfoundry.models.accuracy import Accuracy

_SHOWN = 12


def evaluate_command(
    model: Annotated[
        str,
        typer.Argument(
            help="Model folder; or any calculator: import path, force field name, JSON/TOML/YAML description."
        ),
    ],
    data: Annotated[list[str], typer.Argument(help="Dataset folders, or files of labelled frames.")],
    head: Annotated[
        list[str] | None,
        typer.Option(help="Readout head of a model (default: 'ft', or else the first); repeatable, or 'all'."),
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only this split of the datasets.")] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="Of data files, e.g. 'mace' or 'nequip' (default: by name).")
    ] = "",
    device: Annotated[str, typer.Option(help="Of a model: 'cpu', 'cuda', 'cuda:1'.")] = "cpu",
    batch_size: Annotated[int, typer.Option(min=1, help="Most structures that a model sees at a time.")] = 16,
    html: Annotated[Path | None, typer.Option("--html", help="Page of parity plots and tables to write.")] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Extended XYZ file to write: frames with predicted labels.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the points that plots show.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Compare a model or any calculator with labels: by set, element and source."""
    from atomfoundry.models.accuracy import Accuracy, gather, predicted_frames
    from atomfoundry.models.prediction import predict

    predictor, name, heads = _predictor(model, head or [], device)
    if predictions is not None and len(heads) > 1:
        raise InputError("A file takes the predictions of one head.", remedy="Give one --head.")
    for target in (html, predictions):
        if target is not None and not target.absolute().parent.is_dir():
            raise InputError(f"There is no folder for '{target}'.", remedy="Make it, or give another path.")
    for path in data:
        _open(path, split, file_format)
    accuracies: list[Accuracy] = []

    def predicted() -> Iterator[Any]:
        for chosen, isolated in heads.items():
            for path, title in zip(data, _titles(data, split), strict=True):
                count, frames, energies = _open(path, split, file_format)
                accuracy = Accuracy(head=chosen, split=title, isolated_energies=isolated or energies, seed=seed)
                found = gather(accuracy, predict(predictor, frames, head=chosen or None, batch_size=batch_size))
                with counting(f"Evaluating {title}", count) as advance:
                    for item in found:
                        advance(1)
                        yield item
                accuracy.metrics()  # refuses a set without a single comparison before the next is begun
                accuracies.append(accuracy)

    if predictions is not None:
        from atomfoundry.datasets import write_extxyz

        write_extxyz(predictions, predicted_frames(predicted()))
    else:
        for _ in predicted():
            pass
    if html is not None:
        from atomfoundry.models.accuracy_page import write_accuracy_page

        write_accuracy_page(html, accuracies, title=f"Errors of {name}", subtitle=", ".join(data))
    if as_json:
        print_json(
            {
                "model": name,
                "heads": [each for each in heads if each],
                "sets": [entry.summary() for entry in accuracies],
            }
        )
    else:
        _print(accuracies, name)
        for target in (html, predictions):
            if target is not None:
                console.print(f"Written: {target}", highlight=False, soft_wrap=True)


def _predictor(
    text: str, heads: list[str], device: str
) -> tuple[Allegro | BaseCalculator, str, dict[str, dict[str, float]]]:
    """Return what predicts, its name, and its chosen heads with their isolated-atom energies ('' for none)."""
    from atomfoundry.engines.foreign import calculator_of, read_calculator_spec

    spec = read_calculator_spec(text)
    if spec.model is None:
        if heads:
            raise InputError(f"{spec.label} has no heads.", remedy="Leave --head out.")
        return calculator_of(spec), spec.label, {"": {}}
    from atomfoundry.models.calculator import default_head
    from atomfoundry.models.io import load_model

    folder = Path(spec.model)
    # what a training writes holds its model below
    if not (folder / "config.json").is_file() and (folder / "model" / "config.json").is_file():
        folder = folder / "model"
    try:
        model = load_model(folder, device)
    except RuntimeError as error:
        raise InputError(f"Device '{device}': {error}", remedy="Take 'cpu', or a device of this machine.") from error
    known = {each.name: each.isolated_energies for each in model.config.heads}
    if heads == ["all"] and "all" not in known:
        return model, str(folder), known
    chosen = heads or [spec.kwargs.get("head") or default_head(model.config)]
    for each in chosen:
        model.head_index(each)
    return model, str(folder), {each: known[each] for each in chosen}


def _open(path: str, split: str | None, file_format: str) -> tuple[int | None, Iterable[Atoms], dict[str, float]]:
    """Return number of frames where it is known, the frames, and isolated-atom energies where there are any."""
    from atomfoundry.datasets import Dataset, read_frames
    from atomfoundry.datasets.metadata import METADATA_FILE

    folder = Path(path)
    if not folder.exists():
        raise InputError(f"There is no file or folder '{path}'.", remedy="Check the path.")
    if (folder / METADATA_FILE).is_file():
        dataset = Dataset.open(folder)
        if split is not None and split not in dataset.splits:
            raise InputError(
                f"{path} has no split '{split}'.", remedy=f"It has: {', '.join(dataset.splits) or 'none'}."
            )
        count = len(dataset) if split is None else len(dataset.splits[split])
        return count, dataset.frames(split=split), dataset.isolated_energies
    if split is not None:
        raise InputError(f"{path} is no dataset folder and has no splits.", remedy="Leave --split out.")
    return None, read_frames(folder, format=file_format), {}


def _titles(data: list[str], split: str | None) -> list[str]:
    names = [Path(path).name for path in data]
    titles = [path if names.count(name) > 1 else name for path, name in zip(data, names, strict=True)]
    return [f"{title} ({split})" if split else title for title in titles]


def _print(accuracies: list[Accuracy], name: str) -> None:
    print_errors([entry.metrics().model_dump(mode="json") for entry in accuracies], title=name)
    for entry in accuracies:
        _, left = entry.shifted()
        name = f"{entry.split}, head {entry.head}" if entry.head else entry.split
        print_table(
            ["element", "atoms", "F MAE (meV/A)", "F RMSE (meV/A)", "E MAE (meV/atom)", "note"],
            [
                [
                    row.element,
                    row.n_atoms,
                    1000 * row.forces_mae,
                    1000 * row.forces_rmse,
                    1000 * row.energy_mae,
                    ", ".join(row.alerts).replace("_", " "),
                ]
                for row in entry.by_element()
            ],
            title=f"{name}: energy RMSE after the best shift per element {1000 * left:.4g} meV/atom",
        )
        if len(entry.by_source) > 1:
            rows = sorted(entry.by_source.items(), key=lambda item: -item[1].n_frames)
            print_table(
                ["source", "frames", "E MAE (meV/atom)", "F MAE (meV/A)"],
                [
                    [
                        source,
                        group.n_frames,
                        *(1000 * group.errors[q].mae if group.errors[q].count else None for q in ("energy", "forces")),
                    ]
                    for source, group in rows[:_SHOWN]
                ],
                title=f"{len(rows)} sources" if len(rows) > _SHOWN else None,
            )
        if entry.n_failed:
            reasons = ", ".join(f"{reason}: {number}" for reason, number in sorted(entry.reasons.items()))
            console.print(f"{entry.n_failed} frames could not be predicted ({reasons}).", highlight=False)
            console.print(f"  {entry.failures[0].message}", highlight=False, soft_wrap=True)
