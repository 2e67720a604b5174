"""What our LaunchPad does otherwise than FireWorks'."""

from __future__ import annotations

import pytest
from fireworks.core.firework import Firework
from fireworks.core.fworker import FWorker
from fireworks.core.launchpad import LaunchPad
from pymongo.errors import AutoReconnect

from atomfoundry.running.cluster.task import FoundryTask


@pytest.fixture
def broken(launchpad, monkeypatch):
    """The connection breaks when a job is read, once."""
    launchpad.ensure_indexes()
    launchpad.add_wf(Firework(FoundryTask(job="{}")))
    read = LaunchPad.get_fw_by_id
    reads = []

    def once(lpad, fw_id):
        reads.append(fw_id)
        if len(reads) == 1:
            raise AutoReconnect("connection closed")
        return read(lpad, fw_id)

    monkeypatch.setattr(LaunchPad, "get_fw_by_id", once)
    return reads


def test_a_job_that_cannot_be_read_while_it_is_taken_is_read_again(launchpad, broken, tmp_path):
    """FireWorks takes it for one that cannot be made, and writes so into it."""
    job, launch_id = launchpad.checkout_fw(FWorker(), str(tmp_path))
    assert (job.fw_id, launch_id) == (1, 1)
    assert launchpad.fireworks.distinct("state") == ["RUNNING"]
    assert "_exception_details" not in launchpad.fireworks.find_one({"fw_id": 1})["spec"]
    assert len(broken) > 1


def test_who_looks_is_told_at_once(launchpad, broken):
    with pytest.raises(AutoReconnect):
        launchpad.get_fw_by_id(1)
    assert broken == [1]
