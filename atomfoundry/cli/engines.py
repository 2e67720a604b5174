"""``atomfoundry engine``: what computes labels here."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from atomfoundry.cli.console import console, print_json, print_table
from atomfoundry.cli.run import JsonOption
from atomfoundry.errors import EngineUnavailableError, InputError

app = typer.Typer(help="What computes labels, and how to get it.", no_args_is_help=True)

INSTALLABLE = ("espresso", "gpaw")


@app.command("list")
def list_command(as_json: JsonOption = False) -> None:
    """List the engines, and whether each can run here."""
    from atomfoundry.engines import get_engine, list_engines

    rows: list[dict[str, Any]] = []
    for name in list_engines():
        try:
            engine = get_engine(name)
            engine.check_available()
        except EngineUnavailableError as error:
            rows.append({"engine": name, "available": False, "level": None, "message": str(error)})
        except InputError as error:
            rows.append({"engine": name, "available": None, "level": None, "message": str(error)})
        else:
            rows.append({"engine": name, "available": True, "level": engine.level.label, "message": ""})
    if as_json:
        print_json(rows)
        return
    words = {True: "yes", False: "no", None: "needs settings"}
    print_table(
        ["engine", "ready", "level of theory", ""],
        [[row["engine"], words[row["available"]], row["level"], row["message"]] for row in rows],
    )


@app.command("install")
def install_command(
    name: Annotated[str, typer.Argument(help="Engine to install: 'espresso' or 'gpaw'.")],
    force: Annotated[bool, typer.Option("--force", help="Install again.")] = False,
) -> None:
    """Install an engine into Atomfoundry's private folder, apart from this environment."""
    if name not in INSTALLABLE:
        raise InputError(
            f"Engine '{name}' cannot be installed by this command.",
            remedy=f"Installable: {', '.join(INSTALLABLE)}. See `atomfoundry engine list` for the others.",
        )
    from atomfoundry.engines import install_espresso, install_gpaw

    install = {"espresso": install_espresso, "gpaw": install_gpaw}[name]
    path = install(force=force)
    console.print(f"Engine '{name}' is in {path}", highlight=False, soft_wrap=True)
