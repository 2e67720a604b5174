"""How the tests are shared out between processes."""

from __future__ import annotations

import pytest

TOGETHER = (
    "workflows/test_foundation.py",
    "makers/test_modelling.py",
    "makers/test_label_isolation.py",
    "makers/test_label_deadline.py",
    "models/test_training_distributed.py",
    "engines/espresso/test_espresso_real.py",
    "engines/test_isolation.py",
    "models/lammps/test_pair_style.py",
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
