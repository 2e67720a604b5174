from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from atomfoundry.documents import Artifact, BenchmarkDoc, LabelDoc, ModelDoc, StructureSetDoc
from atomfoundry.errors import ProjectError
from atomfoundry.results import Project, ResultsDB, open_results
from atomfoundry.results.database import DOCUMENT_CLASSES, to_pandas
from atomfoundry.results.lineage import descendants, lineage
from atomfoundry.results.lineage_formats import to_mermaid, to_text
from atomfoundry.results.prov_json import to_prov_json
from atomfoundry.running import run

ARTIFACT = Artifact(uri="a", sha256="0" * 64, size=1)


def put(store, uuid, document, index=1, **fields):
    store.update({"uuid": uuid, "index": index, "name": uuid, "output": document, **fields})


def model(n: int, **changes) -> ModelDoc:
    return ModelDoc(
        **{
            "name": f"m{n}",
            "architecture": "allegro",
            "n_parameters": n,
            "elements": ["Si"],
            "heads": [],
            "model": ARTIFACT,
            **changes,
        }
    )


@pytest.fixture
def project(tmp_path):
    return Project.open_or_create(tmp_path / "p")


def test_typed_queries(project):
    store = project.job_store()
    for n in (1, 2, 3):
        put(
            store,
            f"u{n}",
            model(n),
            completed_at=f"2026-01-0{4 - n}T00:00:00",
            metadata={"stage": "training"},
        )
    put(store, "b", BenchmarkDoc(benchmark="parity", calculator="m1", summary={"mae": 0.5}))
    put(store, "s", StructureSetDoc(name="si", n_structures=2, structures=ARTIFACT))
    put(store, "other", {"models": 3})
    project.labels().put(LabelDoc(frame_id="f", level_id="l", engine="xtb", status="failed", reason="nan"))
    db = open_results(project.path)
    assert [result.document.n_parameters for result in db.models()] == [3, 2, 1]
    assert isinstance(db.models()[0].document, ModelDoc)
    assert [r.uuid for r in db.models({"n_parameters": {"$gte": 2}, "job.metadata.stage": "training"})] == [
        "u3",
        "u2",
    ]
    assert [r.uuid for r in db.models({"$or": [{"name": "m1"}, {"output.name": "m3"}]})] == ["u3", "u1"]
    assert db.benchmarks({"summary.mae": 0.5})[0].document.benchmark == "parity"
    assert db.structures()[0].document.n_structures == 2
    assert db.labels({"status": "failed"})[0].document.reason == "nan"
    for query in (
        db.datasets,
        db.alignments,
        db.uncertainties,
        db.selections,
        db.reports,
        db.label_sets,
        db.forgetting,
    ):
        assert query() == []
    assert db.document("other").document == {"models": 3}
    assert db.document("u2").document == model(2)
    table = to_pandas(db.models())
    assert list(table["n_parameters"]) == [3, 2, 1]
    assert list(table["model.sha256"]) == ["0" * 64] * 3
    assert "ModelDoc" in DOCUMENT_CLASSES


def test_errors(project):
    store = project.job_store()
    db = open_results(project)
    with pytest.raises(ProjectError, match="no output of a job 'abc'"):
        db.document("abc")
    put(store, "abc1", 1)
    put(store, "abc2", 1)
    with pytest.raises(ProjectError, match="beginning of 2 uuids"):
        db.document("abc")
    assert db.document("abc1").document == 1
    with pytest.raises(ProjectError, match="no output 7"):
        db.document("abc1", 7)
    put(store, "new", model(1, schema_version=99))
    with pytest.raises(ProjectError, match="schema version 99"):
        db.models()
    put(store, "new", {**model(1).model_dump(), "@class": "ModelDoc", "typo": 1})
    with pytest.raises(ProjectError, match="'typo'"):
        db.models()
    with pytest.raises(ProjectError, match="does not exist"):
        open_results(project.path / "work")


@pytest.fixture
def jobs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "running"))
    return sys.modules.get("foundry_flow_jobs") or importlib.import_module("foundry_flow_jobs")


