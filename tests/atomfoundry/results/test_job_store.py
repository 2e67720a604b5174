from __future__ import annotations

from jobflow import CURRENT_JOB, Flow, job, run_locally
from maggma.stores import MemoryStore

from atomfoundry.results import FoundryJobStore, SQLiteStore
from atomfoundry.results.job_store import recorded_inputs

SEEN: dict[str, list[tuple[str, int]] | None] = {}


@job
def number(value):
    return value


@job
def add(name, a, b=None):
    SEEN[name] = [(i.uuid, i.index) for i in recorded_inputs(CURRENT_JOB.job) or []]
    return a if b is None else a + b


@job
def replaced(a):
    first = number(a)
    return Flow([first, second := add("inner", first.output, a)], output=second.output)


def test_reads_are_recorded_per_job(tmp_path):
    for docs in (SQLiteStore(tmp_path / "db"), MemoryStore()):
        store = FoundryJobStore(docs)
        a, b = number(1), number(2)
        c = add("c", a.output, b.output)
        d = add("d", c.output)
        e = replaced(a.output)
        f = add("f", e.output)
        run_locally(Flow([a, b, c, d, e, f]), store=store, log=False, ensure_success=True)
        assert sorted(SEEN["c"]) == sorted([(a.uuid, 1), (b.uuid, 1)])
        assert SEEN["d"] == [(c.uuid, 1)]
        assert len(SEEN["inner"]) == 1
        inner = store.query_one({"name": "add", "uuid": {"$nin": [c.uuid, d.uuid, f.uuid]}})
        assert set(SEEN["f"]) == {(e.uuid, 2), (inner["uuid"], 1)}
        assert store.get_output(f.uuid) == 2
        assert CURRENT_JOB.job is None


def test_blobs_are_written_before_documents(tmp_path):
    order = []

    class Watched(MemoryStore):
        def update(self, docs, key=None):
            order.append(self.collection_name)
            super().update(docs, key)

    store = FoundryJobStore(Watched("docs"), additional_stores={"data": Watched("blobs")})
    store.connect()
    store.update({"uuid": "a", "index": 1, "output": {"big": [1, 2]}}, save={"data": "big"})
    assert order == ["blobs", "docs"]
    assert store.get_output("a", load=True) == {"big": [1, 2]}
