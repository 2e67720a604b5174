from __future__ import annotations

import json
from collections import Counter

import pytest

from atomfoundry.results.label_lineage import frame_consequences, frame_lineage
from atomfoundry.results.lineage import lineage
from atomfoundry.results.lineage_subjects import artifact_lineage
from atomfoundry.results.prov_json import to_prov_json
from atomfoundry.results.withdrawal import withdraw

prov = pytest.importorskip("prov.model")

_ENDS = {
    "used": {"activity": "activity", "entity": "entity"},
    "wasGeneratedBy": {"entity": "entity", "activity": "activity"},
    "wasDerivedFrom": {"generatedEntity": "entity", "usedEntity": "entity"},
    "wasInformedBy": {"informed": "activity", "informant": "activity"},
    "wasAssociatedWith": {"activity": "activity", "agent": "agent"},
    "wasInvalidatedBy": {"entity": "entity"},
    "hadMember": {"collection": "entity", "entity": "entity"},
}
"""Relation -> its ends and what they are: the schema of the PROV-JSON submission, as far as it is used."""


def checked(graph):
    """The record, after the schema's demands and the round trip through the reference implementation."""
    record = json.loads(json.dumps(to_prov_json(graph)))
    assert set(record) <= {"prefix", "entity", "activity", "agent", *_ENDS}
    for relation, ends in _ENDS.items():
        for content in record.get(relation, {}).values():
            assert {name.removeprefix("prov:") for name in content} - {"time"} == set(ends)
            for name, kind in ends.items():
                assert content[f"prov:{name}"] in record[kind], (relation, content)
    document = prov.ProvDocument.deserialize(content=json.dumps(record), format="json")
    counts = Counter(type(item).__name__ for item in document.get_records())
    names = {
        "ProvEntity": "entity",
        "ProvActivity": "activity",
        "ProvAgent": "agent",
        "ProvUsage": "used",
        "ProvGeneration": "wasGeneratedBy",
        "ProvDerivation": "wasDerivedFrom",
        "ProvCommunication": "wasInformedBy",
        "ProvAssociation": "wasAssociatedWith",
        "ProvInvalidation": "wasInvalidatedBy",
        "ProvMembership": "hadMember",
    }
    assert dict(counts) == {name: len(record[key]) for name, key in names.items() if key in record}
    again = prov.ProvDocument.deserialize(content=document.serialize(format="json"), format="json")
    assert again == document
    return record, document


def test_a_model(campaign):
    uuid = campaign.uuids["tuned"]
    graph = lineage(campaign.db, uuid)
    record, document = checked(graph)
    jobs = {key for key, node in graph.nodes.items() if node.is_job}
    assert set(record["activity"]) == {f"foundry:job_{uuid}_{index}" for uuid, index in jobs}
    source = campaign.document("tuned").provenance
    activity = record["activity"][f"foundry:job_{uuid}_1"]
    assert activity["foundry:seed"] == 3
    assert activity["foundry:host"] == activity["prov:location"] == source.host
    assert activity["foundry:settings_hash"] == source.settings_hash
    (agent,) = {
        item["prov:agent"]
        for item in record["wasAssociatedWith"].values()
        if item["prov:activity"] == f"foundry:job_{uuid}_1"
    }
    assert record["agent"][agent]["foundry:version"] == source.code_version
    assert record["agent"][agent]["foundry:package_ase"] == source.packages["ase"]
    used = {i["prov:entity"] for i in record["used"].values() if i["prov:activity"] == f"foundry:job_{uuid}_1"}
    assert used == {f"foundry:output_{campaign.uuids[name]}_1" for name in ("model", "few")}
    model = campaign.document("tuned").model
    file = record["entity"][f"foundry:artifact_{model.sha256}"]
    assert (file["foundry:sha256"], file["foundry:size"]) == (model.sha256, model.size)
    (start,) = [a for a in document.get_records(prov.ProvActivity) if str(a.identifier).endswith(f"job_{uuid}_1")]
    assert start.get_startTime().isoformat(timespec="milliseconds") == source.started_at


def test_a_label_there_and_back(own_campaign):
    frame = own_campaign.frames["molecules"][0]
    source, target = own_campaign.levels()
    withdraw(own_campaign.project, [frame], "bad", level=source)
    back, _ = checked(frame_lineage(own_campaign.db, own_campaign.project, frame))
    label = f"foundry:label_{frame}_{source}"
    record = own_campaign.project.labels().get(frame, source)
    assert {i["prov:activity"] for i in back["wasGeneratedBy"].values() if i["prov:entity"] == label} == {
        f"foundry:job_{record.job_uuid}_1"
    }
    (invalid,) = back["wasInvalidatedBy"].values()
    assert invalid == {"prov:entity": label, "prov:time": record.withdrawn_at}
    forward, _ = checked(frame_consequences(own_campaign.db, own_campaign.project, frame))
    for some in (back, forward):
        derived = {(i["prov:generatedEntity"], i["prov:usedEntity"]) for i in some["wasDerivedFrom"].values()}
        assert {(f"foundry:label_{frame}_{level}", f"foundry:frame_{frame}") for level in (source, target)} <= derived
    dataset = forward["entity"][f"foundry:output_{own_campaign.uuids['dataset']}_1"]
    assert [text.split()[0] for text in dataset["foundry:stale"]] == [frame]


def test_an_artifact(campaign):
    sha256 = campaign.document("model").model.sha256
    back, _ = checked(artifact_lineage(campaign.db, sha256))
    generated = {i["prov:activity"] for i in back["wasGeneratedBy"].values() if i["prov:entity"].endswith(sha256)}
    assert generated == {f"foundry:job_{campaign.uuids['model']}_1"}
    checked(artifact_lineage(campaign.db, sha256, forward=True))


def test_a_missing_output(own_campaign):
    own_campaign.db.store.remove_docs({"uuid": own_campaign.uuids["crystals"]})
    record, _ = checked(lineage(own_campaign.db, own_campaign.uuids["few model"]))
    missing = f"foundry:output_{own_campaign.uuids['crystals']}_1"
    assert missing in record["entity"]
    assert missing not in {item["prov:entity"] for item in record["wasGeneratedBy"].values()}
