from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from jobflow import Flow, JobStore, Maker, Response, run_locally
from maggma.stores import MemoryStore

import atomfoundry
from atomfoundry.documents import BenchmarkDoc, Provenance
from atomfoundry.makers.job import foundry_job, git_commit, package_versions
from atomfoundry.results import Project


def document(n=0) -> BenchmarkDoc:
    return BenchmarkDoc(benchmark="x", calculator="c", n_items=n)


@foundry_job
def plain(n, seed=3):
    return document(n)


@foundry_job(output_schema=BenchmarkDoc)
def as_dict(doc):
    return {"benchmark": "y", "calculator": "c", "n_items": doc.n_items + 1}


@foundry_job
def many(kind):
    docs = [document(1), document(2)]
    return {"list": docs, "dict": {"a": docs[0], "b": 5}, "response": Response(output=docs[0])}[kind]


@foundry_job
def no_document():
    return 5


@dataclass
class InnerMaker(Maker):
    name: str = "inner"
    factor: int = 2

    @foundry_job
    def make(self, doc):
        return document(doc.n_items * self.factor)


@dataclass
class OuterMaker(Maker):
    name: str = "outer"
    seed: int = 11
    device: str = "auto"
    inner: InnerMaker = field(default_factory=InnerMaker)

    @foundry_job
    def make(self, doc):
        return Response(replace=self.inner.make(doc))

    @staticmethod
    @foundry_job
    def static(n):
        return document(n)


def run(flow, store=None):
    store = store or JobStore(MemoryStore())
    run_locally(flow, store=store, log=False, ensure_success=True)
    return store


def test_provenance_is_complete(tmp_path):
    first = plain(1, seed=7)
    second = as_dict(first.output)
    store = run(Flow([first, second]), Project.open_or_create(tmp_path / "p").job_store())
    doc = BenchmarkDoc(**{k: v for k, v in store.get_output(second.uuid).items() if not k.startswith("@")})
    provenance = doc.provenance
    assert doc.n_items == 2
    assert (provenance.job_uuid, provenance.job_index, provenance.job_name) == (second.uuid, 1, "as_dict")
    assert [(i.uuid, i.index) for i in provenance.inputs] == [(first.uuid, 1)]
    assert provenance.code_version == atomfoundry.__version__
    assert {"python", "numpy", "jobflow"} <= set(provenance.packages)
    assert provenance.host
    assert provenance.started_at.endswith("+00:00")
    assert provenance.wall_time_s > 0
    assert provenance.peak_memory_mb > 10
    assert provenance.seed is None
    assert store.get_output(first.uuid)["provenance"]["seed"] == 7


def test_plain_job_store_knows_inputs_from_the_documents_given():
    first = plain(1)
    second = as_dict(first.output)
    store = run(Flow([first, second]))
    inputs = store.get_output(second.uuid)["provenance"]["inputs"]
    assert [(i["uuid"], i["index"]) for i in inputs] == [(first.uuid, 1)]
    assert store.get_output(first.uuid)["provenance"]["seed"] == 3


def test_makers_behave_as_with_job():
    first = plain(3)
    outer = OuterMaker().make(first.output)
    assert outer.name == "outer"
    flow = Flow([first, outer])
    flow.update_maker_kwargs({"factor": 5}, class_filter=InnerMaker)
    store = run(flow)
    assert store.get_output(outer.uuid)["n_items"] == 15
    provenance = store.get_output(outer.uuid)["provenance"]
    assert (provenance["job_uuid"], provenance["job_index"], provenance["job_name"]) == (
        outer.uuid,
        2,
        "inner",
    )
    static = OuterMaker.static(4)
    assert run(static).get_output(static.uuid)["provenance"]["job_uuid"] == static.uuid


def test_update_kwargs():
    first = plain(1)
    first.update_kwargs({"seed": 9})
    assert run(first).get_output(first.uuid)["provenance"]["seed"] == 9


@pytest.mark.parametrize("kind", ["list", "dict", "response"])
def test_documents_inside_other_outputs(kind):
    made = many(kind)
    output = run(made).get_output(made.uuid)
    docs = {"list": lambda: output, "dict": lambda: [output["a"]], "response": lambda: [output]}[kind]()
    assert all(Provenance(**_plain(doc["provenance"])).job_uuid == made.uuid for doc in docs)


def _plain(value):
    return {key: item for key, item in value.items() if not key.startswith("@")}


def test_other_outputs_pass_and_functions_work_outside_jobs():
    made = no_document()
    assert run(made).get_output(made.uuid) == 5
    assert plain.original(2).provenance is None


def test_settings_hash_tells_settings_apart_and_nothing_else():
    def hash_of(maker):
        first = plain(1)
        made = maker.make(first.output)
        return run(Flow([first, made])).get_output(made.uuid)["provenance"]["settings_hash"]

    assert hash_of(InnerMaker()) == hash_of(InnerMaker())
    assert hash_of(InnerMaker()) != hash_of(InnerMaker(factor=3))


def test_versions_and_commit():
    assert package_versions()["jobflow"]
    commit = git_commit()
    assert commit is None or len(commit.removesuffix("-dirty")) == 40


@pytest.mark.parametrize(
    ("asked", "used", "recorded"),
    [
        ("auto", True, "cuda (H200)"),
        ("auto", False, "cpu"),
        ("cuda:1", True, "cuda:1 (H200)"),
        ("cuda", False, "cuda"),
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
    ],
)
def test_the_device_is_the_job_s_own(monkeypatch, asked, used, recorded):
    """Another job of the same process may have used a GPU before."""
    import torch

    from atomfoundry.makers import job

    counts = iter([5, 9 if used else 5])
    monkeypatch.setattr(job, "_gpu_allocations", lambda: next(counts))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "H200")
    clock = job._Clock()
    assert job._device(OuterMaker(device=asked), {}, clock) == recorded
