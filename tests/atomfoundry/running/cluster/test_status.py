"""What a person asks for: told in full, also where a submission was cut short or the database is away."""

from __future__ import annotations

import json
import sys
import time

import pymongo
import pytest
from jobflow import Flow
from pymongo.errors import AutoReconnect, OperationFailure

from atomfoundry.cli.main import main
from atomfoundry.errors import ProjectError
from atomfoundry.results import MongoConnection
from atomfoundry.running.cluster import launchpad as launchpad_module
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.sweep import sweep
from atomfoundry.running.cluster.worker import WorkerOptions, work
from atomfoundry.running.status import cancel, retry, status
from atomfoundry.settings import settings

NOW = WorkerOptions(idle_s=0, sleep_s=0)
TEXTS = [
    "[/shared/a, /shared/b] are not there",
    "[light, dft] and [bold] have no worker",
    r"C:\[a] and \[red]",
    "a.py:100: in :warning:",
]


@pytest.fixture
def command(capsys, monkeypatch, tmp_path):
    """Run the command line; returns its status and what it printed."""
    monkeypatch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(tmp_path / "none.yaml"))
    settings.cache_clear()

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["atomfoundry", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield run
    settings.cache_clear()


class Died(BaseException):
    """Ends a submission at a chosen place, as a kill would."""


def test_a_submission_killed_before_its_jobs(jobs, project, shared_launchpad, monkeypatch, command):
    """The workflow is in the database, none of its jobs is."""
    flow = Flow([jobs.add(1), jobs.add(2)], name="cut short")

    def insert_many(*args, **kwargs):
        raise Died

    with monkeypatch.context() as patch, pytest.raises(Died):
        patch.setattr(pymongo.collection.Collection, "insert_many", insert_many)
        submit(flow, project=project)
    assert shared_launchpad.workflows.count_documents({}) == 1
    assert shared_launchpad.fireworks.count_documents({}) == 0
    (run,) = status(project).runs
    assert (run.name, run.states, run.finished) == ("cut short", {}, None)
    code, out, _ = command("status", "--project", project.path)
    assert code == 0
    assert "cut short  no jobs" in out
    assert (retry(project), cancel(project)) == (0, 0)
    assert retry(project) == 0
    submission = submit(flow, project=project)
    assert submission.n_new_workflows == 0
    assert status(project).runs[0].states == {"READY": 2}
    work(project, NOW)
    (run,) = status(project).runs
    assert run.states == {"COMPLETED": 2}
    assert run.finished is not None


def test_what_jobs_say_is_shown_as_it_is(jobs, project, shared_launchpad, command):
    failing = [jobs.fail(message=text) for text in TEXTS]
    for job, text in zip(failing, TEXTS, strict=True):
        job.name = f"label {text}"
    submit(Flow(failing, name="of [/a] and [bold]"), project=project)
    work(project, NOW)
    code, out, _ = command("status", "--project", project.path)
    assert code == 0
    assert "of [/a] and [bold]  4 failed" in out
    for text in TEXTS:
        assert f"failed label {text}: ValueError: {text}\n" in out
    for words in ("status", "retry"):
        code, out, _ = command(words, "--project", project.path, "--json")
        assert code == 0
        assert json.loads(out)


def test_what_the_sweep_says_of_jobs_is_shown_as_it_is(jobs, project, shared_launchpad, command):
    job = jobs.add(1)
    job.name = "label [/shared/a] [light]"
    submit(job, project=project)
    shared_launchpad._get_a_fw_to_run()
    sweep(project, launchpad=shared_launchpad)
    code, out, _ = command("sweep", "--project", project.path, "--stuck-after", "0")
    assert code == 0
    assert "reserved  Job 'label [/shared/a] [light]'" in out


PASSWORD = "a-p@ss/word"


@pytest.fixture
def away(project, database, monkeypatch):
    """The project's database is away; a person waits for it 0.5 s here."""
    connection = MongoConnection(host="127.0.0.1", port=database.port, name="tests", username="me", password=PASSWORD)
    connection.save(project.launchpad_path)
    database.pause()
    assert launchpad_module.ANSWER_S == 10.0
    monkeypatch.setattr(launchpad_module, "ANSWER_S", 0.5)
    return database


@pytest.mark.parametrize("action", [status, retry, cancel, sweep])
def test_nobody_waits_long_for_a_database_that_is_away(project, away, action):
    started = time.monotonic()
    with pytest.raises(ProjectError, match=f"127.0.0.1:{away.port}/tests does not answer within 0.5 s") as caught:
        action(project)
    assert time.monotonic() - started < 5
    assert "Start the database" in str(caught.value)


def test_a_submission_says_that_the_database_is_away(jobs, project, away):
    with pytest.raises(ProjectError, match="does not answer"):
        submit(jobs.add(1), project=project)


@pytest.mark.parametrize("words", [["status"], ["retry"], ["cancel"], ["cancel", "--run", "ab"], ["sweep"]])
def test_one_line_says_that_the_database_is_away(project, away, command, words):
    code, out, err = command(*words, "--project", project.path)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert f"127.0.0.1:{away.port}/tests does not answer" in err
    for secret in (PASSWORD, "a-p%40ss", "Topology", "Traceback"):
        assert secret not in err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            AutoReconnect(
                f"mongodb://me:{PASSWORD}@db:27017: connection closed (configured timeouts: socketTimeoutMS: 1.0ms), "
                "Timeout: 3s, Topology Description: <TopologyDescription id: 1>"
            ),
            "The database went away: mongodb://db:27017: connection closed (AutoReconnect). Repeat the command",
        ),
        (
            OperationFailure("not authorized on tests, full error: {'code': 13}", 13),
            "The database refused what was asked of it: not authorized on tests (OperationFailure). 'atomfoundry ",
        ),
    ],
)
def test_errors_of_the_database_on_the_way_are_one_line(project, shared_launchpad, command, monkeypatch, error, said):
    def find(*args, **kwargs):
        raise error

    monkeypatch.setattr(pymongo.collection.Collection, "find", find)
    code, out, err = command("status", "--project", project.path)
    assert (code, out) == (1, "")
    assert said in err
    assert PASSWORD not in err
    assert len(err.splitlines()) == 1


def test_workers_stay_patient(project, shared_launchpad):
    """They are not asked for a sign of life within seconds."""
    opened = launchpad_module.open_launchpad(project)
    assert opened.mongoclient_kwargs["serverSelectionTimeoutMS"] == 300_000
