from __future__ import annotations

import numpy as np
import pytest
from ase.io import write
from jobflow import Flow, JobStore, run_locally
from maggma.stores import MemoryStore

from atomfoundry.datasets import attach_labels
from atomfoundry.documents import LevelOfTheory
from atomfoundry.errors import InputError, ProjectError
from atomfoundry.makers.align import AlignMaker
from atomfoundry.makers.dataset import DatasetMaker
from atomfoundry.makers.dataset_work import ImportDatasetMaker, MergeMaker, SelectMaker
from atomfoundry.results import LabelStore, stale, use_project, withdrawal
from atomfoundry.results.label_lineage import frame_consequences
from atomfoundry.results.stale import marked_outputs
from atomfoundry.results.withdrawal import restore, withdraw
from atomfoundry.running import run


def test_withdraw_marks_exactly_what_holds_or_used_the_label_and_restore_undoes_it(own_campaign):
    frame = next(f for f in own_campaign.frames["crystals"] if own_campaign.split_of("few", f) is None)
    before = own_campaign.everything()
    dry = withdraw(own_campaign.project, [frame], "bad k-points", dry_run=True)
    assert own_campaign.everything() == before
    done = withdraw(own_campaign.project, [frame], " bad k-points ")
    expected = set(own_campaign.jobs_of(frame_consequences(own_campaign.db, own_campaign.project, frame)))
    assert expected == {"dataset", "crystal dataset", "model", "tuned", "benchmark model", "benchmark tuned", "report"}
    assert set(own_campaign.marked()) == {*expected, "crystal labels collect"}
    assert done.changed == len(done.documents) == len(dry.documents) == len(expected) + 1
    (label,) = own_campaign.project.labels().query({"frame_id": frame})
    assert (label.status, label.reason, label.message) == ("withdrawn", "withdrawn", "bad k-points")
    assert label.energy is not None and label.withdrawn_at
    (mark,) = own_campaign.marked()["model"]
    assert (mark["frame_id"], mark["level_id"], mark["reason"]) == (frame, label.level_id, "bad k-points")
    assert (mark["since"], mark["holds"]) == (label.withdrawn_at, False)
    assert mark["splits"] == [own_campaign.split_of("dataset", frame)]
    assert own_campaign.marked()["dataset"][0]["holds"]
    # typed documents are as they were
    assert own_campaign.db.models() == [result for result in own_campaign.db.models() if result.document.provenance]
    after = own_campaign.everything()
    again = withdraw(own_campaign.project, [frame], "another reason")
    assert again.changed == 0
    assert own_campaign.everything() == after
    undone = restore(own_campaign.project, [frame])
    assert undone.changed == done.changed
    assert own_campaign.everything() == before
    assert own_campaign.marked() == {}
    assert restore(own_campaign.project, [frame]).skipped == {(frame, label.level_id): "it is not withdrawn"}


def test_two_labels_on_one_document_and_one_restored(own_campaign):
    first, second = own_campaign.frames["crystals"][:2]
    withdraw(own_campaign.project, [first], "one")
    withdraw(own_campaign.project, [first, second], "two")
    assert [(m["frame_id"], m["reason"]) for m in own_campaign.marked()["dataset"]] == [(first, "one"), (second, "two")]
    restore(own_campaign.project, [first])
    assert [m["frame_id"] for m in own_campaign.marked()["dataset"]] == [second]


def test_a_kill_halfway_is_finished_by_the_next_call(own_campaign, monkeypatch):
    frame = own_campaign.frames["crystals"][0]
    write = stale._write

    def once(store, documents):
        write(store, documents[:2])
        raise KeyboardInterrupt

    monkeypatch.setattr(stale, "_write", once)
    with pytest.raises(KeyboardInterrupt):
        withdraw(own_campaign.project, [frame], "bad")
    assert len(own_campaign.marked()) == 2
    (label,) = own_campaign.project.labels().query({"frame_id": frame})
    assert label.status == "withdrawn"
    monkeypatch.setattr(stale, "_write", write)
    done = withdraw(own_campaign.project, [frame], "again")
    assert len(own_campaign.marked()) == len(done.documents) > 2
    assert {mark["reason"] for marks in own_campaign.marked().values() for mark in marks} == {"bad"}
    monkeypatch.setattr(stale, "_write", once)
    with pytest.raises(KeyboardInterrupt):
        restore(own_campaign.project, [frame])
    monkeypatch.setattr(stale, "_write", write)
    restore(own_campaign.project, [frame])
    assert own_campaign.marked() == {}
    assert next(own_campaign.project.labels().query({"frame_id": frame})).status == "ok"


