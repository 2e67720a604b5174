"""What orchestration costs: jobs a second of the local runner and of FireWorks, and a campaign's cost per label.

    python perf/orchestration.py [--parts local parallel fireworks campaign] [--jobs 500] [--repeat 3]

``local``      trivial jobs, independent and in a chain: jobflow's ``run_locally`` on a store in memory; ours in a
               temporary project (``project=None``), in a project folder, and there with a worker process.
``parallel``   jobs that use one core each, with one and with two worker processes; needs two free cores.
``fireworks``  the same trivial jobs through FireWorks on a database in memory (mongomock): jobflow's
               ``flow_to_workflow`` and ``rapidfire`` against ``submit`` and a worker of ours.
``campaign``   labels of a Cu dimer with ASE's EMT through ``LabelMaker``, cost per label by the number of labels.
               Mongomock reads a whole collection for each question, so its share grows with the campaign; what is
               asked of a real server is measured by ``mongo_traffic.py``.

Prints JSON. Each round runs all competitors; ratios are the median of the rounds' ratios, over 1 means that ours is
slower. "cpu" is processor time, children included: on a shared machine it is the figure to read. Temporary projects
and folders are made in TMPDIR; /dev/shm takes the disk out of the comparison.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orchestration_jobs
from ase import Atoms
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore

from atomfoundry.datasets import Dataset
from atomfoundry.documents import StructureSetDoc
from atomfoundry.makers.label import LabelMaker
from atomfoundry.results import Project
from atomfoundry.running import run

Seconds = dict[str, float]


def cpu_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def timed(work: Callable[[], object]) -> Seconds:
    wall, cpu = time.perf_counter(), cpu_time()
    work()
    return {"wall": time.perf_counter() - wall, "cpu": cpu_time() - cpu}


def race(makers: dict[str, Callable[[Path], Callable[[], object]]], *, repeat: int) -> list[dict[str, Seconds]]:
    """Run each competitor once a round; what it prepares is not counted."""
    rounds = []
    for _ in range(repeat):
        times = {}
        for name, make in makers.items():
            with tempfile.TemporaryDirectory() as folder:
                work = make(Path(folder))
                times[name] = timed(work)
        rounds.append(times)
    return rounds


def ratio(rounds: list[dict[str, Seconds]], over: str, under: str, what: str) -> float:
    return round(statistics.median(times[over][what] / times[under][what] for times in rounds), 3)


def summary(rounds: list[dict[str, Seconds]], n: int, reference: str) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for name in rounds[0]:
        wall, cpu = (statistics.median(times[name][what] for times in rounds) for what in ("wall", "cpu"))
        report[name] = {"jobs_per_s": round(n / wall, 1), "cpu_ms_per_job": round(1e3 * cpu / n, 3)}
        if name != reference:
            report[name] |= {f"{what}_ratio": ratio(rounds, name, reference, what) for what in ("wall", "cpu")}
    return report


def ours(flow: Any, folder: Path | None, workers: int) -> Callable[[], object]:
    project = None if folder is None else folder / "project"
    return lambda: run(flow, project=project, workers=workers, progress=False, ensure_success=True)


def compare_local(n: int, workers: Sequence[int], repeat: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for kind in ("independent", "chained"):
        build = getattr(orchestration_jobs, kind)

        def jobflow(folder: Path, build: Callable = build) -> Callable[[], object]:
            flow, store = build(n), JobStore(MemoryStore())
            return lambda: run_locally(flow, store=store, log=False, root_dir=folder, ensure_success=True)

        makers: dict[str, Callable[[Path], Callable[[], object]]] = {
            "run_locally": jobflow,
            "temporary": lambda folder, build=build: ours(build(n), None, 0),
            "project": lambda folder, build=build: ours(build(n), folder, 0),
        }
        for count in workers:
            makers[f"project_{count}_workers"] = lambda folder, build=build, count=count: ours(build(n), folder, count)
        report[kind] = summary(race(makers, repeat=repeat), n, "run_locally")
    return {"jobs": n, **report}


def compare_parallel(n: int, rounds: int, repeat: int) -> dict[str, Any]:
    makers: dict[str, Callable[[Path], Callable[[], object]]] = {
        f"{count}_workers": lambda folder, count=count: ours(orchestration_jobs.spinning(n, rounds), folder, count)
        for count in (1, 2)
    }
    times = race(makers, repeat=repeat)
    return {
        "jobs": n,
        "wall_seconds": {name: round(statistics.median(t[name]["wall"] for t in times), 2) for name in makers},
        "one_over_two": ratio(times, "1_workers", "2_workers", "wall"),
        "cpu_two_over_one": ratio(times, "2_workers", "1_workers", "cpu"),
        "cores": len(os.sched_getaffinity(0)),
    }


class MockedMongo:
    """FireWorks on a database in this process's memory; set before its first import."""

    # mongomock writes its file when the process ends; what was made first is removed last
    folder: tempfile.TemporaryDirectory

    def __init__(self) -> None:
        type(self).folder = tempfile.TemporaryDirectory()
        path = Path(self.folder.name) / "mongomock.json"
        path.write_text("{}")
        os.environ["MONGOMOCK_SERVERSTORE_FILE"] = str(path)

    def bare(self, flow: Any, folder: Path) -> Callable[[], object]:
        """Give the work of FireWorks and jobflow alone, on an empty database of its own."""
        from fireworks.core.fworker import FWorker
        from fireworks.core.launchpad import LaunchPad
        from fireworks.core.rocket_launcher import rapidfire
        from jobflow import SETTINGS
        from jobflow.managers.fireworks import flow_to_workflow

        lpad = LaunchPad(name="bare", strm_lvl="ERROR")
        lpad.reset("", require_password=False)
        SETTINGS.JOB_STORE = JobStore(MemoryStore())

        def work() -> None:
            lpad.add_wf(flow_to_workflow(flow))
            with contextlib.chdir(folder):
                rapidfire(lpad, FWorker(), nlaunches=0, sleep_time=0, strm_lvl="ERROR")
            assert lpad.get_fw_ids({"state": {"$ne": "COMPLETED"}}) == []

        return work

    def ours(self, flow: Any, project: Project) -> tuple[Callable[[], object], Callable[[], int]]:
        """Give our submission and our worker, on an empty database of their own."""
        from atomfoundry.running.cluster.launchpad import open_launchpad
        from atomfoundry.running.cluster.submission import submit
        from atomfoundry.running.cluster.worker import WorkerOptions, work

        lpad = open_launchpad(project)
        lpad.reset("", require_password=False)

        def go() -> int:
            n_run = work(project, WorkerOptions(idle_s=0.0, sleep_s=0.0), launchpad=lpad)
            assert lpad.get_fw_ids({"state": {"$ne": "COMPLETED"}}) == []
            return n_run

        return lambda: submit(flow, project=project, launchpad=lpad), go


