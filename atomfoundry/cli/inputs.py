"""``atomfoundry inputs``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import ConfigurationError, InputError

if TYPE_CHECKING:
    from ase import Atoms

_SHOWN = 50


def inputs_command(
    structures: Annotated[
        list[str], typer.Argument(help="Structure files, folders, patterns; or datasets of structures.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the campaign; made or extended.")],
    engine: Annotated[str, typer.Option("--engine", "-e", help="Whose input files, e.g. 'espresso' or 'vasp'.")] = "",
    setting: Annotated[
        list[str] | None,
        typer.Option("--settings", "-s", help="Engine setting KEY=VALUE, or a YAML file of them; repeatable."),
    ] = None,
    plain: Annotated[str, typer.Option("--format", help="'poscar': a POSCAR each, without an engine.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Write input files for calculations started by hand, one folder per structure, and a table of them.

    Run again to add structures: folders that exist are left alone. Read the results with `atomfoundry harvest`.
    """
    from atomfoundry.engines import get_engine, write_campaign
    from atomfoundry.engines.inputs import TABLE

    if bool(engine) == bool(plain):
        raise InputError("Give either --engine or --format poscar.", remedy="E.g. `--engine espresso`.")
    if plain and plain.lower() != "poscar":
        raise InputError(
            f"There is no format '{plain}'.", remedy="Take 'poscar', or --engine for a code's input files."
        )
    if plain and setting:
        raise InputError("A POSCAR has no settings.", remedy="Leave --settings out, or give --engine.")
    chosen = get_engine(engine, **read_settings(setting or [])) if engine else None
    campaign = write_campaign(_frames(structures), output, engine=chosen)
    if as_json:
        print_json(
            {
                "directory": str(output),
                "table": str(output / TABLE),
                "level": chosen.level.label if chosen else None,
                "level_id": chosen.level.id if chosen else None,
                "written": campaign.written,
                "skipped": campaign.skipped,
                "failed": campaign.failed,
            }
        )
    else:
        console.print(
            f"{output}: {len(campaign.written)} folders written, {len(campaign.skipped)} structures skipped that had "
            f"one, {len(campaign.failed)} refused; table {TABLE}",
            highlight=False,
            soft_wrap=True,
        )
        if chosen:
            console.print(f"  level {chosen.level.id}: {chosen.level.label}", highlight=False, soft_wrap=True)
        if campaign.failed:
            print_table(
                ["structure", "reason", "because"],
                [[item["formula"], item["reason"], item["message"]] for item in campaign.failed[:_SHOWN]],
            )
    if campaign.failed:
        raise typer.Exit(1)


def read_settings(items: list[str]) -> dict[str, Any]:
    """Return settings from ``KEY=VALUE`` (the value read as YAML) and YAML files, later ones winning.

    Raises
    ------
    ConfigurationError
        If an item is neither.
    """
    import yaml

    merged: dict[str, Any] = {}
    for item in items:
        key, equals, value = item.partition("=")
        path = Path(item)
        is_file = path.is_file()
        try:
            content = yaml.safe_load(path.read_text() if is_file else value)
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"--settings '{item}' is no YAML: {error}.", remedy="Correct it.") from error
        if is_file and isinstance(content, dict):
            merged.update({str(name): each for name, each in content.items()})
        elif not is_file and equals and key.strip():
            merged[key.strip()] = content
        else:
            raise ConfigurationError(
                f"--settings '{item}' is neither KEY=VALUE nor a YAML file of settings.",
                remedy="E.g. `-s kpoint_spacing=0.2` or `-s settings.yaml`.",
            )
    return merged


def _frames(names: list[str]) -> list[Atoms]:
    from atomfoundry.datasets import Dataset
    from atomfoundry.sources import fetch_structures

    folders = [Path(name) for name in names if (Path(name) / "dataset.json").is_file()]
    files = [name for name in names if Path(name) not in folders]
    frames = fetch_structures(files) if files else []
    return frames + [atoms for folder in folders for atoms in Dataset.open(folder).frames()]
