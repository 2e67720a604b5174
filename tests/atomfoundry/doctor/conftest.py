"""A world for the doctor: no settings, no other programs, and whatever a test breaks in it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from atomfoundry.doctor import Finding, World, run_checks
from atomfoundry.doctor.registry import _CHECKS, all_checks
from atomfoundry.settings import settings


@pytest.fixture(autouse=True)
def clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "user").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in list(os.environ):
        if name.startswith(("ATOMFOUNDRY_", "FW_CONFIG", "CUDA_", "MONGOMOCK", "OMP_NUM", "CXX", "PMG_", "ATOMATE2_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("ATOMFOUNDRY_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    # the machine may be busy with other tests
    for check in all_checks():
        if check.limit < 60:
            monkeypatch.setitem(_CHECKS, check.name, replace(check, limit=60.0))
    yield
    settings.cache_clear()


@pytest.fixture
def ask() -> Callable[..., list[Finding]]:
    """Ask one check."""

    def asked(name: str, project: Path | None = None, **world: object) -> list[Finding]:
        return list(run_checks(only=name, world=World(project, **world)).findings)

    return asked


@pytest.fixture
def one(ask: Callable[..., list[Finding]]) -> Callable[..., Finding]:
    """Ask one check that has one finding."""

    def asked(name: str, project: Path | None = None, **world: object) -> Finding:
        findings = ask(name, project, **world)
        assert len(findings) == 1, findings
        return findings[0]

    return asked


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An empty project."""
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "project.json").write_text(json.dumps({"schema_version": 1, "database": "sqlite"}))
    return folder


@pytest.fixture
def cluster(project: Path) -> Path:
    """The cluster folder of a project on MongoDB, as it should be."""
    record = {"schema_version": 1, "database": "mongodb", "project_id": "p"}
    (project / "project.json").write_text(json.dumps(record))
    folder = project / "cluster"
    folder.mkdir()
    write(
        folder / "my_launchpad.yaml",
        host="db.example",
        port=27017,
        name="foundry",
        username="foundry",
        password="s3cret-x",
    )
    (folder / "my_launchpad.yaml").chmod(0o600)
    write(folder / "my_fworker_light.yaml", name="light", category="light", query="{}")
    write(folder / "FW_config.yaml", PING_TIME_SECS=300, RUN_EXPIRATION_SECS=3600, RAPIDFIRE_SLEEP_SECS=5)
    return folder


def write(path: Path, **content: object) -> Path:
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def adapter(cluster: Path) -> Callable[..., Path]:
    """Write a queue adapter."""

    def make(name: str = "light", **content: object) -> Path:
        base = {
            "_fw_name": "CommonAdapter",
            "_fw_q_type": "SLURM",
            "rocket_launch": "atomfoundry worker",
            "queue": "cpu",
        }
        return write(cluster / f"my_qadapter_{name}.yaml", **(base | content))

    return make


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a shell script into the front of PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def make(name: str, text: str) -> Path:
        path = folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return make
