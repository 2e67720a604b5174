"""``atomfoundry doctor``: what is wrong here, and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from atomfoundry.cli.console import coloured, console, print_json
from atomfoundry.cli.run import JsonOption, find_project
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from atomfoundry.doctor import DoctorReport, Finding

SIGNS = {
    "ok": ("ok", "green"),
    "warning": ("warning", "yellow"),
    "problem": ("problem", "bold red"),
    "skipped": ("-", "dim"),
}


def doctor_command(
    project: Annotated[
        Path | None, typer.Option("--project", "-p", help="Project folder to examine too [default: the one here].")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", help="Only this check, or the checks of this area; repeatable.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Examine this machine, a project, its cluster and database; each finding has its cure. Exit code 1: a problem."""
    import warnings

    from atomfoundry.doctor import run_checks

    # what libraries say while they are imported is no finding
    warnings.simplefilter("ignore")
    report = run_checks(_folder(project), only=only)
    if as_json:
        print_json(report.as_dict())
    else:
        _print(report)
    if not report.ok:
        raise typer.Exit(1)


def _folder(project: Path | None) -> Path | None:
    """Return the project meant: one that is named is looked at even where it is broken."""
    if project is not None:
        return project
    try:
        return find_project(None)
    except InputError:  # none here, or settings that cannot be read, which the doctor reports
        return None


def _print(report: DoctorReport) -> None:
    from rich.table import Table

    table = Table(header_style="bold", box=None, pad_edge=False)
    table.add_column("check", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("found", overflow="fold")
    for finding in report.findings:
        table.add_row(finding.check, coloured(SIGNS[finding.status]), finding.message)
    console.print(table, highlight=False)
    _print_cures("What to do", [*report.of("problem"), *report.of("warning")])
    _print_cures("Only if you need it", report.of("skipped"))
    counts = report.counts
    words = [
        _count(counts["problem"], "problem"),
        _count(counts["warning"], "warning"),
        f"{counts['ok']} ok",
        f"{counts['skipped']} not looked at or not there",
    ]
    console.print(f"\n{', '.join(words)} ({report.seconds:.1f} s)", highlight=False)


def _print_cures(title: str, findings: list[Finding]) -> None:
    """Print cures, each on a line that is not folded, so that it can be copied."""
    cures = {(finding.check, finding.cure): None for finding in findings if finding.cure}
    if cures:
        console.print(coloured("\n", (title, "bold")), highlight=False)
    for name, cure in cures:
        console.print(coloured((f"{name}:", "cyan"), f" {cure}"), highlight=False, soft_wrap=True)


def _count(number: int, word: str) -> str:
    return f"{number} {word}{'' if number == 1 else 's'}"
