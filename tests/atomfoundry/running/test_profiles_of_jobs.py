"""Jobs made by jobs run with their own profile, whoever made them and whichever runner runs them."""

from __future__ import annotations

import pytest

from atomfoundry.running import run
from atomfoundry.running.cluster.submission import submit
from atomfoundry.running.cluster.worker import WorkerOptions, work
from atomfoundry.running.identity import prepare

MADE = {
    "job": {"dynamics": "md"},
    "plain job": {"dynamics": "md"},
    "light job": {"collect": "light"},
    "flow": {"dynamics": "md", "collect": "light", "store_inputs": "light"},
    "detour": {"dynamics": "md"},
    "addition": {"dynamics": "md", "collect": "light"},
}


@pytest.fixture
def launchpad(monkeypatch):
    """An empty LaunchPad in memory."""
    import fireworks.core.launchpad
    import mongomock
    from mongomock.gridfs import enable_gridfs_integration

    enable_gridfs_integration()
    monkeypatch.setattr(fireworks.core.launchpad, "MongoClient", mongomock.MongoClient)

    from atomfoundry.running.cluster.launchpad import FoundryLaunchPad

    return FoundryLaunchPad(name="fireworks", strm_lvl="WARNING")


@pytest.mark.parametrize("maker", ["heavy_makes", "light_makes"])
@pytest.mark.parametrize("how", MADE)
def test_through_fireworks(jobs, project, launchpad, maker, how):
    job = getattr(jobs, maker)(how)
    submit(job, project=project, launchpad=launchpad)
    own = "gpu" if maker == "heavy_makes" else "light"
    found = {fw["name"]: fw["spec"]["_category"] for fw in launchpad.fireworks.find({})}
    assert found == {maker: own}
    # a worker of another category leaves it alone
    assert work(project, WorkerOptions(categories=("dft",), idle_s=0, sleep_s=0), launchpad=launchpad) == 0
    work(project, WorkerOptions(categories=(own,), idle_s=0, sleep_s=0), launchpad=launchpad)
    found = {fw["name"]: fw["spec"]["_category"] for fw in launchpad.fireworks.find({})}
    assert found == {maker: own, **MADE[how]}
    work(project, WorkerOptions(idle_s=0, sleep_s=0), launchpad=launchpad)
    assert {fw["state"] for fw in launchpad.fireworks.find({})} == {"COMPLETED"}


@pytest.mark.parametrize("maker", ["heavy_makes", "light_makes"])
@pytest.mark.parametrize("how", MADE)
def test_in_the_local_runner(jobs, project, monkeypatch, maker, how):
    import atomfoundry.running.execution as execution

    entered = {}
    entries = execution.entries

    def seen(*args, **kwargs):
        made = entries(*args, **kwargs)
        entered.update({entry.name: entry.profile for entry in made})
        return made

    monkeypatch.setattr(execution, "entries", seen)
    assert run(getattr(jobs, maker)(how), project=project, workers=0, progress=False).ok
    assert entered == MADE[how]


def test_the_profile_is_part_of_a_flow_s_identity(jobs):
    """Two flows that differ in it alone are two runs: the second may be the answer to a lack of memory."""
    first, second = jobs.dynamics(1), jobs.dynamics(1)
    assert prepare(first).run_id == prepare(second).run_id
    assert prepare(first).entries[0].profile == "md"
    second.update_metadata({"profile": "gpu"})
    assert prepare(first).run_id != prepare(second).run_id
