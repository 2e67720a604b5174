from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from jobflow import Flow

from atomfoundry.running.identity import child_names, prepare, rename, uuids_in_order

HERE = Path(__file__).parent


def test_equal_flows_have_equal_identity_and_different_ones_do_not(jobs):
    first, second = prepare(jobs.dynamic_flow()), prepare(jobs.dynamic_flow())
    assert first.run_id == second.run_id
    assert [e.uuid for e in first.entries] == [e.uuid for e in second.entries]
    assert [e.payload for e in first.entries] == [e.payload for e in second.entries]
    assert set(first.names) & set(second.names) == set()
    assert prepare(jobs.dynamic_flow(width=5)).run_id != first.run_id
    swapped = jobs.dynamic_flow()
    swapped.jobs = tuple(reversed(swapped.jobs))
    assert prepare(swapped).run_id != first.run_id


def test_identity_is_stable_across_processes(jobs):
    code = (
        "import foundry_flow_jobs as f; from atomfoundry.running.identity import prepare; "
        "print(prepare(f.dynamic_flow()).run_id)"
    )
    found = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(HERE)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "", "PYTHONHASHSEED": "77"},
    )
    assert found.stdout.strip() == prepare(jobs.dynamic_flow()).run_id


def test_the_flow_is_not_changed_and_a_job_may_be_prepared_twice(jobs):
    job = jobs.add(1, 2)
    uuid = job.uuid
    assert prepare(job).run_id == prepare(job).run_id == prepare([job]).run_id
    assert job.uuid == uuid
    assert job.hosts == []


def test_references_follow_the_new_uuids(jobs):
    a = jobs.add(1)
    b = jobs.add(a.output, a.output)
    prepared = prepare(Flow([b, Flow([a])]))
    by_uuid = {entry.uuid: entry for entry in prepared.entries}
    assert [entry.uuid for entry in prepared.entries] == [prepared.names[b.uuid], prepared.names[a.uuid]]
    assert by_uuid[prepared.names[b.uuid]].parents == [prepared.names[a.uuid]]
    assert a.uuid not in "".join(entry.payload for entry in prepared.entries)


def test_rename_finds_uuids_in_keys_and_inside_texts():
    old, new = "3c1018ca-3890-4a7e-83b8-c3c452a8f1de", "x"
    assert rename({old: [f"/scratch/{old}/out", old, 5, None]}, {old: new}) == {
        "x": ["/scratch/x/out", "x", 5, None]
    }


def test_children_keep_the_parents_uuid_and_get_lasting_ones_otherwise(jobs):
    a, b = jobs.add(1), jobs.add(2)
    a.set_uuid("parent")
    flow = Flow([a, b])
    names = child_names("parent", 1, [flow])
    assert "parent" not in names
    assert set(names) == {flow.uuid, b.uuid} == set(uuids_in_order(flow)) - {"parent"}
    again = child_names("parent", 1, [Flow([jobs.add(3), jobs.add(4)])])
    assert set(names.values()) < set(again.values())
    assert set(child_names("parent", 2, [Flow([jobs.add(3)])]).values()).isdisjoint(again.values())