def compare_fireworks(mongo: MockedMongo, n: int, repeat: int) -> dict[str, Any]:
    report: dict[str, Any] = {}
    for kind in ("independent", "chained"):
        build = getattr(orchestration_jobs, kind)

        def foundry(folder: Path, build: Callable = build) -> Callable[[], object]:
            submitting, working = mongo.ours(build(n), Project.open_or_create(folder / "project"))
            return lambda: (submitting(), working())

        makers: dict[str, Callable[[Path], Callable[[], object]]] = {
            "fireworks": lambda folder, build=build: mongo.bare(build(n), folder),
            "ours": foundry,
        }
        report[kind] = summary(race(makers, repeat=repeat), n, "fireworks")
    return {"jobs": n, **report}


def structures(project: Project, n: int) -> StructureSetDoc:
    lengths = np.linspace(2.0, 3.0, n)
    frames = [Atoms("Cu2", positions=[[0, 0, 0], [x, 0, 0]], cell=[12.0] * 3) for x in lengths]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "structures"
        Dataset.create(path, frames, name="dimers")
        artifact = project.artifacts.put(path)
    return StructureSetDoc(name="dimers", n_structures=n, elements=["Cu"], structures=artifact)


def campaign(n: int, folder: Path, *, isolate: bool) -> tuple[Project, Any]:
    project = Project.open_or_create(folder / "project")
    maker = LabelMaker.with_calculator({"calculator_class": "ase.calculators.emt.EMT"}, isolate=isolate)
    return project, maker.make(structures(project, n))


