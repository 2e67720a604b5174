"""Write the examples in this folder anew: python deploy/generate.py [FOLDER]."""

from __future__ import annotations

import sys
from pathlib import Path

from atomfoundry.running.cluster.answers import ClusterAnswers
from atomfoundry.running.cluster.initialise import cluster_files
from atomfoundry.running.cluster.layout import ClusterLayout

EXAMPLES = {
    "slurm": {
        "scheduler": "slurm",
        "host": "db.cluster.internal",
        "cpu_partition": "cpu",
        "gpu_partition": "gpu",
        "account": "my-account",
        "modules": ("gcc/13.2",),
    },
    "pbs": {"scheduler": "pbs", "host": "db.cluster.internal", "cpu_partition": "workq", "gpu_partition": "gpuq"},
    "single-host": {"scheduler": "none", "host": "localhost", "results": "sqlite"},
}
PROJECT = Path("/shared/me/silicon")
PROJECT_ID = "0f0e0d0c-0b0a-4908-8706-050403020100"
PYTHON = Path("/shared/me/atomfoundry/bin/python")


def examples() -> dict[Path, tuple[str, int]]:
    """Return text and mode by path below this folder; no password is in them.

    What does not depend on the scheduler is there once, in the first example.
    """
    found: dict[Path, tuple[str, int]] = {}
    layout = ClusterLayout(PROJECT)
    seen: set[tuple[Path, str]] = set()
    for name, answers in EXAMPLES.items():
        chosen = ClusterAnswers.check({"database_name": layout.database_name, **answers, "python": PYTHON})
        files = cluster_files(layout, chosen, password=None, project_id=PROJECT_ID)
        for path, file in files.items():
            inner = path.relative_to(layout.folder)
            if inner.name == ".gitignore" or (inner, file.text) in seen:
                continue
            seen.add((inner, file.text))
            # readable: there is no password in an example
            found[Path(name) / inner] = (file.text, file.mode | 0o044)
    return found


def main(folder: Path) -> None:
    """Write them."""
    for inner, (text, mode) in examples().items():
        path = folder / inner
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(mode)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
