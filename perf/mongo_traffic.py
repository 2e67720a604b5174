"""What a campaign of labels asks of MongoDB: commands and bytes per label by the number of labels, and its indexes.

    python perf/mongo_traffic.py [--labels 100 1000 10000]

With ATOMFOUNDRY_TEST_MONGODB_URI on that server (in a database of its own, dropped at the end), where the time counts
too; without it on the tests' stand-in (``tests/cluster/mongo_server.py``), which reads whole collections and so says
nothing about time. Commands and bytes are those that pymongo sent and received; the same on either server.

A campaign is cheap at any size if neither grows per label, and if an index serves each question. ``without_index``
lists the kinds of question that none serves, with how often each came; an index serves a question where its first
field is asked for a value, some values or a range. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import uuid4

import bson
import pymongo
from orchestration import campaign
from pymongo import monitoring

from atomfoundry.results import MongoConnection
from atomfoundry.running.cluster.launchpad import open_launchpad
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.worker import WorkerOptions, work

FILTERS = {"find": "filter", "findAndModify": "query", "count": "query", "distinct": "query"}
"""Command -> where its filter is."""
NOT_BY_INDEX = {"$ne", "$nin", "$not", "$exists"}
CONNECTING = {"hello", "isMaster", "ping", "endSessions", "buildInfo", "listIndexes", "createIndexes"}


class Traffic(monitoring.CommandListener):
    """Counts what this process says to MongoDB."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.commands: Counter[str] = Counter()
        self.questions: Counter[tuple[str, tuple[str, ...], tuple[str, ...]]] = Counter()
        self.sent = self.received = 0

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Count a command."""
        name, command = event.command_name, event.command
        if name in CONNECTING:
            return
        self.commands[name] += 1
        self.sent += len(bson.encode(command))
        collection = str(command[name])
        filters = [part["q"] for part in (*command.get("updates", ()), *command.get("deletes", ()))]
        if name in FILTERS:
            filters.append(command.get(FILTERS[name]) or {})
        elif name == "aggregate":
            filters.append(next((stage["$match"] for stage in command["pipeline"] if "$match" in stage), {}))
        for asked in filters:
            self.questions[collection, fields(asked), tuple(command.get("sort") or ())] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Count its answer."""
        if event.command_name not in CONNECTING:
            self.received += len(bson.encode(event.reply))

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing: it shows where it was sent from."""


def fields(asked: dict[str, Any]) -> tuple[str, ...]:
    """Return the fields of a filter, those with ! that an index cannot look up."""
    found = []
    for field, value in asked.items():
        if field == "$and":
            found += [name for part in value for name in fields(part)]
        elif field == "$or":
            found.append("|".join("+".join(fields(part)) for part in value))
        else:
            operators = set(value) if isinstance(value, dict) else set()
            found.append(f"{field}!" if operators & NOT_BY_INDEX else field)
    return tuple(sorted(found))


def unserved(questions: Counter[tuple[str, tuple[str, ...], tuple[str, ...]]], database: Any) -> dict[str, int]:
    """Return the questions that no index serves, about collections of more than one document."""
    found: Counter[str] = Counter()
    many = {name for name in database.list_collection_names() if database[name].count_documents({}, limit=2) > 1}
    for (collection, asked, sort), n in questions.items():
        if collection not in many:
            continue
        first = {next(iter(index["key"])) for index in database[collection].list_indexes()} | {"_id"}
        parts = [set(name.split("|")) for name in asked]
        if not any({field.partition("+")[0] for field in part} <= first for part in parts):
            found[f"{collection} by ({', '.join(asked)}) sorted by ({', '.join(sort)})"] += n
    return dict(found.most_common())


def measure(n: int, host: dict[str, Any], name: str, traffic: Traffic) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        project, job = campaign(n, Path(folder), isolate=False)
        MongoConnection(**host, name=name).save(project.launchpad_path)
        lpad = open_launchpad(project)
        lpad.reset("", require_password=False)
        traffic.clear()
        begun = time.perf_counter()
        submit(job, project=project, launchpad=lpad)
        submitted = time.perf_counter() - begun
        n_jobs = work(project, WorkerOptions(idle_s=0.0, sleep_s=0.0), launchpad=lpad)
        ended = time.perf_counter() - begun
        commands, sent, received = dict(traffic.commands), traffic.sent, traffic.received
        questions = traffic.questions.copy()
        assert project.labels().count({"status": "ok"}) == n
        return {
            "jobs": n_jobs,
            "commands_per_label": round(sum(commands.values()) / n, 3),
            "kB_sent_per_label": round(sent / n / 1e3, 3),
            "kB_received_per_label": round(received / n / 1e3, 3),
            "commands": commands,
            "submission_s": round(submitted, 3),
            "wall_ms_per_label": round(1e3 * (ended - submitted) / n, 3),
            "without_index": unserved(questions, lpad.db),
        }


def main() -> None:
    """Run the campaigns, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--labels", type=int, nargs="+", default=[100, 1000, 10000])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.INFO)
    traffic = Traffic()
    monitoring.register(traffic)
    uri = os.environ.get("ATOMFOUNDRY_TEST_MONGODB_URI")
    name = f"traffic_{uuid4().hex[:8]}"
    report: dict[str, Any] = {"server": "MongoDB" if uri else "stand-in: times say nothing"}
    with ExitStack() as stack:
        if uri:
            host: dict[str, Any] = {"host": uri}
            stack.callback(pymongo.MongoClient(uri).drop_database, name)
        else:
            sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cluster"))
            from mongo_server import MongoServer

            host = {"host": "127.0.0.1", "port": stack.enter_context(MongoServer()).port}
        for n in options.labels:
            report[str(n)] = measure(n, host, name, traffic)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
