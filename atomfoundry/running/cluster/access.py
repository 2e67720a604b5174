"""What a running task reaches: its LaunchPad and its project."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from atomfoundry.errors import RunError
from atomfoundry.results.project import Project, current_project

if TYPE_CHECKING:
    from atomfoundry.results.job_store import FoundryJobStore
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad


def launchpad_of(task: Any) -> FoundryLaunchPad:
    """Return the LaunchPad that a task came from.

    Parameters
    ----------
    task
        A task that FireWorks runs.

    Raises
    ------
    RunError
        In FireWorks' offline mode.
    """
    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    lpad = getattr(task, "launchpad", None)
    if lpad is None:
        raise RunError(
            "FireWorks' offline mode cannot run Atomfoundry's jobs: they need the LaunchPad.",
            remedy="Run 'atomfoundry worker' or 'rlaunch' without '--offline'.",
        )
    return lpad if isinstance(lpad, FoundryLaunchPad) else _own(current_project(), os.getpid())


@lru_cache(maxsize=4)
def _own(project: Project, pid: int) -> FoundryLaunchPad:
    from atomfoundry.running.cluster.launchpad import open_launchpad

    return open_launchpad(project)


@lru_cache(maxsize=4)
def _store(project: Project, pid: int) -> FoundryJobStore:
    return project.job_store()


def store_of(project: Project) -> FoundryJobStore:
    """Return a project's store of outputs, connected once a process.

    Parameters
    ----------
    project
        The project.
    """
    return _store(project, os.getpid())
