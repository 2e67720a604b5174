"""An environment of its own for each peer: their pins of e3nn exclude one another, and ours."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
CUDA_WHEELS = "https://download.pytorch.org/whl/cu{}"
CUDA_OF_TORCH = "import torch; print(torch.version.cuda or '')"


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
        If it cannot be started, fails or takes longer than `timeout` seconds; with the end of what it said.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except OSError as error:
        raise Unavailable(f"{doing}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{doing} took longer than {timeout:.0f} s") from error
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise Unavailable(f"{doing} exited with {done.returncode}: {' | '.join(said[-3:])}")
    return done.stdout


def home_of(name: str, folder: Path, *, cuda: str | None = None) -> Path:
    """Return the folder of a peer's environment; one for a GPU is another than that for a CPU."""
    return folder / (name if cuda is None else f"{name}-cuda")


def interpreter(name: str, folder: Path, *, torch_index: str | None = None, cuda: str | None = None) -> Path:
    """Return the interpreter of a peer's environment, which is made if it is not there and whole.

    Parameters
    ----------
    name
        Key of ``ENVIRONMENTS``.
    folder
        Where environments are kept.
    torch_index
        Package index of torch; on Linux ``https://download.pytorch.org/whl/cpu`` avoids the CUDA build.
    cuda
        Version of CUDA, e.g. "13.0", whose build of torch is asked for; without a `torch_index` it is taken from
        PyTorch's index for that version. None: a torch for the CPU will do.

    Raises
    ------
    Unavailable
        If it cannot be installed or imported, or torch is not built for CUDA though that was asked for.
    """
    environment = ENVIRONMENTS[name]
    home = home_of(name, folder, cuda=cuda)
    if cuda is not None and torch_index is None:
        torch_index = CUDA_WHEELS.format(cuda.replace(".", ""))
    python = home / "bin" / "python"
    mark = home / "installed.json"
    wanted = [TORCH, *environment.requirements]
    if mark.exists():
        made = json.loads(mark.read_text())
        if made["requirements"] == wanted and made.get("cuda") == cuda:
            return python
    print(f"installing {', '.join(wanted)} in {home}", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    # the torch of an environment that was made for another version of CUDA would satisfy pip
    renew = ["--clear"] if cuda is not None else []
    run([sys.executable, "-m", "venv", *renew, str(home)], doing=f"making {home}")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    run([*pip, *(["--index-url", torch_index] if torch_index else []), TORCH], doing=f"pip install {TORCH}")
    if cuda is not None and not run([str(python), "-c", CUDA_OF_TORCH], doing="asking torch for its CUDA").strip():
        raise Unavailable(f"pip installed a {TORCH} without CUDA in {home}: name a --torch-index that has it")
    # torch is named again, so that a requirement of the peer cannot replace it without an error
    run([*pip, *wanted], doing=f"pip install {' '.join(environment.requirements)}")
    known = versions_in(name, python)
    record = {"requirements": wanted, "versions": known} | ({} if cuda is None else {"cuda": cuda})
    mark.write_text(json.dumps(record, indent=1))
    return python


def versions_in(name: str, python: Path) -> dict[str, str]:
    """Return the versions of the packages that matter to an interpreter.

    Raises
    ------
    Unavailable
        If it cannot import the peer.
    """
    imports = ENVIRONMENTS[name].imports
    run([str(python), "-W", "ignore", "-c", f"import {imports}"], doing=f"import {imports}")
    versions = json.loads(run([str(python), "-c", VERSIONS], doing="listing versions"))
    return {key: version for key, version in versions.items() if key.lower() in TOLD}


def versions(name: str, folder: Path, *, cuda: str | None = None) -> dict[str, str] | None:
    """Return the versions noted when the environment was made; None where it was not."""
    mark = home_of(name, folder, cuda=cuda) / "installed.json"
    return json.loads(mark.read_text())["versions"] if mark.exists() else None
