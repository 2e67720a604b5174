"""An environment of its own for each peer: their pins of e3nn exclude one another, and ours."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"


class Unavailable(Exception):
    """A peer cannot be measured; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What pip is asked for, and what must then import."""

    requirements: tuple[str, ...]
    imports: str


ENVIRONMENTS = {
    "nequip": Environment(("nequip==0.19.1", "nequip-allegro==0.8.3"), "nequip, allegro"),
    "mace": Environment(("mace-torch==0.3.16",), "mace, mace.calculators"),
}

VERSIONS = (
    "import json; from importlib.metadata import distributions; "
    "print(json.dumps({d.name: d.version for d in distributions()}))"
)
TOLD = ("torch", "e3nn", "ase", "numpy", "matscipy", "nequip", "nequip-allegro", "mace-torch")


def run(command: list[str], *, doing: str, timeout: float = 1800) -> str:
    """Run a command and return its output.

    Raises
    ------
    Unavailable
        If it fails or takes longer than `timeout` seconds; with the end of what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{doing} took longer than {timeout:.0f} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"{doing} exited with {done.returncode}: {' | '.join(said[-3:])}")
    return done.stdout


def interpreter(name: str, folder: Path, *, torch_index: str | None = None) -> Path:
    """Return the interpreter of a peer's environment, which is made if it is not there and whole.

    Parameters
    ----------
    name
        Key of ``ENVIRONMENTS``.
    folder
        Where environments are kept.
    torch_index
        Package index of torch; on Linux ``https://download.pytorch.org/whl/cpu`` avoids the CUDA build.

    Raises
    ------
    Unavailable
        If it cannot be installed or imported.
    """
    environment = ENVIRONMENTS[name]
    home = folder / name
    python = home / "bin" / "python"
    mark = home / "installed.json"
    wanted = [TORCH, *environment.requirements]
    if mark.exists() and json.loads(mark.read_text())["requirements"] == wanted:
        return python
    print(f"installing {', '.join(wanted)} in {home}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    run([sys.executable, "-m", "venv", str(home)], doing=f"making {home}")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    run([*pip, *(["--index-url", torch_index] if torch_index else []), TORCH], doing=f"pip install {TORCH}")
    # torch is named again, so that a requirement of the peer cannot replace it without an error
    run([*pip, *wanted], doing=f"pip install {' '.join(environment.requirements)}")
    run([str(python), "-W", "ignore", "-c", f"import {environment.imports}"], doing=f"import {environment.imports}")
    versions = json.loads(run([str(python), "-c", VERSIONS], doing="listing versions"))
    known = {key: version for key, version in versions.items() if key.lower() in TOLD}
    mark.write_text(json.dumps({"requirements": wanted, "versions": known}, indent=1))
    return python


def versions(name: str, folder: Path) -> dict[str, str]:
    """Return the versions noted when the environment was made."""
    return json.loads((folder / name / "installed.json").read_text())["versions"]
