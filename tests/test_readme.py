"""The README's Python snippets run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow
def test_python_snippets_run(tmp_path: Path) -> None:
    pytest.importorskip("tblite")
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    script = tmp_path / "snippet.py"
    script.write_text("\n".join(blocks))
    done = subprocess.run(
        [sys.executable, "-P", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=900,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "molecules aligned with a =" in done.stdout
    assert "final model pt" in done.stdout


@pytest.mark.parametrize("command", re.findall(r"^    atomfoundry (\w+)", README.read_text(), flags=re.MULTILINE))
def test_commands_exist(command: str) -> None:
    from typer.main import get_command

    from atomfoundry.cli.main import app

    assert command in get_command(app).commands
