"""``atomfoundry dataset convert | merge | select``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import console, print_json
from atomfoundry.cli.dataset_progress import counting
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from ase import Atoms

    from atomfoundry.datasets import Dataset
    from atomfoundry.documents import LevelOfTheory


def _summary(dataset: Dataset, as_json: bool, **more: Any) -> None:
    counts = dataset.metadata.counts
    facts = {
        "path": str(dataset.path),
        "name": dataset.name,
        "frames": counts.frames,
        "atoms": counts.atoms,
        "level": dataset.level.label if dataset.level else None,
        "levels": {record.id: record.label for record in dataset.levels},
        "splits": {key: len(indices) for key, indices in dataset.splits.items()},
        "content_hash": dataset.content_hash,
        **more,
    }
    if as_json:
        print_json(facts)
    else:
        console.print(f"Wrote {counts.frames} frames, {counts.atoms} atoms to {dataset.path}", highlight=False)


def _level(path: Path | None) -> LevelOfTheory | None:
    from pydantic import ValidationError

    from atomfoundry.documents import LevelOfTheory

    if path is None:
        return None
    try:
        return LevelOfTheory.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise InputError(
            f"'{path}' describes no level of theory: {first}.",
            remedy='It is JSON such as {"code": "vasp", "method": "PBE", "cutoff": 520}.',
        ) from error


def convert_command(
    source: Annotated[Path, typer.Argument(help="File, or dataset folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset folder, or file to write.")],
    source_format: Annotated[
        str,
        typer.Option(
            "--from",
            help="dataset, extxyz, mace, nequip, atompronet, ase-db, npz, mlearn, mptrj, matpes [default: by name].",
        ),
    ] = "",
    target_format: Annotated[
        str, typer.Option("--to", help="dataset, extxyz, mace, nequip, atompronet, ase-db, npz.")
    ] = "",
    level: Annotated[
        Path | None, typer.Option("--level", help="JSON file with the level of theory of the labels.")
    ] = None,
    energy: Annotated[
        str, typer.Option("--energy", help="Of MPtrj: uncorrected or corrected (MP2020).")
    ] = "uncorrected",
    name: Annotated[str, typer.Option("--name", help="Name of the dataset.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Turn a file into a dataset, a dataset into a file, or an old dataset into a new one; memory stays small."""
    from atomfoundry.datasets import Dataset, import_dataset, read_frames, write_frames
    from atomfoundry.datasets.convert import guess_format

    kind = target_format or guess_format(output)
    if output.exists():
        raise InputError(f"{output} exists.", remedy="Give another name.")
    source_kind = source_format or guess_format(source)
    total = len(Dataset.open(source)) if source_kind == "dataset" else None
    with counting(f"{source.name} -> {output.name}", total) as progress:
        if kind == "dataset":
            dataset = import_dataset(
                output, source, format=source_kind, energy=energy, level=_level(level), name=name, progress=progress
            )
            written = len(dataset)
        else:
            frames = read_frames(source, format=source_kind, energy=energy)
            written = write_frames(output, _counted(frames, progress), format=kind)
    if kind == "dataset":
        _summary(dataset, as_json)
    elif as_json:
        print_json({"path": str(output), "format": kind, "frames": written})
    else:
        console.print(f"Wrote {written} frames to {output}", highlight=False)


def _counted(frames: Iterator[Atoms], progress: Any) -> Iterator[Atoms]:
    for atoms in frames:
        progress(1)
        yield atoms


