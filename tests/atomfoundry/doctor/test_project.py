"""A project folder: schema, SQLite, artifacts, leftovers, jobs of dead workers."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from pathlib import Path

import pytest

from atomfoundry.doctor import project_database
from atomfoundry.results.artifacts import ArtifactStore
from atomfoundry.running.queue import Queue


@pytest.mark.parametrize(
    ("content", "message", "cure"),
    [
        ({"schema_version": 999}, "has schema version 999", "Update Atomfoundry"),
        ({}, "has no schema_version", "restore it"),
        ({"schema_version": 1, "database": "oracle"}, "kind of database 'oracle'", "restore the file"),
        ({"schema_version": 1, "database": "mongodb"}, "nobody knows where", "my_launchpad.yaml"),
    ],
)
def test_a_wrong_project_file(one, project, content, message, cure) -> None:
    (project / "project.json").write_text(json.dumps(content))
    found = one("schema", project)
    assert found.status == "problem"
    assert message in found.message
    assert cure in found.cure


def test_a_project_file_cut_short(ask, project) -> None:
    (project / "project.json").write_text('{"schema_ver')
    found = ask("schema", project)[0]
    assert found.status == "problem"
    assert "cannot be read" in found.message


def test_a_folder_that_is_no_project(ask, tmp_path) -> None:
    found = ask("schema", tmp_path / "absent")[0]
    assert "does not exist" in found.message
    assert "atomfoundry run --project" in found.cure


# -- SQLite ---------------------------------------------------------------------------------------------------


def fill(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, text TEXT)")
    connection.executemany("INSERT INTO things (text) VALUES (?)", [("x" * 500,) for _ in range(2000)])
    connection.commit()
    connection.close()


def test_a_whole_file_and_one_that_is_not(ask, project) -> None:
    path = project / "foundry.sqlite"
    fill(path)
    assert check(ask, "sqlite", project).status == "ok"
    content = bytearray(path.read_bytes())
    content[4096 * 20 : 4096 * 24] = b"\xff" * (4096 * 4)
    path.write_bytes(content)
    found = check(ask, "sqlite", project)
    assert found.status == "problem"
    assert f"{path} is damaged" in found.message
    assert f'sqlite3 {path} ".recover"' in found.cure


def check(ask, name, project):
    found = [each for each in ask(name, project) if each.check == name]
    assert len(found) == 1
    return found[0]


def test_a_file_of_something_else(ask, project) -> None:
    (project / "foundry.sqlite").write_text("not a database" * 1000)
    assert "is damaged" in check(ask, "sqlite", project).message


def test_a_file_too_large_to_be_checked(ask, project, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(project / "foundry.sqlite")
    monkeypatch.setattr(project_database, "PATIENCE_S", -1.0)
    real = project_database.open_read_only

    class Eager:
        """Asks the progress handler after every instruction."""

        def __init__(self, path):
            self.connection = real(path)

        def set_progress_handler(self, handler, n):
            self.connection.set_progress_handler(handler, 1 if n else 0)

        def __getattr__(self, name):
            return getattr(self.connection, name)

    monkeypatch.setattr(project_database, "open_read_only", Eager)
    found = check(ask, "sqlite", project)
    assert found.status == "skipped"
    assert "PRAGMA quick_check" in found.cure


def test_looking_changes_nothing(ask, project) -> None:
    path = project / "foundry.sqlite"
    fill(path)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    check(ask, "sqlite", project)
    check(ask, "running-jobs", project)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_a_log_that_grows_without_end(ask, project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project / "foundry.sqlite"
    fill(path)
    monkeypatch.setattr(project_database, "LARGE_LOG", 1000)
    reader = sqlite3.connect(path)
    reader.execute("INSERT INTO things (text) VALUES ('y')")
    reader.commit()
    found = check(ask, "sqlite", project)
    reader.close()
    assert "has grown to" in found.message
    assert f"fuser -v {path}" in found.cure


def test_no_file_yet(ask, project) -> None:
    assert check(ask, "sqlite", project).status == "skipped"


# -- running jobs ---------------------------------------------------------------------------------------------


def job(
    project: Path, *, state: str = "RUNNING", pid: int | None = None, born: float = 0.0, host: str | None = None
) -> None:
    from atomfoundry.running.processes import host_name

    queue = Queue(project / "foundry.sqlite")
    with queue.file.transaction() as connection:
        connection.execute(
            "INSERT INTO jobs (run_id, uuid, idx, name, state, worker) VALUES ('r', 'u', 1, 'label', ?, 'w')", (state,)
        )
        if pid is not None:
            connection.execute(
                "INSERT INTO workers VALUES ('w', 'r', ?, ?, ?, ?)", (host or host_name(), pid, born, time.time())
            )
    queue.close()


def test_a_job_whose_worker_is_dead(ask, project) -> None:
    job(project, pid=os.getpid(), born=12345.0)  # another process had this number
    found = check(ask, "running-jobs", project)
    assert found.status == "warning"
    assert "'label'" in found.message
    assert found.cure.startswith(f"atomfoundry retry --project {project}")


def test_a_job_whose_worker_never_registered(ask, project) -> None:
    job(project)
    assert check(ask, "running-jobs", project).status == "warning"


def test_a_job_whose_worker_lives(ask, project) -> None:
    import psutil

    job(project, pid=os.getpid(), born=psutil.Process().create_time())
    found = check(ask, "running-jobs", project)
    assert (found.status, found.message) == ("ok", "Jobs: 1 running")


def test_a_worker_on_another_machine_lives_by_its_heartbeat(ask, project) -> None:
    job(project, pid=1, born=1.0, host="elsewhere")
    assert check(ask, "running-jobs", project).status == "ok"


def test_failed_jobs(ask, project) -> None:
    job(project, state="FAILED")
    found = check(ask, "running-jobs", project)
    assert found.message == "Failed jobs: 1."
    assert f"atomfoundry status --project {project}" in found.cure


# -- artifacts and leftovers ----------------------------------------------------------------------------------


def test_an_altered_artifact(ask, project, tmp_path) -> None:
    store = ArtifactStore(project / "artifacts")
    for number in range(3):
        (tmp_path / f"file{number}").write_text(f"content {number}")
        artifact = store.put(tmp_path / f"file{number}")
    found = check(ask, "artifacts", project)
    assert (found.status, found.details["n_read"]) == ("ok", 3)
    path = store.path(artifact)
    path.chmod(0o644)
    path.write_text("content 2 altered")
    found = check(ask, "artifacts", project)
    assert found.status == "problem"
    assert found.message.startswith(f"Artifact {path} was altered: its sha256 is")
    assert f"Restore {path}" in found.cure


def test_an_artifact_that_became_a_link(ask, project, tmp_path) -> None:
    store = ArtifactStore(project / "artifacts")
    (tmp_path / "file").write_text("content")
    path = store.path(store.put(tmp_path / "file"))
    path.unlink()
    path.symlink_to("/etc/hostname")
    assert "symbolic link" in check(ask, "artifacts", project).message


def test_half_written_files(ask, project) -> None:
    old = project / ".project.json-abc"
    old.touch()
    new = project / "work" / "u_1" / ".result.json-x"
    new.parent.mkdir(parents=True)
    new.touch()
    assert check(ask, "leftovers", project).status == "ok"
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    found = check(ask, "leftovers", project)
    assert found.details["paths"] == [str(old)]
    assert found.cure == f"rm -r {old}"
