"""A worker in a process of its own, on the test database: ``python worker_process.py --project DIR ...``."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import mock_mongod  # noqa: E402

if __name__ == "__main__":
    from atomfoundry.running.cluster import patience, worker

    mock_mongod.use_here()
    patience.FIRST_PAUSE_S, patience.LONGEST_PAUSE_S = 0.1, 0.5
    worker.main()