def names_of(graph):
    return sorted(node.name for node in graph.nodes.values())


def test_lineage_through_dynamic_branches(jobs, project):
    score = jobs.ScoreMaker(pause=0)
    first = score.make([], n=1)
    fan = jobs.FanMaker(width=2, score=score).make(first.output, depth=1)
    last = score.make([fan.output], n=5)
    side = score.make([], n=9)
    flow = Flow([first, fan, last, side])
    result = run(flow, project=project, workers=0, progress=False)
    db = open_results(project)
    root = result.uuid_of(last)
    graph = lineage(db, root[:12])
    assert graph.root == (root, 1)
    assert (result.uuid_of(first), 1) in graph.nodes
    assert (result.uuid_of(side), 1) not in graph.nodes
    assert {(result.uuid_of(fan), 1), (result.uuid_of(fan), 2)} <= set(graph.nodes)
    # All but the fan's addition, which nobody read, and the job beside it.
    assert len(graph.nodes) == result.total - 2
    assert not any(node.missing for node in graph.nodes.values())
    down = descendants(db, result.uuid_of(first))
    assert set(down.nodes) == {(d["uuid"], d["index"]) for d in db.store.query()} - {(result.uuid_of(side), 1)}
    replaced = db.document(result.uuid_of(fan))
    assert replaced.index == 2
    assert isinstance(replaced.document, BenchmarkDoc)


def test_lineage_of_plain_jobs_and_of_missing_outputs(jobs, project):
    first, second = jobs.add(1), jobs.add(2)
    third = jobs.add(first.output, second.output)
    result = run(Flow([first, second, third]), project=project, workers=0, progress=False)
    db = open_results(project)
    graph = lineage(db, result.uuid_of(third))
    assert set(graph.nodes) == {(result.uuid_of(j), 1) for j in (first, second, third)}
    db.store.remove_docs({"uuid": result.uuid_of(first)})
    graph = lineage(db, result.uuid_of(third))
    assert graph.nodes[result.uuid_of(first), 1].missing
    to_prov_json(graph)


def test_lineage_on_any_job_store(jobs):
    store = JobStore(MemoryStore())
    score = jobs.ScoreMaker(pause=0)
    first = score.make([])
    second = score.make([first.output])
    run_locally(Flow([first, second]), store=store, log=False, ensure_success=True)
    assert len(lineage(ResultsDB(store), second.uuid).nodes) == 2


def test_formats(jobs, project):
    score = jobs.ScoreMaker(pause=0)
    first = score.make([])
    fan = jobs.FanMaker(width=2, score=score).make(first.output, depth=0)
    last = score.make([fan.output, first.output])
    result = run(Flow([first, fan, last]), project=project, workers=0, progress=False)
    graph = lineage(open_results(project), result.uuid_of(last))
    text = to_text(graph)
    assert text.splitlines()[0] == f"score (BenchmarkDoc) {result.uuid_of(last)[:8]}"
    assert "[points to]" in text
    assert "[replaces]" in text
    assert "(see elsewhere)" in text
    mermaid = to_mermaid(graph)
    assert mermaid.startswith("flowchart TD\n")
    assert mermaid.count("-->") + mermaid.count(".->") == len(graph.edges)
    prov = json.loads(json.dumps(to_prov_json(graph)))
    assert len(prov["activity"]) == len(prov["wasGeneratedBy"]) == len(graph.nodes)
    for relation, (left, right) in {
        "used": ("activity", "entity"),
        "wasGeneratedBy": ("entity", "activity"),
        "wasAssociatedWith": ("activity", "agent"),
    }.items():
        for item in prov[relation].values():
            assert item[f"prov:{left}"] in prov[left]
            assert item[f"prov:{right}"] in prov[right]
    assert prov["wasInformedBy"]
    for item in prov["wasDerivedFrom"].values():
        assert {item["prov:generatedEntity"], item["prov:usedEntity"]} <= set(prov["entity"])
