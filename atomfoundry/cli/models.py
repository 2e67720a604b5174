"""``atomfoundry evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import InputError


def evaluate_command(
    model: Annotated[Path, typer.Argument(help="Model folder.")],
    data: Annotated[Path, typer.Argument(help="Dataset folder, or a file of labelled frames that ASE reads.")],
    head: Annotated[str | None, typer.Option(help="Readout head [default: the first].")] = None,
    split: Annotated[str | None, typer.Option(help="Only this split of the dataset.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare a model with labels."""
    from ase.io import read

    from atomfoundry.datasets import Dataset
    from atomfoundry.models.evaluation import evaluate
    from atomfoundry.models.io import load_model

    loaded = load_model(model)
    if data.is_dir():
        dataset = Dataset.open(data)
        if split is not None and split not in dataset.splits:
            raise InputError(
                f"{data} has no split '{split}'.", remedy=f"It has: {', '.join(dataset.splits) or 'none'}."
            )
        frames = list(dataset.frames(dataset.splits[split] if split else None))
    else:
        if not data.is_file():
            raise InputError(f"{data} does not exist.")
        frames = read(data, index=":")
    metrics, _ = evaluate(loaded, frames, head=head, split=split or "all")
    if as_json:
        print_json(metrics.model_dump(mode="json"))
        return
    units = {"energy": "eV/atom", "forces": "eV/A", "stress": "eV/A^3"}
    print_table(
        ["", "MAE", "RMSE", "R2", "unit"],
        [
            [
                q,
                getattr(metrics, f"{q}_mae"),
                getattr(metrics, f"{q}_rmse"),
                getattr(metrics, f"{q}_r2"),
                unit,
            ]
            for q, unit in units.items()
        ],
        title=f"{metrics.n_frames} frames, head {metrics.head}",
    )
