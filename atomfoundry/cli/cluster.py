"""``atomfoundry submit``, ``worker``, ``cancel`` and ``sweep``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from atomfoundry.cli.console import coloured, console, print_json
from atomfoundry.cli.run import JsonOption, ProjectOption, find_project, flow_maker
from atomfoundry.errors import InputError

RunOption = Annotated[str | None, typer.Option("--run", help="Run id, or its beginning [default: all].")]


def submit_command(
    target: Annotated[str, typer.Argument(help="A shipped preset ('quickstart') or a flow file (YAML).")],
    project: ProjectOption = None,
    structures: Annotated[
        list[str] | None,
        typer.Option("--structures", "-s", help="Your own CIF/POSCAR/extended XYZ files instead; repeatable."),
    ] = None,
    engine: Annotated[str | None, typer.Option(help="Engine that labels the crystals.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Hand a flow to the project's LaunchPad, where workers find its jobs. The same flow is never entered twice."""
    from atomfoundry.running import submit

    maker = flow_maker(target, structures=structures, engine=engine, seed=seed)
    submission = submit(maker.make(), project=find_project(project))
    if as_json:
        print_json(
            {
                "run_id": submission.run_id,
                "name": submission.name,
                "project": str(submission.project.path),
                "n_jobs": submission.n_jobs,
                "n_workflows": submission.n_workflows,
                "n_new_workflows": submission.n_new_workflows,
            }
        )
        return
    console.print(str(submission), highlight=False, soft_wrap=True)
    console.print("Workers take it from here: 'atomfoundry worker', or 'launch.sh' in a queue (see cluster/README.md).")
    console.print(f"Follow it with: atomfoundry status --project {submission.project.path}", soft_wrap=True)


def worker_command(
    mode: Annotated[str | None, typer.Argument(help="FireWorks' word for one job; no effect.", hidden=True)] = None,
    project: ProjectOption = None,
    category: Annotated[
        list[str] | None, typer.Option("--category", "-c", help="Take jobs of this category only; repeatable.")
    ] = None,
    name: Annotated[str, typer.Option(help="FireWorks' name of this worker [default: the host's].")] = "",
    parallel: Annotated[int, typer.Option("--parallel", "-n", min=1, help="Jobs at once, a process each.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Threads of numerical libraries in each job.")] = 1,
    stay: Annotated[bool, typer.Option("--stay", help="Wait for more work for ever (a daemon).")] = False,
    idle: Annotated[float, typer.Option(min=0, help="Seconds without work after which it leaves.")] = 20.0,
    sleep: Annotated[float, typer.Option(min=0, help="Seconds between looks at an empty queue.")] = 1.0,
    max_jobs: Annotated[int, typer.Option(min=0, help="Leave after so many jobs; 0: no limit.")] = 0,
    fw_id: Annotated[int | None, typer.Option("--fw-id", "--fw_id", help="Run this firework only.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Run jobs of the LaunchPad here: FireWorks' rlaunch, made fit to lose nothing.

    It ends before its batch job does and when asked by SIGTERM, SIGUSR1 or SIGUSR2; long jobs keep a checkpoint and
    go on in another allocation. With --parallel each job has a process, and a GPU where there are GPUs.
    """
    from atomfoundry.deadline import stop_signals
    from atomfoundry.results.project import Project
    from atomfoundry.running.cluster.worker import WorkerOptions, log_to_console, visible_gpus, work, work_in_parallel

    if mode not in (None, "singleshot"):
        raise InputError(f"'{mode}' is no word of this command.", remedy="See 'atomfoundry worker --help'.")
    options = WorkerOptions(
        categories=tuple(category or ()),
        name=name,
        stay=stay,
        idle_s=idle,
        sleep_s=sleep,
        max_jobs=max_jobs,
        fw_id=fw_id,
    )
    opened = Project.open(find_project(project))
    if parallel > 1 and fw_id is None:
        code = work_in_parallel(opened, parallel, options, gpus=visible_gpus(), threads=threads)
        raise typer.Exit(1 if code else 0)
    if not as_json:
        log_to_console()
    with stop_signals():
        n_run = work(opened, options)
    if as_json:
        print_json({"n_jobs": n_run})
    else:
        console.print(f"{n_run} jobs run.", highlight=False)


def sweep_command(
    project: ProjectOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only report.")] = False,
    lost_after: Annotated[
        float, typer.Option(min=0, help="Seconds without a heartbeat after which a job is lost.")
    ] = 900.0,
    stuck_after: Annotated[
        float, typer.Option(min=0, help="Seconds after which what should take moments is stuck.")
    ] = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Find and mend what killed workers and daemons have left in the LaunchPad; call it every few minutes (cron)."""
    from atomfoundry.results.project import Project
    from atomfoundry.running.cluster.sweep import sweep

    report = sweep(
        Project.open(find_project(project)), lost_after_s=lost_after, stuck_after_s=stuck_after, dry_run=dry_run
    )
    if as_json:
        print_json(report.as_dict())
        return
    for finding in report.findings:
        console.print(coloured((finding.kind, "bold"), f"  {finding.what}"), highlight=False, soft_wrap=True)
        console.print(f"      {finding.cure}", highlight=False, soft_wrap=True)
    watched = f", {report.n_watched} being watched" if report.n_watched else ""
    found = f"{len(report.findings)} findings" if report.findings else "Nothing to mend"
    console.print(f"{found}; {report.n_running} jobs run{watched}.", highlight=False)


def cancel_command(project: ProjectOption = None, run: RunOption = None, as_json: JsonOption = False) -> None:
    """Cancel what has not started; running jobs end first. 'atomfoundry retry' undoes it."""
    from atomfoundry.running import cancel

    folder = find_project(project)
    n_jobs = cancel(folder, full_run_id(folder, run))
    if as_json:
        print_json({"n_cancelled": n_jobs})
    else:
        console.print(f"{n_jobs} jobs cancelled.", highlight=False)


def full_run_id(project: Path, start: str | None) -> str | None:
    """Complete the beginning of a run's id.

    Raises
    ------
    InputError
        If none, or several, begin so.
    """
    from atomfoundry.running.status import status

    if start is None:
        return None
    found = [run.run_id for run in status(project).runs if run.run_id.startswith(start)]
    if len(found) != 1:
        raise InputError(
            f"{len(found) or 'No'} run(s) of {project} begin with '{start}'.",
            remedy="'atomfoundry status --json' lists the ids.",
        )
    return found[0]