def per_label(seconds: Seconds, n: int) -> dict[str, float]:
    return {f"{what}_ms_per_label": round(1e3 * value / n, 3) for what, value in seconds.items()}


def flatness(sizes: dict[str, dict[str, float]]) -> float:
    """Return the cost per label of the largest campaign over that of the smallest; 1 is flat."""
    costs = [size["cpu_ms_per_label"] for size in sizes.values()]
    return round(costs[-1] / costs[0], 3)


def compare_campaigns(
    sizes: Sequence[int], fireworks_sizes: Sequence[int], mongo: MockedMongo | None
) -> dict[str, Any]:
    local: dict[str, dict[str, float]] = {}
    cluster: dict[str, dict[str, float]] = {}
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            # in this process, where the child of an isolated engine would escape the measurement of CPU time
            project, job = campaign(n, Path(folder), isolate=False)
            seconds = timed(lambda job=job, project=project: run(job, project=project, workers=0, progress=False))
            assert project.labels().count({"status": "ok"}) == n
            local[str(n)] = per_label(seconds, n)
    for n in fireworks_sizes if mongo else ():
        with tempfile.TemporaryDirectory() as folder:
            project, job = campaign(n, Path(folder), isolate=False)
            submitting, working = mongo.ours(job, project)
            submitted, worked = timed(submitting), timed(working)
            assert project.labels().count({"status": "ok"}) == n
            cluster[str(n)] = {"submission_s": round(submitted["wall"], 4), **per_label(worked, n)}
    return {
        "local": local,
        "local_growth": flatness(local),
        **({"fireworks": cluster, "fireworks_growth": flatness(cluster)} if cluster else {}),
    }


def main() -> None:
    """Race, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = ("local", "parallel", "fireworks", "campaign")
    parser.add_argument("--parts", nargs="+", choices=known, default=known)
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--workers", type=int, nargs="*", default=[1])
    parser.add_argument("--spinning-jobs", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=1_000_000, help="of a job that uses one core")
    parser.add_argument("--nodes", type=int, default=100, help="of the workflow for FireWorks")
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 1000, 10000])
    parser.add_argument("--fireworks-labels", type=int, nargs="*", default=[100, 1000])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    report: dict[str, Any] = {"tmpdir": tempfile.gettempdir()}
    mongo = None
    if "fireworks" in options.parts or ("campaign" in options.parts and options.fireworks_labels):
        mongo = MockedMongo()
    # so that no competitor pays for imports
    race({"warm": lambda path: ours(orchestration_jobs.independent(2), path, 0)}, repeat=1)
    if "local" in options.parts:
        report["local"] = compare_local(options.jobs, options.workers, options.repeat)
    if "parallel" in options.parts:
        report["parallel"] = compare_parallel(options.spinning_jobs, options.rounds, options.repeat)
    if mongo is not None and "fireworks" in options.parts:
        report["fireworks"] = compare_fireworks(mongo, options.nodes, options.repeat)
    if "campaign" in options.parts:
        report["campaign"] = compare_campaigns(options.labels, options.fireworks_labels, mongo)
    report["load"] = [round(value, 2) for value in os.getloadavg()]
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