def merge_command(
    sources: Annotated[list[Path], typer.Argument(help="Dataset folders, in order.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset folder to make.")],
    name: Annotated[str, typer.Option("--name", help="Name of the dataset.")] = "",
    mixed_levels: Annotated[
        bool, typer.Option("--mixed-levels", help="Join several levels of theory all the same (multi-head training).")
    ] = False,
    no_splits: Annotated[bool, typer.Option("--no-splits", help="Leave the splits behind.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Join datasets of one level without copying their shards; a structure that occurs twice is kept once."""
    from atomfoundry.datasets import Dataset, merge_datasets

    datasets = [Dataset.open(path) for path in sources]
    total = sum(map(len, datasets))
    with counting(f"Merging into {output.name}", total) as progress:
        merged = merge_datasets(
            output,
            datasets,
            name=name,
            allow_mixed_levels=mixed_levels,
            keep_splits=not no_splits,
            progress=progress,
        )
    _summary(merged, as_json, duplicates=total - len(merged))
    if not as_json and total > len(merged):
        console.print(f"  {total - len(merged)} duplicates left out", highlight=False)


def select_command(
    path: Annotated[Path, typer.Argument(help="Dataset folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Dataset folder to make.")],
    number: Annotated[int, typer.Option("--number", "-n", min=1, help="How many frames.")],
    method: Annotated[
        str, typer.Option("--method", help="farthest (by descriptors), random, stratified or equal (by a column).")
    ] = "random",
    descriptors: Annotated[
        Path | None, typer.Option("--descriptors", help=".npy table with a row for every frame; read through a map.")
    ] = None,
    chosen: Annotated[
        Path | None, typer.Option("--chosen", help=".npy table of descriptors that count as chosen already.")
    ] = None,
    column: Annotated[str, typer.Option("--by", help="Column of the strata, e.g. group_id, source, n_atoms.")] = "",
    split: Annotated[str, typer.Option("--split", help="Choose from this split only.")] = "",
    where: Annotated[
        list[str] | None, typer.Option("--where", help="COLUMN=VALUE, e.g. sampling=rattle; elements=Si,O.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of random and stratified selection.")] = 0,
    name: Annotated[str, typer.Option("--name", help="Name of the dataset.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Choose few frames that stand for many and write them as a dataset, in the order of choice."""
    from atomfoundry.datasets import Dataset, subset

    dataset = Dataset.open(path)
    if output.exists():
        raise InputError(f"{output} exists.", remedy="Give another name.")
    pool = _pool(dataset, split, where or [])
    with counting("Choosing"):
        picked = _pick(dataset, pool, number, method, descriptors, chosen, column, seed)
    settings = {"method": method, "seed": seed, "from": dataset.content_hash}
    with counting(f"Writing {output.name}", len(picked)) as progress:
        result = subset(output, dataset, picked, name=name, lineage={"selected": settings}, progress=progress)
    _summary(result, as_json, indices=[int(index) for index in picked])


def _pool(dataset: Dataset, split: str, where: list[str]) -> np.ndarray:
    import numpy as np

    conditions: dict[str, Any] = {}
    for text in where:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--where {text} is not COLUMN=VALUE.")
        values = [part.strip() for part in value.split(",")]
        conditions[key] = values if key == "elements" else [_number(part) for part in values]
    pool = dataset.where(**conditions)
    if split:
        if split not in dataset.splits:
            raise InputError(
                f"'{dataset.path}' has no split '{split}'.", remedy=f"It has: {', '.join(dataset.splits)}."
            )
        pool = np.intersect1d(pool, np.array(dataset.splits[split], dtype=np.int64))
    if not len(pool):
        raise InputError("No frame meets the conditions.")
    return pool


def _number(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _table(path: Path, what: str) -> np.ndarray:
    import numpy as np

    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{what} '{path}' cannot be read: {error}.", remedy="It is a .npy table.") from error


def _pick(
    dataset: Dataset,
    pool: np.ndarray,
    number: int,
    method: str,
    descriptors: Path | None,
    chosen: Path | None,
    column: str,
    seed: int,
) -> np.ndarray:
    from atomfoundry.datasets import farthest_point_sampling, random_selection, stratified_selection

    if method == "farthest":
        if descriptors is None:
            raise InputError("--method farthest needs --descriptors.")
        table = _table(descriptors, "Descriptors")
        if len(table) != len(dataset):
            raise InputError(f"'{descriptors}' has {len(table)} rows, the dataset {len(dataset)} frames.")
        warm = None if chosen is None else _table(chosen, "Chosen descriptors")
        # Without conditions the table is not copied.
        rows = table if len(pool) == len(dataset) else table[pool]
        return pool[farthest_point_sampling(rows, number, warm_start=warm)]
    if method == "random":
        return pool[random_selection(len(pool), number, seed=seed)]
    if method in ("stratified", "equal"):
        if not column:
            raise InputError(f"--method {method} needs --by COLUMN.")
        values = dataset.column(column)
        strata = [str(values[index]) for index in pool]
        shares = "equal" if method == "equal" else "proportional"
        return pool[stratified_selection(strata, number, seed=seed, shares=shares)]  # type: ignore[arg-type]
    raise InputError(f"There is no method '{method}'.", remedy="Use farthest, random, stratified or equal.")
