"""Flows through FireWorks' own qlaunch and a real Slurm: partitions, wall times, kills, packed allocations."""

from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jobflow import Flow
from mongo_server import MongoServer
from slurm import missing

from atomfoundry.results import Project
from atomfoundry.results.mongodb import MongoConnection
from atomfoundry.running.cluster.layout import ClusterLayout
from atomfoundry.running.cluster.launchpad import open_launchpad
from atomfoundry.running.cluster.profiles import Profiles
from atomfoundry.running.cluster.status import cluster_runs
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.sweep import sweep

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=str(missing()))]
