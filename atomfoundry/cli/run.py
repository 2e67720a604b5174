"""``atomfoundry run``, ``status`` and ``retry``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from atomfoundry.cli.console import coloured, console, print_json, print_table
from atomfoundry.errors import InputError

if TYPE_CHECKING:
    from jobflow import Maker

ProjectOption = Annotated[
    Path | None,
    typer.Option("--project", "-p", help="Project folder [default: ATOMFOUNDRY_PROJECT, else the flow's name]."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
WorkersOption = Annotated[int | None, typer.Option(min=1, help="Worker processes [default: CPU cores].")]


def run_command(
    target: Annotated[str, typer.Argument(help="A shipped preset ('quickstart') or a flow file (YAML).")],
    project: ProjectOption = None,
    structures: Annotated[
        list[str] | None,
        typer.Option("--structures", "-s", help="Your own CIF/POSCAR/extended XYZ files instead; repeatable."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option(help="Engine that labels the crystals, e.g. 'espresso' or 'xtb'.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    workers: WorkersOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No live progress.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Run a flow here, in parallel; run it again to resume. A finished flow is not run again."""
    from atomfoundry.cli.summary import print_summary, summarise
    from atomfoundry.running import is_finished, run
    from atomfoundry.settings import settings

    maker = flow_maker(target, structures=structures, engine=engine, seed=seed)
    folder = project or settings().project or Path(Path(target).stem)
    flow = maker.make()
    # what is finished needs no engine: it may be gone by now
    if hasattr(maker, "check") and not is_finished(flow, folder):
        maker.check()
    result = run(flow, project=folder, workers=workers or settings().workers, progress=not (quiet or as_json))
    summary = summarise(folder, result)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
    if not result.ok:
        raise typer.Exit(1)


def flow_maker(target: str, *, structures: list[str] | None, engine: str | None, seed: int | None) -> Maker:
    """Return the Maker that a preset or a flow file names, with what the command line changes."""
    from atomfoundry.workflows.flow_file import flow_file_arguments, list_presets, load_flow_file, load_preset

    overrides: dict[str, Any] = {}
    if seed is not None:
        overrides["seed"] = seed
    is_preset = target in list_presets()
    maker = load_preset(target, overrides) if is_preset else load_flow_file(target, overrides)
    if engine is not None:
        _need(maker, "with_engine", "--engine")
        maker = maker.with_engine(engine)
    if structures:
        _need(maker, "with_structures", "--structures")
        chosen = {} if is_preset else flow_file_arguments(target)
        maker = maker.with_structures(structures, keep=chosen.get("crystal_labels", {}).get("engine_settings", {}))
    return maker


def _need(maker: Maker, method: str, option: str) -> None:
    if not hasattr(maker, method):
        raise InputError(f"{type(maker).__name__} takes no {option}.", remedy="Put it into the flow file's arguments.")


def status_command(project: ProjectOption = None, as_json: JsonOption = False) -> None:
    """Show what runs, what is done, what failed and why."""
    from atomfoundry.running.status import status

    report = status(find_project(project))
    if as_json:
        print_json(report.as_dict())
        return
    for run in report.runs:
        counts = ", ".join(f"{n} {state.lower()}" for state, n in run.states.items())
        counts = counts or "no jobs: its submission did not come to its end; submit it again"
        console.print(coloured((run.name, "bold"), f"  {counts}"), highlight=False, soft_wrap=True)
        print_table(
            ["stage", "done", "of", "failed", "running"],
            [[s.name, s.completed, s.total, s.failed, s.running] for s in run.stages],
        )
        for failure in run.failures:
            said = coloured(("failed", "red"), f" {failure.name}: {failure.message}")
            console.print(said, highlight=False, soft_wrap=True)
            where = f"{failure.folder} on {failure.host}" if failure.host else str(failure.folder)
            console.print(f"       folder {where}", highlight=False, soft_wrap=True)
            for line in failure.log.splitlines():
                console.print(f"       | {line}", highlight=False, soft_wrap=True)
        if run.failures:
            console.print("       Mend the cause, then: atomfoundry retry", highlight=False)


def retry_command(project: ProjectOption = None, workers: WorkersOption = None, as_json: JsonOption = False) -> None:
    """Run failed, blocked and cancelled jobs again; in a project with a LaunchPad the workers run them."""
    from atomfoundry.cli.summary import print_summary, summarise
    from atomfoundry.results.project import Project
    from atomfoundry.running import resume, retry
    from atomfoundry.running.status import has_launchpad

    folder = find_project(project)
    if has_launchpad(Project.open(folder)):
        n_jobs = retry(folder)
        if as_json:
            print_json({"n_set_back": n_jobs})
        else:
            console.print(f"{n_jobs} jobs set back; workers take them from here.", highlight=False)
        return
    result = resume(folder, workers=workers, progress=not as_json, retry_failed=True)
    summary = summarise(folder, result)
    if as_json:
        print_json(summary)
    else:
        print_summary(summary)
    if not result.ok:
        raise typer.Exit(1)


def find_project(project: Path | None) -> Path:
    """Return the project folder meant: the option, the setting, the folder here, or ``./quickstart``."""
    from atomfoundry.settings import settings

    for candidate in (project, settings().project):
        if candidate is not None:
            return candidate
    for candidate in (Path(), Path("quickstart")):
        if (candidate / "project.json").is_file():
            return candidate
    raise InputError("No project folder here.", remedy="Give --project DIR.")
