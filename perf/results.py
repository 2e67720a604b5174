"""Milliseconds of typical questions to a project of many small documents, on SQLite and on MongoDB.

    python perf/results.py --documents 1000000 --labels 1000000 --json results.json

MongoDB is measured where ATOMFOUNDRY_TEST_MONGODB_URI names a server; a database of its own is made and dropped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

from atomfoundry.results import MongoConnection, Project, open_results

URI = "ATOMFOUNDRY_TEST_MONGODB_URI"
CLASSES = ("ModelDoc", "DatasetDoc", "LabelSetDoc", "BenchmarkDoc", "StructureSetDoc")
BATCH = 5000


def job_uuid(i: int) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"job {i}"))


def moment(i: int) -> str:
    return (datetime(2026, 1, 1) + timedelta(seconds=i)).isoformat()


def outputs(number: int) -> Iterator[dict]:
    for i in range(number):
        # every hundredth output is read by a hundred others
        inputs = [{"uuid": job_uuid(i - i % 100), "index": 1}] if i % 100 else []
        yield {
            "uuid": job_uuid(i),
            "index": 1,
            "name": f"job {i % 200}",
            "completed_at": moment(i),
            "metadata": {"stage": f"stage {i % 12}", "profile": "light"},
            "hosts": [],
            "inputs": inputs,
            "output": {"@class": CLASSES[i % 5], "name": f"n{i}", "n_parameters": i % 1000, "energy": -0.5 * i},
        }


def labels(number: int) -> Iterator[dict]:
    for i in range(number):
        failed = i % 20 == 0
        yield {
            "schema_version": 1,
            "frame_id": f"{i // 2:032x}",
            "level_id": f"level{i % 2}",
            "engine": ("espresso", "xtb", "gpaw")[i % 3],
            "status": "failed" if failed else "ok",
            "reason": ("unconverged", "crashed", "nan")[i % 3] if failed else None,
            "energy": None if failed else -1.0 * i,
            "job_uuid": job_uuid(i // 50),
            "computed_at": moment(i),
        }


def questions(project: Project, number: int, n_labels: int) -> dict[str, Callable[[], object]]:
    store = project.job_store()
    table = project.labels()
    database = open_results(project)
    hour = {"$gte": moment(number // 2), "$lt": moment(number // 2 + 3600)}
    newest = {"completed_at": -1}
    return {
        "output by uuid": lambda: store.query_one({"uuid": job_uuid(number // 3)}),
        "output by beginning of uuid": lambda: database.find_uuid(job_uuid(number // 3)[:13]),
        "newest 20 of a class": lambda: list(store.query({"output.@class": "ModelDoc"}, sort=newest, limit=20)),
        "newest 20 of a stage": lambda: list(store.query({"metadata.stage": "stage 3"}, sort=newest, limit=20)),
        "newest 20 by job name": lambda: list(store.query({"name": "job 7"}, sort=newest, limit=20)),
        "newest 20 of all": lambda: list(store.query({}, sort=newest, limit=20)),
        "20 of a time range": lambda: list(store.query({"completed_at": hour}, sort={"completed_at": 1}, limit=20)),
        "number of a class": lambda: store.count({"output.@class": "DatasetDoc"}),
        "children of an output": lambda: list(store.query({"inputs.uuid": job_uuid(100)})),
        "labels of 100 frames at a level": lambda: table.get_many([f"{i:032x}" for i in range(100)], "level0"),
        "20 failed labels of an engine": lambda: list(table.query({"engine": "xtb", "status": "failed"}, limit=20)),
        "labels of a job": lambda: list(table.query({"job_uuid": job_uuid(n_labels // 100)})),
        "number of failed labels": lambda: table.count({"status": "failed"}),
        "number of labels of a level": lambda: table.count({"level_id": "level1", "status": "ok"}),
        "labels by status and reason": lambda: table.count_by("status", "reason"),
    }


def measure(project: Project, number: int, n_labels: int, *, repeats: int) -> dict:
    result: dict = {"documents": number, "labels": n_labels}
    for name, make, count, key in (
        ("outputs", outputs, number, ["uuid", "index"]),
        ("labels", labels, n_labels, ["frame_id", "level_id"]),
    ):
        store = project.document_store(name)
        started = time.perf_counter()
        batch: list[dict] = []
        for document in make(count):
            batch.append(document)
            if len(batch) == BATCH:
                store.update(batch, key=key)
                batch = []
        if batch:
            store.update(batch, key=key)
        result[f"fill_{name}_us_per_document"] = round((time.perf_counter() - started) / max(count, 1) * 1e6, 1)
    store = project.document_store("outputs")
    again = list(outputs(200))
    started = time.perf_counter()
    for document in again:
        store.update(document, key=["uuid", "index"])
    result["upsert_of_one_us"] = round((time.perf_counter() - started) / len(again) * 1e6, 1)
    times = {}
    for name, ask in questions(project, number, n_labels).items():
        measured = []
        for _ in range(repeats + 1):
            started = time.perf_counter()
            ask()
            measured.append((time.perf_counter() - started) * 1000)
        times[name] = {"first_ms": round(measured[0], 2), "median_ms": round(statistics.median(measured[1:]), 2)}
        print(f"{name:35s} {times[name]['first_ms']:9.2f} ms first {times[name]['median_ms']:9.2f} ms median")
    result["questions"] = times
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the SQLite project is made [default: a temporary folder]")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        project = Project.open_or_create(Path(folder) / "sqlite")
        print("SQLite")
        results["sqlite"] = measure(project, options.documents, options.labels, repeats=options.repeats)
        results["sqlite"]["file_mb"] = round(project.database_path.stat().st_size / 1e6, 1)
        if uri := os.environ.get(URI):
            connection = MongoConnection(host=uri, name=f"foundry_perf_{uuid.uuid4().hex[:8]}")
            mongo = Project.open_or_create(Path(folder) / "mongodb", database="mongodb", connection=connection)
            print("MongoDB")
            try:
                results["mongodb"] = measure(mongo, options.documents, options.labels, repeats=options.repeats)
            finally:
                connection.client().drop_database(connection.name)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
