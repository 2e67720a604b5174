"""FireWorks' settings as our processes need them, made before FireWorks is imported."""

from __future__ import annotations

import os

from atomfoundry.results.mongomock_file import mock_file, share_mock_store
from atomfoundry.results.project import Project
from atomfoundry.running.cluster.layout import ClusterLayout

PING_S = 60
"""A running job says so often that it lives."""
LOCK_EXPIRES_S = 60
"""A workflow locked for longer was locked by a process that died."""


def configure_fireworks(project: Project) -> None:
    """Let FireWorks find the project's own settings, unless the environment names others; idempotent.

    What FireWorks reads once, when it is imported, is set again here where it matters: how often a job says that it
    lives, that a dead process's lock expires, that jobs' specs are not written into folders.

    Parameters
    ----------
    project
        The project.
    """
    path = ClusterLayout(project.path).fireworks
    if path.is_file():
        os.environ.setdefault("FW_CONFIG_FILE", str(path))
    import fireworks.core.launchpad as launchpad_module
    import fireworks.core.rocket as rocket_module

    if mock_file():
        # read by FireWorks when it is imported, which may have been before
        share_mock_store()
        from mongomock import MongoClient
        from mongomock.gridfs import enable_gridfs_integration

        enable_gridfs_integration()
        launchpad_module.MongoClient = MongoClient
    rocket_module.PING_TIME_SECS = PING_S
    rocket_module.PRINT_FW_JSON = False
    rocket_module.ROCKET_STREAM_LOGLEVEL = "WARNING"
    launchpad_module.WFLock.__init__.__defaults__ = (LOCK_EXPIRES_S, True)
