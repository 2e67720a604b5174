"""A Slurm for the tests of one process."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def slurm():
    """A Slurm of one node with the partitions cpu and gpu; see ``slurm.py``."""
    from slurm import Slurm, missing

    if reason := missing():
        pytest.skip(reason)
    with Slurm() as running:
        yield running


@pytest.fixture
def slurm_environment(slurm, monkeypatch):
    """The commands of this Slurm are the ones that this process finds."""
    for name in ("PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    return slurm
