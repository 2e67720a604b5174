"""Running flows: a local runner with worker processes that resumes after any kill, and FireWorks on a cluster."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from atomfoundry.results.progress import report_progress
    from atomfoundry.running.cluster.initialise import init_cluster
    from atomfoundry.running.cluster.submission import Submission, submit
    from atomfoundry.running.cluster.sweep import sweep
    from atomfoundry.running.outcome import JobFailure, RunResult
    from atomfoundry.running.runner import resume, run
    from atomfoundry.running.status import StatusReport, cancel, is_finished, retry

_HOMES = {
    "JobFailure": "atomfoundry.running.outcome",
    "RunResult": "atomfoundry.running.outcome",
    "StatusReport": "atomfoundry.running.status",
    "Submission": "atomfoundry.running.cluster.submission",
    "cancel": "atomfoundry.running.status",
    "init_cluster": "atomfoundry.running.cluster.initialise",
    "is_finished": "atomfoundry.running.status",
    "report_progress": "atomfoundry.results.progress",
    "resume": "atomfoundry.running.runner",
    "retry": "atomfoundry.running.status",
    "run": "atomfoundry.running.runner",
    "submit": "atomfoundry.running.cluster.submission",
    "sweep": "atomfoundry.running.cluster.sweep",
}

__all__ = [
    "JobFailure",
    "RunResult",
    "StatusReport",
    "Submission",
    "cancel",
    "init_cluster",
    "is_finished",
    "report_progress",
    "resume",
    "retry",
    "run",
    "submit",
    "sweep",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
