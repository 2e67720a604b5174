"""Run the checks: several at a time, none longer than its limit, none able to end the others."""

from __future__ import annotations

import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from atomfoundry.doctor.findings import DoctorReport, Finding
from atomfoundry.doctor.registry import Check, choose
from atomfoundry.doctor.world import UnansweredError, World
from atomfoundry.errors import AtomfoundryError

AT_ONCE = 4
"""Checks that run at the same time; what hangs is not counted."""
SHORT_LIMIT_S = 2.0
"""Limit of the checks that are begun when ``MANY_HUNG`` have hung: on a dead file server nearly all will."""
MANY_HUNG = 3
FOLDER_LIMIT_S = 10.0

Outcome = list[Finding] | BaseException


def run_checks(
    project: str | Path | None = None, *, only: str | Sequence[str] | None = None, world: World | None = None
) -> DoctorReport:
    """Examine this machine, and a project with its cluster folder and database.

    Parameters
    ----------
    project
        The project folder; without one nothing of a project is looked at.
    only
        Names of checks or areas; default: all.
    world
        What to look at instead of this machine as it is.

    Returns
    -------
    DoctorReport
        What was found; a check that fails or hangs is a finding too.

    Raises
    ------
    InputError
        If ``only`` has an unknown name.
    """
    started = time.monotonic()
    world = world or World(project)
    chosen = choose([only] if isinstance(only, str) else only)
    left_out, checks = _possible(chosen, world)
    outcomes = examine(checks, world)
    findings: list[Finding] = []
    unanswered: dict[str, list[str]] = {}
    for each, outcome in zip(checks, outcomes, strict=True):
        if isinstance(outcome, UnansweredError):
            unanswered.setdefault(str(outcome), []).append(each.name)
        elif isinstance(outcome, BaseException):
            findings.append(_failure(each, outcome))
        else:
            findings += outcome
    for reason, names in unanswered.items():
        findings.append(Finding(names[0], "skipped", f"Not checked, {reason}: {', '.join(names)}."))
    return DoctorReport(
        findings=(*findings, *left_out),
        project=None if world.project is None else str(world.project),
        seconds=time.monotonic() - started,
    )


def _possible(checks: Sequence[Check], world: World) -> tuple[list[Finding], list[Check]]:
    """Leave out what there is nothing of: one line for the project, one for the cluster."""
    absent = []
    areas: set[str] = set()
    if world.project is None:
        areas |= {"project"}
        absent.append(
            Finding(
                "project",
                "skipped",
                "No project folder was named or found here.",
                "atomfoundry doctor --project DIR",
            )
        )
    has_cluster = _in_time(lambda: world.has_cluster, FOLDER_LIMIT_S)
    if has_cluster is None:
        areas |= {"project", "cluster", "database"}
        absent.append(
            Finding(
                "project",
                "problem",
                f"The folder {world.project} gave no answer in {FOLDER_LIMIT_S:g} s: its file system hangs.",
                f"df {world.project}; mount | grep nfs; ask for the file server's state.",
            )
        )
    elif not has_cluster:
        areas |= {"cluster", "database"}
        where = "" if world.project is None else f" ({world.project / 'cluster'} does not exist)"
        absent.append(Finding("cluster", "skipped", f"No cluster folder{where}: nothing of a cluster is checked."))
    asked = {check.area for check in checks}
    shown = [
        finding for finding in absent if finding.check in asked or (finding.check == "cluster" and "database" in asked)
    ]
    if has_cluster is None and not shown and asked & areas:
        shown = absent
    return shown, [check for check in checks if check.area not in areas]


def _in_time(function: Callable[[], bool], limit: float) -> bool | None:
    """Ask a question in a thread; None if it is not answered in time."""
    answers: queue.Queue[bool] = queue.Queue()
    threading.Thread(target=lambda: answers.put(function()), daemon=True).start()
    try:
        return answers.get(timeout=limit)
    except queue.Empty:
        return None


def examine(checks: Sequence[Check], world: World) -> list[Outcome]:
    """Ask all checks, each in a thread of its own.

    A thread that hangs, on a dead file server for example, is left behind: it is a daemon and does not keep the
    process alive.

    Parameters
    ----------
    checks
        The checks.
    world
        What they look at.

    Returns
    -------
    list
        What each found or raised, in the order of ``checks``; ``TimeoutError`` for those given up.
    """
    outcomes: dict[int, Outcome] = {}
    answers: queue.Queue[tuple[int, Outcome]] = queue.Queue()
    waiting = list(range(len(checks)))[::-1]
    deadlines: dict[int, float] = {}
    limits: dict[int, float] = {}

    def ask(number: int) -> None:
        try:
            answer: Outcome = checks[number](world)
        except BaseException as error:  # noqa: BLE001, RUF100 - a check must not end the doctor, whatever it raises
            answer = error
        answers.put((number, answer))

    while waiting or deadlines:
        while waiting and len(deadlines) < AT_ONCE:
            number = waiting.pop()
            hung = sum(isinstance(outcome, TimeoutError) for outcome in outcomes.values())
            limits[number] = checks[number].limit if hung < MANY_HUNG else min(checks[number].limit, SHORT_LIMIT_S)
            deadlines[number] = time.monotonic() + limits[number]
            threading.Thread(target=ask, args=(number,), daemon=True, name=f"doctor-{checks[number].name}").start()
        try:
            number, outcome = answers.get(timeout=max(0.0, min(deadlines.values()) - time.monotonic()))
        except queue.Empty:
            now = time.monotonic()
            for number in [each for each, deadline in deadlines.items() if deadline <= now]:
                del deadlines[number]
                outcomes[number] = TimeoutError(f"no answer in {limits[number]:g} s")
            continue
        if number in deadlines:  # else it was given up
            del deadlines[number]
            outcomes[number] = outcome
    return [outcomes[number] for number in range(len(checks))]


def _failure(check: Check, error: BaseException) -> Finding:
    """Turn what a check raised into a finding."""
    if isinstance(error, AtomfoundryError):
        return Finding(
            check.name, "problem", error.message, error.remedy or f"atomfoundry doctor --only {check.name} --json"
        )
    if isinstance(error, TimeoutError) and str(error).startswith("no answer in"):
        return Finding(
            check.name,
            "problem",
            f"The check had {error}: a file system, a database or a program hangs.",
            f"Find what hangs, then: atomfoundry doctor --only {check.name} ({check.title.rstrip('.')})",
            {"limit_s": check.limit},
        )
    lines = traceback.format_exception(error)
    return Finding(
        check.name,
        "problem",
        f"The check itself failed: {type(error).__name__}: {error}".rstrip(": ") + ".",
        f"Report what 'atomfoundry doctor --only {check.name} --json' prints.",
        {"traceback": "".join(lines)[-4000:]},
    )
