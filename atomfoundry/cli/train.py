"""``atomfoundry train``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import console, errors, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from atomfoundry.documents import EpochRecord

FIRST_HEAD = "pt"
"""Head of data that are given without a name."""


class Preset(StrEnum):
    """Sizes."""

    fm64 = "fm64"
    fm256 = "fm256"
    fm512 = "fm512"
    alumina = "alumina"


class Profile(StrEnum):
    """Settings to start from."""

    default = "default"
    allegro_fm = "allegro_fm"
    finetune = "finetune"


class Energies(StrEnum):
    """Where isolated-atom energies come from."""

    isolated = "isolated"
    lstsq = "lstsq"
    mean = "mean"
    foundation_corrected = "foundation_corrected"


class Scale(StrEnum):
    """What energies of a new model are in units of."""

    whole = "global"
    per_element = "per_element"


class Device(StrEnum):
    """Where to train."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def train_command(
    output: Annotated[Path, typer.Option("--out", "-o", help="Folder for model, history and errors.")],
    data: Annotated[
        list[str] | None, typer.Argument(help="Dataset folders or files of labelled frames, for the head 'pt'.")
    ] = None,
    head: Annotated[
        list[str] | None, typer.Option("--head", help="NAME=DATA: data of a head; repeatable, several for one head.")
    ] = None,
    settings: Annotated[
        Path | None, typer.Option("--settings", "-s", help="TOML, JSON or YAML file; options here win over it.")
    ] = None,
    preset: Annotated[Preset | None, typer.Option(help="Size of a new model (default: fm64).")] = None,
    profile: Annotated[Profile | None, typer.Option(help="Settings to start from (default: default).")] = None,
    valid: Annotated[
        list[str] | None,
        typer.Option(help="Fraction for validation (default: 0.1), or a validation set, also as NAME=DATA."),
    ] = None,
    split_groups: Annotated[
        bool,
        typer.Option("--split-groups", help="Hold out frames of groups that are trained on, e.g. of one trajectory."),
    ] = False,
    energies: Annotated[
        Energies | None,
        typer.Option(
            help="Isolated-atom energies: labelled, fitted, or the start model's, corrected (default: isolated)."
        ),
    ] = None,
    scale: Annotated[
        Scale | None, typer.Option(help="Force RMS a new model is scaled by: of all atoms, or by element.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Same as --set max_epochs=N.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE of the training settings or, as architecture.KEY, of the model."),
    ] = None,
    start: Annotated[Path | None, typer.Option(help="Model folder to go on from; heads it lacks are added.")] = None,
    file_format: Annotated[
        str, typer.Option("--format", help="Of data files, e.g. 'mace' or 'nequip' (default: by name).")
    ] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Of weights, order and validation frames.")] = None,
    device: Annotated[Device, typer.Option(help="'auto': a GPU where there is one for each process.")] = Device.auto,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each process on the CPU (default: OMP_NUM_THREADS, or else 1).")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live progress.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model from labelled frames; the same command goes on where it was stopped.

    Exit status 75: not at its end, because the process was asked to stop or its time was up; run it again.
    Several processes: torchrun --nproc-per-node 4 -m atomfoundry.cli.main train DATASET -o DIR.
    The folder gets model/, history.json, training.json (settings, data, errors, versions) and errors.html.
    """
    from atomfoundry.deadline import NO_TIME_STATUS, NoTimeLeftError, stop_signals
    from atomfoundry.models.train_plan import training_plan
    from atomfoundry.models.training.process_group import first_process, threads_asked_for
    from atomfoundry.models.training_folder import train_folder

    values = _from_file(settings) if settings else {}
    _take_heads(values, data or [], head or [], valid or [])
    if file_format:
        for each in values["heads"].values():
            each["format"] = file_format
    for key, option in (("preset", preset), ("profile", profile), ("energies", energies), ("scale", scale)):
        if option is not None:
            values[key] = option.value
    if seed is not None:
        values["seed"] = seed
    if start is not None:
        values["start"] = str(start)
    if split_groups:
        values["split_groups"] = True
    for key, value in _changes(change or []):
        group, _, name = key.rpartition(".")
        _nested(values, [group or "training", name], value)
    if epochs is not None:
        _nested(values, ["training", "max_epochs"], epochs)
    if threads is not None:
        _nested(values, ["training", "num_threads"], threads)
    plan = training_plan(values, where=str(settings or "command line"))
    if "num_threads" not in plan.training and (asked := threads_asked_for()) is not None:
        plan.training["num_threads"] = asked
    first = first_process()
    shown = first and not (quiet or as_json)
    with stop_signals(), _progress(plan.settings().max_epochs, shown=shown) as show:
        say = (lambda text: errors.print(text, highlight=False)) if shown else (lambda text: None)
        try:
            trained = train_folder(plan, output, device=device.value, callback=show, say=say, provenance=_provenance())
        except NoTimeLeftError:
            if first:
                raise
            raise typer.Exit(NO_TIME_STATUS) from None
    if not first:
        return
    record = trained.record
    if as_json:
        print_json({"model": str(trained.model), "trained_now": trained.trained_now, **record})
        return
    if not trained.trained_now:
        console.print(f"{output} was finished before: nothing was trained.", highlight=False)
    print_errors(record["metrics"], title=f"Errors after {record['n_epochs']} epochs ({record['stop_reason']})")
    console.print(f"Model {trained.model}, plots {output / 'errors.html'}", highlight=False, soft_wrap=True)


def print_errors(metrics: list[dict[str, Any]], *, title: str) -> None:
    """Print errors, a row a head and set."""
    scales = {"energy": 1000.0, "forces": 1000.0, "stress": 1000.0}
    print_table(
        [
            "head",
            "set",
            "frames",
            "E MAE (meV/atom)",
            "RMSE",
            "F MAE (meV/A)",
            "RMSE",
            "S MAE (meV/A^3)",
            "RMSE",
        ],
        [
            [
                entry["head"] or "-",
                entry["split"],
                entry["n_frames"],
                *(
                    None if entry.get(f"{q}_{m}") is None else scale * entry[f"{q}_{m}"]
                    for q, scale in scales.items()
                    for m in ("mae", "rmse")
                ),
            ]
            for entry in metrics
        ],
        title=title,
    )


def _from_file(path: Path) -> dict[str, Any]:
    from atomfoundry.engines.foreign import read_mapping

    return read_mapping(path)


def _take_heads(values: dict[str, Any], data: list[str], heads: list[str], valid: list[str]) -> None:
    """Put data and validation sets of the command line into the plan."""
    given: dict[str, list[str]] = {FIRST_HEAD: list(data)} if data else {}
    for item in heads:
        name, equals, path = item.partition("=")
        if not (equals and name and path):
            raise InputError(f"--head '{item}' is not NAME=DATA.", remedy="E.g. --head pt=dataset.")
        given.setdefault(name, []).append(path)
    plans = values.setdefault("heads", {})
    if not isinstance(plans, dict):
        raise ConfigurationError("'heads' is no table of heads.", remedy="E.g. [heads.pt] with data = 'dataset'.")
    for name, plan in plans.items():
        if isinstance(plan, str | list):
            plans[name] = {"data": plan}
    for name, paths in given.items():
        plans[name] = {**plans.get(name, {}), "data": paths}
    if not plans:
        raise InputError("There is nothing to train on.", remedy="Give a dataset, or --head NAME=DATA.")
    for item in valid:
        try:
            values["valid_fraction"] = float(item)
            continue
        except ValueError:
            pass
        name, equals, path = item.partition("=")
        if not equals:
            if len(plans) > 1:
                raise InputError(
                    f"--valid '{item}' does not say for which head.",
                    remedy=f"Give --valid NAME={item}; the heads are {', '.join(plans)}.",
                )
            name, path = next(iter(plans)), item
        if name not in plans:
            raise InputError(f"--valid names no head: '{name}'.", remedy=f"The heads are {', '.join(plans)}.")
        plans[name].setdefault("valid", [])
        plans[name]["valid"] = [*_listed(plans[name]["valid"]), path]


def _listed(value: Any) -> list[Any]:
    return [value] if isinstance(value, str) else list(value)


def _changes(items: list[str]) -> Iterator[tuple[str, Any]]:
    import yaml

    for item in items:
        key, equals, value = item.partition("=")
        if not (equals and key.strip()):
            raise ConfigurationError(f"--set '{item}' is not KEY=VALUE.", remedy="E.g. --set lr=0.001.")
        try:
            read = yaml.safe_load(value)
            # YAML takes 1e-3 for a text
            yield key.strip(), float(read) if isinstance(read, str) and _is_number(read) else read
        except yaml.YAMLError as error:
            raise ConfigurationError(f"--set '{item}' is no YAML: {error}.", remedy="Correct it.") from error


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _nested(values: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a value in nested tables: 'loss.stress_weight' among the training settings is one of the loss."""
    path = [part for key in keys for part in key.split(".")]
    if path[0] not in ("training", "architecture"):
        path.insert(0, "training")
    for key in path[:-1]:
        values = values.setdefault(key, {})
        if not isinstance(values, dict):
            raise ConfigurationError(f"'{'.'.join(path)}': '{key}' is no table.", remedy="Correct the settings.")
    values[path[-1]] = value


@contextmanager
def _progress(epochs: int, *, shown: bool) -> Iterator[Callable[[EpochRecord], None]]:
    """Show epochs and errors while training: on the error stream, where somebody looks."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("epoch"),
        MofNCompleteColumn(),
        BarColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
        console=errors,
        disable=not (shown and errors.is_terminal),
        transient=True,
    ) as progress:
        task = progress.add_task("", total=epochs)

        def show(record: EpochRecord) -> None:
            words = f"loss {record.train_loss:.2e}"
            if record.valid_loss is not None:
                words += f", valid {record.valid_loss:.2e}"
            if record.energy_mae is not None:
                words += f", E {1000 * record.energy_mae:.1f} meV/atom"
            if record.forces_mae is not None:
                words += f", F {1000 * record.forces_mae:.0f} meV/A"
            progress.update(task, completed=record.epoch, description=words)

        yield show


def _provenance() -> dict[str, Any]:
    import platform

    from atomfoundry import __version__
    from atomfoundry.makers.job import git_commit, package_versions

    return {
        "code_version": __version__,
        "git_commit": git_commit(),
        "packages": package_versions(),
        "host": platform.node(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