def test_one_level_of_two(own_campaign):
    source, target = own_campaign.levels()
    frame = own_campaign.frames["molecules"][0]
    done = withdraw(own_campaign.project, [frame], "bad", level=source)
    assert [label.key for label in done.labels] == [(frame, source)]
    assert own_campaign.project.labels().get(frame, target).status == "ok"


def test_wrong_use(own_campaign):
    with pytest.raises(InputError, match="without a reason"):
        withdraw(own_campaign.project, [own_campaign.frames["atom"]], " ")
    with pytest.raises(ProjectError, match="has no label"):
        withdraw(own_campaign.project, ["1" * 32], "bad")
    labels = own_campaign.project.labels()
    (label,) = labels.query({"frame_id": own_campaign.frames["crystals"][0]})
    labels.put(label.model_copy(update={"status": "failed", "reason": "unconverged"}))
    done = withdraw(own_campaign.project, [label.frame_id], "bad")
    assert done.labels == [] and done.documents == []
    assert done.skipped == {(label.frame_id, label.level_id): "it failed (unconverged) and is used nowhere"}


def test_withdrawn_labels_are_neither_computed_again_nor_used(own_campaign):
    module, project = own_campaign.module, own_campaign.project
    source, _ = own_campaign.levels()
    crystal = next(f for f in own_campaign.frames["crystals"] if own_campaign.split_of("few", f) == "train")
    molecule = own_campaign.frames["molecules"][0]
    withdraw(project, [crystal], "bad")
    withdraw(project, [molecule], "worse", level=source)
    n_labels = project.labels().count()
    sets = {r.name: r for r in own_campaign.db.label_sets()}
    documents = {name: own_campaign.db.document(own_campaign.uuids[name]).document for name in own_campaign.uuids}
    jobs = {
        "labels": module.labels(module.TARGET, "once more").make(documents["crystals"]),
        "dataset": DatasetMaker(name="new", max_force=1000.0).make(
            [sets["crystal labels collect"].document], documents["atoms at target"], [documents["align"]]
        ),
        "extended": DatasetMaker(name="extended", max_force=1000.0).make(
            [sets["molecules again collect"].document], previous=documents["crystal dataset"]
        ),
        "merged": MergeMaker(name="merged").make([documents["crystal dataset"], documents["dataset"]]),
        "selected": SelectMaker(name="selected", number=3).make(documents["crystal dataset"]),
        "align": AlignMaker(name="align anew", mode="atoms", force=True).make(
            documents["molecule labels"],
            documents["atoms at source"],
            documents["atoms at target"],
            documents["molecules again"],
            documents["atoms at target"],
        ),
    }
    result = run(Flow(list(jobs.values())), project=project, workers=0, progress=False)
    assert result.ok, result.failures
    made = {name: own_campaign.db.document(result.uuid_of(job)).document for name, job in jobs.items()}
    assert project.labels().count() == n_labels
    assert (made["labels"].n_labelled, made["labels"].n_failed, made["labels"].reasons) == (3, 1, {"withdrawn": 1})
    assert made["labels"].failures[0].message == "bad"
    assert made["dataset"].n_frames == 6 and made["dataset"].rejections == {"withdrawn": 2}
    assert {f.frame_id: f.message for f in made["dataset"].rejected} == {crystal: "bad", molecule: "worse"}
    # the same molecule at the target level is another label, and stays
    assert made["extended"].n_frames == 3 + 4 and made["extended"].rejections == {"withdrawn": 1}
    assert sum(made["extended"].splits.values()) == 7
    assert made["merged"].n_frames == 6 and made["merged"].rejections == {"withdrawn": 3}
    assert made["selected"].n_frames == 3 and made["selected"].rejections == {"withdrawn": 1}
    assert made["align"].n_aligned == 3 and made["align"].left_out == {"withdrawn": 1}
    # none of what was made without them is marked
    new = {result.uuid_of(job) for job in jobs.values()}
    assert not new & {node.uuid for node in marked_outputs(own_campaign.db.store.docs_store)}


def test_an_isolated_atom_that_is_withdrawn_stops_a_dataset(own_campaign):
    _, target = own_campaign.levels()
    withdraw(own_campaign.project, [own_campaign.frames["atom"]], "wrong spin", level=target)
    documents = {
        n: own_campaign.db.document(own_campaign.uuids[n]).document for n in ("crystal labels", "atoms at target")
    }
    job = DatasetMaker(name="new", max_force=1000.0).make([documents["crystal labels"]], documents["atoms at target"])
    result = run(Flow([job]), project=own_campaign.project, workers=0, progress=False)
    assert not result.ok
    assert "No isolated-atom energy" in result.failures[0].message and "wrong spin" in result.failures[0].message


