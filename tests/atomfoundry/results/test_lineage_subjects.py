from __future__ import annotations

import shutil

import pytest

from atomfoundry.errors import ProjectError
from atomfoundry.results.lineage import descendants, lineage
from atomfoundry.results.lineage_graph import STORED
from atomfoundry.results.lineage_subjects import Subject, find_subject, trace


def found(campaign, text):
    return find_subject(campaign.db, campaign.project, str(text))


def test_every_way_to_name_a_model_and_its_artifact(campaign, tmp_path, monkeypatch):
    uuid = campaign.uuids["model"]
    artifact = campaign.document("model").model
    output = Subject("output", uuid)
    assert found(campaign, uuid) == found(campaign, uuid[:10]) == found(campaign, uuid.upper()) == output
    assert found(campaign, f"{campaign.project.work_dir}/{uuid}_1/job.log") == Subject("output", uuid, index=1)
    file = Subject("artifact", artifact.sha256)
    stored = campaign.project.artifacts.path(artifact)
    copy = shutil.copyfile(stored, tmp_path / "copy.bin")
    monkeypatch.chdir(tmp_path)
    for name in (
        artifact.sha256,
        artifact.sha256[:9],
        stored,
        stored.parent,
        f"artifacts/{artifact.uri}",
        copy,
        "copy.bin",
    ):
        assert found(campaign, name) == file, name
    dataset = campaign.document("few").dataset
    shard = next(campaign.project.artifacts.path(dataset).glob("*.parquet"))
    assert found(campaign, shard) == Subject("artifact", dataset.sha256)


def test_frames_and_labels(campaign):
    frame = campaign.frames["molecules"][0]
    source, _ = campaign.levels()
    assert found(campaign, frame) == found(campaign, frame[:10]) == Subject("frame", frame)
    assert found(campaign, f"{frame[:10]}@{source}") == Subject("frame", frame, level=source)
    graph = trace(campaign.db, campaign.project, f"{frame}@{source[:5]}", forward=True)
    assert [node.uuid for node in graph.of_kind("LabelDoc")] == [f"{frame}@{source}"]
    assert trace(campaign.db, campaign.project, frame, level=source).of_kind("LabelDoc")


def test_walks_from_an_artifact_are_those_of_its_output(campaign):
    uuid = campaign.uuids["few"]
    sha256 = campaign.document("few").dataset.sha256
    for forward, walk in ((False, lineage), (True, descendants)):
        graph = trace(campaign.db, campaign.project, sha256, forward=forward)
        plain = walk(campaign.db, uuid)
        assert set(graph.nodes) == {*plain.nodes, (sha256, 0)}
        (edge,) = [edge for edge in graph.edges if edge not in plain.edges]
        assert edge.how == STORED
        assert {edge.child, edge.parent} == {(sha256, 0), (uuid, 1)}
    assert "dataset of few" in graph.nodes[graph.root].label


def test_what_names_nothing_or_several_things(campaign, tmp_path):
    for text, message in (
        ("0123456", "no output, artifact or frame of"),
        ("abc", "no output, artifact or frame of"),
        ("f" * 64, "No output carries an artifact f{64}"),
        (tmp_path / "nothing", "There is no '.*nothing'"),
        (f"{campaign.uuids['model']}@1", "is no frame"),
    ):
        with pytest.raises(ProjectError, match=message):
            found(campaign, text)
    (tmp_path / "other").write_text("other")
    with pytest.raises(ProjectError, match="with the content of"):
        found(campaign, tmp_path / "other")


def test_a_beginning_that_two_things_share(own_campaign):
    uuid = own_campaign.uuids["model"]
    labels = own_campaign.project.labels()
    label = next(iter(labels.query()))
    labels.put(label.model_copy(update={"frame_id": uuid[:8] + "0" * 24}))
    with pytest.raises(ProjectError, match=f"beginning of 2 names .output {uuid}, frame {uuid[:8]}"):
        found(own_campaign, uuid[:8])
