from __future__ import annotations

import json

import pytest

from atomfoundry.documents import LabelDoc
from atomfoundry.errors import ProjectError
from atomfoundry.results import (
    Project,
    checkpoint_directory,
    current_artifacts,
    current_labels,
    current_project,
    report_progress,
    use_project,
)
from atomfoundry.results import progress as progress_module


def label(frame: str, **changes) -> LabelDoc:
    values = {"frame_id": frame, "level_id": "l", "engine": "e", "status": "ok", "energy": -1.0}
    return LabelDoc(**{**values, **changes})


def test_create_open_and_reopen(tmp_path):
    project = Project.open_or_create(tmp_path / "a" / "b")
    assert project.metadata["schema_version"] == 1
    assert Project.open(tmp_path / "a" / "b") == project
    created = project.metadata["created"]
    assert Project.open_or_create(project.path).metadata["created"] == created
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".project.json-abc").write_text("left by a kill")
    Project.open_or_create(tmp_path / "empty")


def test_wrong_folders(tmp_path):
    with pytest.raises(ProjectError, match="does not exist"):
        Project.open(tmp_path / "none")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    for opener in (Project.open, Project.open_or_create):
        with pytest.raises(ProjectError, match=r"not a project folder|not empty"):
            opener(tmp_path / "full")
    with pytest.raises(ProjectError, match="is a file"):
        Project.open_or_create(tmp_path / "full" / "thesis.tex")
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (json.dumps({"schema_version": 99}), "schema version 99.*Update"),
        ("{", "cannot be read"),
        ("[]", "not a JSON object"),
        ("{}", "no schema_version"),
    ],
)
def test_newer_or_damaged_projects_are_refused(tmp_path, content, message):
    project = Project.open_or_create(tmp_path / "p")
    (project.path / "project.json").write_text(content)
    for opener in (Project.open, Project.open_or_create):
        with pytest.raises(ProjectError, match=message):
            opener(project.path)


def test_labels(tmp_path):
    labels = Project.open_or_create(tmp_path / "p").labels()
    labels.put_many([label(f"f{i}", energy=float(i)) for i in range(1000)])
    labels.put(label("f1", level_id="other", status="failed", reason="unconverged"))
    labels.put(label("f1", energy=7.0))
    assert labels.count() == 1001
    found = labels.get_many([f"f{i}" for i in range(1, 2000, 2)], "l")
    assert len(found) == 500
    assert found["f1"].energy == 7.0
    assert labels.get("f1", "other").reason == "unconverged"
    assert labels.get("absent", "l") is None
    assert [item.frame_id for item in labels.query({"status": "failed"})] == ["f1"]


def test_current_project(tmp_path, monkeypatch):
    monkeypatch.delenv("ATOMFOUNDRY_PROJECT", raising=False)
    with pytest.raises(ProjectError, match="No project"):
        current_project()
    first, second = (Project.open_or_create(tmp_path / name) for name in "ab")
    monkeypatch.setenv("ATOMFOUNDRY_PROJECT", str(first.path))
    assert current_project() == first
    with use_project(second.path):
        assert current_project() == second
        assert current_artifacts().root == second.path / "artifacts"
        current_labels().put(label("x"))
    assert second.labels().count() == 1
    assert current_labels().count() == 0


def test_progress_is_throttled_and_silent_without_a_runner(tmp_path, monkeypatch):
    report_progress("nobody listens")
    seen = []
    progress_module.set_progress_sink(lambda message, fraction: seen.append((message, fraction)))
    try:
        for i in range(100):
            report_progress(f"{i}", i / 100)
    finally:
        progress_module.set_progress_sink(None)
    assert seen == [("0", 0.0)]
    monkeypatch.chdir(tmp_path)
    assert checkpoint_directory() == tmp_path / "checkpoint"
