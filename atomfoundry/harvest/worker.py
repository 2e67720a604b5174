"""The program of a reading process: ``python -m atomfoundry.harvest.worker FILE_DESCRIPTOR``."""

from __future__ import annotations

import sys
from multiprocessing.connection import Connection

from atomfoundry.harvest.workers import serve

if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
