"""How the tests are shared out between processes; and that none of them wrote down a secret."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

# Not this folder itself: 'atomfoundry' in it would hide the package.
sys.path.insert(0, str(Path(__file__).parent / "security"))
from planted_secrets import SESSION_MARK, find_in_files, plant

SEARCH_SECONDS = 5.0
"""As long as the search for secrets may take at the end."""

TOGETHER = (
    "workflows/test_foundation.py",
    "makers/test_modelling.py",
    "makers/test_label_isolation.py",
    "makers/test_label_deadline.py",
    "models/test_training_distributed.py",
    "engines/espresso/test_espresso_real.py",
    "engines/test_isolation.py",
    "models/lammps/test_pair_style.py",
    "cluster/test_slurm.py",
    "cluster/test_flows_on_slurm.py",
)
"""Files whose tests share something dear (a whole run of the pipeline, a child process): one process runs them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    from xdist.scheduler import LoadScopeScheduling

    class TogetherScheduling(LoadScopeScheduling):
        """Every test by itself but for the files above; xdist's own groups do nothing under pytest 9.2."""

        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return file if file.endswith(TOGETHER) else nodeid

    return TogetherScheduling(config, log)


@pytest.fixture
def gone():
    """Whether a process has ended, or does so within some seconds; one that only waits to be reaped has."""

    def wait_until_gone(pid: int, within: float = 20.0) -> bool:
        end = time.monotonic() + within
        while True:
            try:
                if psutil.Process(pid).status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    return True
            except psutil.NoSuchProcess:
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    return wait_until_gone


def pytest_configure(config):
    """Set secrets as a user would: the processes that run tests inherit them."""
    plant(os.environ)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Search all that the tests have written for the secrets; none may be found."""
    config = session.config
    factory = getattr(config, "_tmp_path_factory", None)
    if hasattr(config, "workerinput") or factory is None or factory._basetemp is None:
        return
    begun = time.monotonic()
    found, n_read = find_in_files(factory.getbasetemp(), mark=SESSION_MARK, seconds=SEARCH_SECONDS)
    config._secrets = found, n_read, time.monotonic() - begun
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter, config):
    found, n_read, seconds = getattr(config, "_secrets", ([], 0, 0.0))
    if n_read:
        terminalreporter.write_line(
            f"{n_read} files searched for planted secrets in {seconds:.1f} s: {len(found)} found"
        )
    for path in found:
        terminalreporter.write_line(f"ERROR a planted secret is in {path}", red=True)
