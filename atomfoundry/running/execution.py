"""Running one claimed job: folder, output, children."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import shutil
import sys
import traceback
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from jobflow import CURRENT_JOB, Flow, Job, Response
from monty.json import MontyDecoder, jsanitize

from atomfoundry.deadline import NoTimeLeftError
from atomfoundry.errors import StorageError
from atomfoundry.results.job_store import FoundryJobStore, with_inputs
from atomfoundry.results.progress import CHECKPOINT_FOLDER, set_progress_sink
from atomfoundry.results.project import Project
from atomfoundry.running.identity import child_names, encode, entries, rename
from atomfoundry.running.queue import Children, Claim, Queue
from atomfoundry.running.trouble import storage_trouble

logger = logging.getLogger(__name__)

LOG_FILE = "job.log"


class HoldingStore(FoundryJobStore):
    """Keeps what a job writes until its children have their lasting uuids, which the output may mention.

    Parameters
    ----------
    store
        The project's store.
    """

    def __init__(self, store: FoundryJobStore) -> None:
        super().__init__(store.docs_store, store.additional_stores, save=store.save, load=store.load)
        self.held: list[tuple[Any, Any, Any]] = []

    def update(self, docs: Any, key: list | str | None = None, save: Any = None) -> None:
        """Keep documents for ``flush``.

        Parameters
        ----------
        docs, key, save
            As in jobflow's ``JobStore``.
        """
        self.held.append((with_inputs(docs), key, save))

    def flush(self, names: dict[str, str]) -> None:
        """Write what was kept.

        Parameters
        ----------
        names
            Old uuid -> new uuid.
        """
        for docs, key, save in self.renamed(names):
            super().update(docs, key, save)
        self.held.clear()

    def renamed(self, names: dict[str, str]) -> list[tuple[Any, Any, Any]]:
        """Return what was kept, with lasting uuids: documents, key and save of each update.

        Parameters
        ----------
        names
            Old uuid -> new uuid.
        """
        if not names:
            return list(self.held)
        made = []
        for docs, key, save in self.held:
            content = docs if isinstance(docs, list) else [docs]
            made.append(([rename(jsanitize(doc, strict=True, allow_bson=True), names) for doc in content], key, save))
        return made


def job_folder(project: Project, uuid: str, index: int) -> Path:
    """Return where a job works.

    Parameters
    ----------
    project
        The project.
    uuid, index
        The job.
    """
    return project.work_dir / f"{uuid}_{index}"


def prepare_folder(folder: Path) -> None:
    """Make a job's folder, empty but for its checkpoint.

    Parameters
    ----------
    folder
        The folder.
    """
    # What a killed attempt left would make the next one differ from an undisturbed one.
    folder.mkdir(exist_ok=True)
    for item in folder.iterdir():
        if item.name == CHECKPOINT_FOLDER:
            continue
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def tidy_folder(folder: Path) -> None:
    """Remove a completed job's checkpoint and empty log, and its folder unless it has left files there.

    Parameters
    ----------
    folder
        The folder.
    """
    shutil.rmtree(folder / CHECKPOINT_FOLDER, ignore_errors=True)
    log = folder / LOG_FILE
    if log.exists() and log.stat().st_size == 0:
        log.unlink()
    with contextlib.suppress(OSError):  # not empty: the job has left files, which stay
        folder.rmdir()


@contextlib.contextmanager
def inside(folder: Path, *, capture: bool) -> Iterator[None]:
    """Work in a folder; with ``capture`` all that the job and its programs print goes to a file there."""
    before = Path.cwd()
    os.chdir(folder)
    saved: list[int] = []
    if capture:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = [os.dup(1), os.dup(2)]
        log = os.open(LOG_FILE, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    try:
        yield
    finally:
        if saved:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)
        os.chdir(before)


def seed_global_generators(claim: Claim) -> None:
    """Seed the generators of Python and NumPy that belong to the whole process.

    Parameters
    ----------
    claim
        The job.
    """
    # Jobs are to seed their own generators. For code that forgets, the outcome must at least not depend on
    # which jobs this process ran before.
    import numpy as np

    seed = int(claim.uuid.replace("-", "")[:8], 16) + claim.index
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


def name_children(claim: Claim, job: Job, response: Response) -> tuple[dict[str, str], list[Children]]:
    """Name the flows that a job returned, and turn them into queue entries."""
    parts = [(response.replace, True), (response.detour, True), (response.addition, False)]
    flows = [(flow, waited_for) for flow, waited_for in parts if isinstance(flow, Flow)]
    names = child_names(claim.uuid, claim.index, [flow for flow, _ in flows])
    inherited: dict[str, Any] = {"spawned_by": {"uuid": claim.uuid, "index": claim.index}}
    if "stage" in (job.metadata or {}):
        inherited["stage"] = job.metadata["stage"]
    groups = []
    for flow, waited_for in flows:
        made = entries(flow, flow.as_dict(), names, metadata=inherited)
        # What only stores a replacement's output belongs to the stage of the job it stands for.
        made = [replace(e, stage=claim.stage) if e.uuid == claim.uuid else e for e in made]
        groups.append(Children(made, waited_for))
    return names, groups


def _show(queue: Queue, claim: Claim, message: str, fraction: float | None) -> None:
    # What a job says about itself must not be able to end it.
    with contextlib.suppress(StorageError):
        queue.set_message(claim.id, message, fraction)


def execute(claim: Claim, worker: str, *, project: Project, queue: Queue, store: HoldingStore, capture: bool) -> bool:
    """Run a claimed job, store its output, enter its children, and mark it completed or failed.

    Parameters
    ----------
    claim
        The job.
    worker
        Who runs it.
    project, queue, store
        Where it belongs.
    capture
        Send what it prints to ``job.log`` in its folder.

    Returns
    -------
    bool
        False if the job found no time left in this process: it is ready again, and nothing else should be begun.

    Raises
    ------
    StorageError
        If the disk is full or the database cannot be used. The job is not to blame and is left to a later run, unless
        it was the third time.
    """
    folder = job_folder(project, claim.uuid, claim.index)
    store.held.clear()
    try:
        prepare_folder(folder)
        seed_global_generators(claim)
        set_progress_sink(lambda message, fraction: _show(queue, claim, message, fraction))
        with inside(folder, capture=capture):
            # a job is code: who may write it may run anything here, unlike a result (documents.decoding)
            job: Job = MontyDecoder().process_decoded(json.loads(claim.payload))
            response = job.run(store=store)
        names, groups = name_children(claim, job, response)
        data = response.stored_data
        stored_data = None if data is None else encode(jsanitize(data, strict=True, enum_values=True))
        store.flush(names)
    except NoTimeLeftError as error:
        CURRENT_JOB.reset()
        logger.warning("%s is left to a later run: %s", claim.name, error)
        queue.give_back(worker)
        return False
    except (Exception, SystemExit) as error:
        CURRENT_JOB.reset()  # jobflow forgets this where a job raises
        trouble = storage_trouble(error)
        if trouble is not None:
            with contextlib.suppress(StorageError):  # then it stays marked as running, and the next run takes it back
                queue.give_back(worker, crash=trouble.message)
            raise StorageError(f"'{claim.name}' could not be run: {trouble.message}", remedy=trouble.remedy) from error
        text = traceback.format_exc()
        logger.warning("%s failed: %s", claim.name, text.strip().splitlines()[-1])
        queue.fail(claim, worker, text)
        return True
    finally:
        set_progress_sink(None)
    queue.complete(
        claim,
        worker,
        children=groups,
        stop_children=response.stop_children,
        stop_flow=response.stop_jobflow,
        stored_data=stored_data,
    )
    tidy_folder(folder)
    return True
