"""A worker process: takes ready jobs until the run is finished, it is to stop, or the runner is gone."""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import logging
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path

from atomfoundry.deadline import NO_TIME_STATUS, must_stop, stop_signals
from atomfoundry.errors import StorageError
from atomfoundry.results.project import Project, use_project
from atomfoundry.running.execution import HoldingStore, execute
from atomfoundry.running.processes import host_name, process_start
from atomfoundry.running.queue import Queue

HEARTBEAT_S = 5.0
LONGEST_NAP_S = 0.02
STORAGE_STATUS = 74
"""Exit status of a worker that could not go on for want of disk or database (EX_IOERR); its last line says why."""


def work(project: Project, run_id: str, worker: str, *, alone: bool = False) -> bool:
    """Run a run's jobs until none is open, or until nothing new may be begun.

    Parameters
    ----------
    project
        The project.
    run_id
        The run.
    worker
        This worker's id.
    alone
        Work inside the runner's own process: what jobs print is shown, and nobody else looks after deadlocks.

    Returns
    -------
    bool
        False if a job found no time left, so that another worker could not go on either.

    Raises
    ------
    StorageError
        If the disk is full or the database cannot be used.
    """
    queue = Queue(project.queue_path)
    store = HoldingStore(project.job_store())
    nap = 0.001
    seen = -1
    go_on = True
    with use_project(project):
        while not must_stop():
            claim = queue.claim(run_id, worker)
            if claim is not None:
                if not execute(claim, worker, project=project, queue=queue, store=store, capture=not alone):
                    go_on = False
                    break
                nap, seen = 0.001, -1
                continue
            if queue.is_finished(run_id):
                break
            if alone:
                queue.block_deadlocked(run_id)
                continue
            # Nothing can have become ready unless somebody else wrote, and asking that is much cheaper.
            while (version := queue.data_version()) == seen and not must_stop():
                time.sleep(nap)
                nap = min(2 * nap, LONGEST_NAP_S)
            seen = version
    store.close()
    queue.close()
    return go_on


def _watch(project: Project, worker: str, pipe: int) -> None:
    """Beat while the runner lives; end this process and all that it started when it does not."""
    queue = Queue(project.queue_path)
    while not select.select([pipe], [], [], HEARTBEAT_S)[0]:
        try:
            queue.beat(worker)
        except StorageError:
            logging.getLogger(__name__).warning("The queue was busy at a heartbeat.")
    # Only the runner holds the other end of the pipe: readable means that it is gone.
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def main(arguments: list[str] | None = None) -> None:
    """Run as ``python -m atomfoundry.running.worker``; started by the runner, not by hand.

    Parameters
    ----------
    arguments
        Command line; default that of the process.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--pipe", type=int, required=True)
    options = parser.parse_args(arguments)
    faulthandler.enable()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    os.set_inheritable(options.pipe, False)
    project = Project.open(options.project)
    status = 1
    try:
        queue = Queue(project.queue_path)
        queue.register(options.worker, options.run, host_name(), os.getpid(), process_start(os.getpid()))
        watcher = threading.Thread(target=_watch, args=(project, options.worker, options.pipe), daemon=True)
        watcher.start()
        with stop_signals():
            status = 0 if work(project, options.run, options.worker) else NO_TIME_STATUS
    except StorageError as error:
        status = STORAGE_STATUS
        with contextlib.suppress(OSError):  # the disk that is full may be this file's
            sys.stderr.write(f"\n{error}\n")
            sys.stderr.flush()
    logging.shutdown()
    os._exit(status)  # all is stored; taking down big libraries properly would only cost time


if __name__ == "__main__":
    main()
