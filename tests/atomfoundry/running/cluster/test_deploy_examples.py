"""The examples in deploy/ are what the code writes."""

from __future__ import annotations

import runpy
from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[4] / "deploy"


def test_the_examples_are_up_to_date():
    expected = runpy.run_path(str(DEPLOY / "generate.py"))["examples"]()
    there = {
        path.relative_to(DEPLOY) for path in DEPLOY.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    }
    assert there == {Path("README.md"), Path("generate.py"), *expected}
    for inner, (text, mode) in expected.items():
        path = DEPLOY / inner
        assert path.read_text() == text, f"{inner} differs: run python deploy/generate.py"
        assert bool(path.stat().st_mode & 0o100) == bool(mode & 0o100), inner


def test_there_is_no_credential():
    for path in DEPLOY.rglob("my_launchpad.yaml"):
        assert "password" not in yaml.safe_load(path.read_text())
    for path in DEPLOY.rglob("jobflow.yaml"):
        assert not yaml.safe_load(path.read_text())["JOB_STORE"]["docs_store"]["password"]
    assert not list(DEPLOY.rglob("passwords.env"))
