"""The ``atomfoundry`` command. Exit codes: 0 done, 1 failed work, 2 wrong use, 75 not at its end: run it again."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from atomfoundry import __version__
from atomfoundry.cli.align import align_command
from atomfoundry.cli.cluster import cancel_command, submit_command, sweep_command, worker_command
from atomfoundry.cli.console import console, fail
from atomfoundry.cli.datasets import app as dataset_app
from atomfoundry.cli.doctor import doctor_command
from atomfoundry.cli.engines import app as engine_app
from atomfoundry.cli.evaluate import evaluate_command
from atomfoundry.cli.export import export_command
from atomfoundry.cli.harvest import harvest_command
from atomfoundry.cli.init import app as init_app
from atomfoundry.cli.inputs import inputs_command
from atomfoundry.cli.migrate import migrate_command
from atomfoundry.cli.provenance import export_crate_command, lineage_command, restore_command, withdraw_command
from atomfoundry.cli.results import ResultsCommand, report_command, results_command
from atomfoundry.cli.run import retry_command, run_command, status_command
from atomfoundry.cli.train import train_command
from atomfoundry.deadline import NO_TIME_STATUS, NoTimeLeftError
from atomfoundry.errors import AtomfoundryError, InputError

app = typer.Typer(
    name="atomfoundry",
    help="From quantum-mechanical calculations to machine-learned interatomic potentials.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        console.print(f"atomfoundry {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """From quantum-mechanical calculations to machine-learned interatomic potentials."""


app.command("run")(run_command)
app.command("status")(status_command)
app.command("retry")(retry_command)
app.command("cancel")(cancel_command)
app.command("submit")(submit_command)
app.command("worker")(worker_command)
app.command("sweep")(sweep_command)
app.command("doctor")(doctor_command)
app.command("results", cls=ResultsCommand)(results_command)
app.command("migrate")(migrate_command)
app.command("lineage")(lineage_command)
app.command("withdraw")(withdraw_command)
app.command("restore")(restore_command)
app.command("export-crate")(export_crate_command)
app.command("report")(report_command)
app.command("harvest")(harvest_command)
app.command("inputs")(inputs_command)
app.command("train")(train_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
dataset_app.command("align")(align_command)
app.add_typer(dataset_app, name="dataset")
app.add_typer(engine_app, name="engine")
app.add_typer(init_app, name="init")


def main() -> None:
    """Run the command line; our own errors become one clear line."""
    try:
        app()
    except InputError as error:
        fail(error)
        sys.exit(2)
    except NoTimeLeftError as error:
        fail(error)
        sys.exit(NO_TIME_STATUS)
    except AtomfoundryError as error:
        fail(error)
        sys.exit(1)
    except Exception as error:
        from atomfoundry.results.mongodb import database_trouble

        if (trouble := database_trouble(error)) is None:
            raise
        fail(trouble)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("Stopped. The same command resumes.")
        sys.exit(1)


if __name__ == "__main__":
    main()
