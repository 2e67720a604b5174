"""``atomfoundry init``: make a project ready for a cluster."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from atomfoundry.cli.console import coloured, console, print_json
from atomfoundry.errors import InputError

app = typer.Typer(help="Make a project ready.", no_args_is_help=True)


@app.callback()
def _root() -> None:
    """Make a project ready."""


@app.command("cluster")
def init_cluster_command(
    folder: Annotated[Path, typer.Argument(help="The project's folder, where all nodes see it.")] = Path(),
    scheduler: Annotated[str | None, typer.Option(help="slurm, pbs or none.")] = None,
    host: Annotated[str | None, typer.Option(help="Machine of the MongoDB server, or a mongodb:// address.")] = None,
    port: Annotated[int | None, typer.Option(help="Its port [default: 27017].")] = None,
    database_name: Annotated[
        str | None, typer.Option(help="Name of the database [default: atomfoundry_FOLDER].")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Its user [default: atomfoundry]; '' for one without authentication (tests).")
    ] = None,
    auth_source: Annotated[
        str | None, typer.Option(help="Database that knows the user [default: the database].")
    ] = None,
    replica_set: Annotated[str | None, typer.Option(help="Name of the replica set, if it is one.")] = None,
    tls: Annotated[bool | None, typer.Option("--tls/--no-tls", help="Encrypt the connection.")] = None,
    tls_ca_file: Annotated[Path | None, typer.Option(help="Certificate of who signed the server's.")] = None,
    results: Annotated[str | None, typer.Option(help="mongodb, or sqlite on a single host [default: mongodb].")] = None,
    cpu_partition: Annotated[str | None, typer.Option(help="Partition or queue of CPU nodes.")] = None,
    gpu_partition: Annotated[str | None, typer.Option(help="Partition or queue of GPU nodes.")] = None,
    account: Annotated[str | None, typer.Option(help="Account that jobs are charged to.")] = None,
    modules: Annotated[
        list[str] | None, typer.Option(help="Environment modules to load, e.g. 'gcc/13.2 cuda/12.4'; repeatable.")
    ] = None,
    python: Annotated[Path | None, typer.Option(help="Interpreter on the nodes [default: this one].")] = None,
    generate_password: Annotated[
        bool, typer.Option("--generate-password", help="Make the passwords of a new database server.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that differ, all but profiles.yaml.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output; asks nothing.")] = False,
) -> None:
    """Write what a cluster needs into the project: database, queue, workers, timers, images.

    The password comes from ATOMFOUNDRY_MONGODB_PASSWORD, or is generated, or asked for; it is no option. The same
    command again changes nothing.
    """
    from atomfoundry.running.cluster.initialise import init_cluster
    from atomfoundry.running.cluster.passwords import PASSWORD_VARIABLE

    answers: dict[str, Any] = {
        "scheduler": scheduler,
        "host": host,
        "port": port,
        "database_name": database_name,
        "user": user,
        "auth_source": auth_source,
        "replica_set": replica_set,
        "tls": tls,
        "tls_ca_file": tls_ca_file,
        "results": results,
        "cpu_partition": cpu_partition,
        "gpu_partition": gpu_partition,
        "account": account,
        "modules": [word for text in modules for word in text.replace(",", " ").split()] if modules else None,
        "python": python,
    }
    terminal = _is_terminal() and not as_json
    _complete(answers, folder, terminal=terminal)

    def ask_password() -> str:
        return typer.prompt(f"Password of the database's user [{PASSWORD_VARIABLE}]", hide_input=True, err=True)

    setup = init_cluster(
        folder,
        generate_password=generate_password,
        ask_password=ask_password if terminal else None,
        force=force,
        **answers,
    )
    if as_json:
        print_json(setup.as_dict())
        return
    for action in ("written", "unchanged", "kept"):
        names = [str(file.path.relative_to(setup.folder)) for file in setup.files if file.action == action]
        if names:
            console.print(coloured((action, "bold"), f" {', '.join(names)}"), highlight=False)
    for note in setup.notes:
        console.print(coloured(("note", "yellow"), f" {note}"), highlight=False, soft_wrap=True)
    console.print("Next:", highlight=False)
    for command in setup.next_commands:
        console.print(f"  {command}", highlight=False, soft_wrap=True)


def _complete(answers: dict[str, Any], folder: Path, *, terminal: bool) -> None:
    """Ask for what is missing; an error where nobody can be asked."""
    from atomfoundry.running.cluster.answers import ClusterAnswers
    from atomfoundry.running.cluster.layout import ClusterLayout

    if ClusterAnswers.read(ClusterLayout(folder.expanduser().resolve()).answers):
        return
    if not terminal:
        missing = [f"--{name}" for name in ("scheduler", "host") if answers[name] is None]
        if missing:
            raise InputError(f"Missing: {', '.join(missing)}.", remedy="Give them, or answer on a terminal.")
        return
    if answers["scheduler"] is None:
        answers["scheduler"] = typer.prompt("Scheduler (slurm, pbs, none)", default=_scheduler_here())
    questions = {"host": ("Machine of the MongoDB server", "localhost")}
    if answers["scheduler"] in ("slurm", "pbs"):
        questions["cpu_partition"] = ("Partition or queue of CPU nodes", "")
        questions["gpu_partition"] = ("Partition or queue of GPU nodes (none: training runs on CPUs)", "")
        questions["account"] = ("Account that jobs are charged to", "")
    for name, (question, default) in questions.items():
        if answers[name] is None:
            answers[name] = typer.prompt(question, default=default, show_default=bool(default)) or None


def _is_terminal() -> bool:
    return sys.stdin.isatty()


def _scheduler_here() -> str:
    if shutil.which("sbatch"):
        return "slurm"
    return "pbs" if shutil.which("qsub") else "none"
