"""The manual's Python snippets run as they stand, page by page, and its commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parents[1] / "docs").glob("*.md"))
SLOW = ("datasets", "engines", "first_hour", "harvest", "models", "structures")
"""Pages whose snippets train, run flows, or take seconds otherwise."""
WITH_PYTHON = [
    pytest.param(page, marks=pytest.mark.slow if page.stem in SLOW else (), id=page.stem)
    for page in PAGES
    if "```python" in page.read_text()
]


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_python_snippets_run(page: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    script = tmp_path / f"{page.stem}.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-P", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_exist(page: Path) -> None:
    from typer.main import get_command

    from atomfoundry.cli.main import app

    for command in re.findall(r"^atomfoundry (\w+)", page.read_text(), flags=re.MULTILINE):
        assert command in get_command(app).commands