def test_what_is_trained_on_a_stale_dataset_is_stale_from_the_start(own_campaign, tmp_path):
    frame = next(f for f in own_campaign.frames["crystals"] if own_campaign.split_of("few", f) == "train")
    withdraw(own_campaign.project, [frame], "bad")
    module = own_campaign.module
    job = module.trained(own_campaign.reference("few"), "late")
    after = module.benchmark(job.output)
    other = module.benchmark(own_campaign.reference("few model"))
    with use_project(own_campaign.project):
        run_locally(
            Flow([job, after, other]),
            store=own_campaign.project.job_store(),
            log=False,
            ensure_success=True,
            allow_external_references=True,
            root_dir=tmp_path,
        )
    (model,) = own_campaign.db.store.query({"uuid": job.uuid})
    (mark,) = model["stale"]
    assert (mark["frame_id"], mark["reason"], mark["splits"], mark["holds"]) == (frame, "bad", ["train"], False)
    for uuid in (after.uuid, other.uuid):
        assert [m["frame_id"] for m in own_campaign.db.store.query_one({"uuid": uuid})["stale"]] == [frame]
    # the same marks as a withdrawal makes
    before = own_campaign.everything()
    assert withdraw(own_campaign.project, [frame], "bad").changed == 0
    assert own_campaign.everything() == before


def test_the_same_on_a_server_of_documents(own_campaign):
    """MongoDB's way to write marks, on maggma's store in memory."""
    outputs, labels = MemoryStore("outputs"), MemoryStore("labels", key="frame_id")
    frame = own_campaign.frames["crystals"][0]
    done = withdraw(own_campaign.project, [frame], "bad", dry_run=True)
    table = LabelStore(labels)
    table.put_many(own_campaign.project.labels().query())
    store = JobStore(outputs)
    store.connect()
    outputs.update(list(own_campaign.db.store.docs_store.query()), key=["uuid", "index"])
    project = own_campaign.project
    project.job_store = lambda: store
    project.__dict__["_labels"] = table
    before = list(outputs.query({}, {"_id": 0}))
    assert withdraw(project, [frame], "bad").changed == len(done.documents)
    assert withdraw(project, [frame], "bad").changed == 0
    found = {(node.uuid, node.index) for node in marked_outputs(outputs)}
    assert found == {node.key for node, _ in done.documents}
    assert table.count({"status": "withdrawn"}) == 1
    restore(project, [frame])
    assert list(outputs.query({}, {"_id": 0})) == before


def test_labels_that_came_from_a_file(own_campaign, tmp_path):
    level = LevelOfTheory(code="paper", method="LJ")
    frames = own_campaign.module.crystals()
    write(tmp_path / "f.xyz", [attach_labels(atoms, -1.0, np.zeros((3, 3))) for atoms in frames], format="extxyz")
    frame = own_campaign.frames["crystals"][2]
    project = own_campaign.project

    def imported(name):
        job = ImportDatasetMaker.from_file(tmp_path / "f.xyz", name=name, level=level).make()
        model = own_campaign.module.trained(job.output, f"model of {name}")
        result = run(Flow([job, model]), project=project, workers=0, progress=False)
        assert result.ok, result.failures
        return [own_campaign.db.store.query_one({"uuid": result.uuid_of(item)}) for item in (job, model)]

    first, model = imported("first")
    n_labels = project.labels().count()
    done = withdraw(project, [frame], "misprint", level=level.id)
    assert {node.key for node, _ in done.documents} == {(d["uuid"], 1) for d in (first, model)}
    record = project.labels().get(frame, level.id)
    assert (record.status, record.engine, record.message) == ("withdrawn", "imported", "misprint")
    second, late = imported("second")
    assert (second["output"]["n_frames"], second["output"]["rejections"]) == (3, {"withdrawn": 1})
    assert "stale" not in second and "stale" not in late
    assert restore(project, [frame], level=level.id).changed == 2
    assert project.labels().count() == n_labels
    assert own_campaign.marked() == {}


def test_what_is_stored_while_a_label_is_withdrawn_is_marked_as_well(own_campaign, monkeypatch):
    """A benchmark that ends between the look at the outputs and the marks on them."""
    frame = own_campaign.frames["crystals"][0]
    model = own_campaign.uuids["model"]
    late = {
        "uuid": "late",
        "index": 1,
        "name": "late",
        "inputs": [{"uuid": model, "index": 1}],
        "output": {"@class": "BenchmarkDoc", "provenance": None},
    }
    effects = withdrawal.label_effects

    def meanwhile(*arguments):
        found = effects(*arguments)
        if own_campaign.db.store.docs_store.count({"uuid": "late"}) == 0:
            own_campaign.db.store.docs_store.update(late, key=["uuid", "index"])
        return found

    monkeypatch.setattr(withdrawal, "label_effects", meanwhile)
    withdraw(own_campaign.project, [frame], "bad")
    assert [mark["frame_id"] for mark in own_campaign.marked()["late"]] == [frame]
