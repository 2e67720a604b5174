from __future__ import annotations

import pytest

from atomfoundry.errors import InputError, ProjectError
from atomfoundry.results.frame_search import FrameFinder
from atomfoundry.results.label_lineage import frame_consequences, frame_lineage
from atomfoundry.results.lineage_graph import COMPUTED, LABELLED


@pytest.mark.parametrize("number", range(4))
def test_what_came_of_a_crystal_label_is_exactly_what_holds_it(campaign, number):
    frame = campaign.frames["crystals"][number]
    graph = frame_consequences(campaign.db, campaign.project, frame)
    big, small, few = (campaign.split_of(name, frame) for name in ("dataset", "crystal dataset", "few"))
    expected = {
        "dataset": f"[{big}]",
        "crystal dataset": f"[{small}]",
        "model": f"[{big}]",
        "benchmark model": "",
        "benchmark tuned": "",
        "report": "",
        "tuned": f"[{', '.join(sorted({big, few} - {None}))}]",
    }
    if few:
        expected |= {
            "few": f"[{few}]",
            "few model": f"[{few}]",
            "benchmark few model": "",
            "few report": "",
        }
    assert campaign.jobs_of(graph) == expected
    assert {node.name for node in graph.of_kind("LabelSetDoc")} == {"crystal labels collect"}
    assert graph.root == (frame, 0)
    (label,) = graph.of_kind("LabelDoc")
    assert "LennardJones" in label.label and " eV" in label.note


def test_half_of_the_crystals_are_in_the_chosen_few(campaign):
    assert sum(campaign.split_of("few", frame) is not None for frame in campaign.frames["crystals"]) == 2


def test_an_aligned_label_keeps_its_frame_and_is_told_from_one_at_the_target_level(campaign):
    source, target = campaign.levels()
    frame = campaign.frames["molecules"][0]
    split = campaign.split_of("dataset", frame)
    aligned = frame_consequences(campaign.db, campaign.project, frame, level=source)
    assert campaign.jobs_of(aligned) == {
        "align": "",
        "dataset": f"[{split}]",
        "model": f"[{split}]",
        "tuned": f"[{split}]",
        "benchmark model": "",
        "benchmark tuned": "",
        "report": "",
    }
    # The same structure at the target level took part in the fit alone: the row in the dataset is not this label.
    direct = frame_consequences(campaign.db, campaign.project, frame, level=target[:6])
    assert campaign.jobs_of(direct) == dict.fromkeys(campaign.jobs_of(aligned), "")
    assert {node.name for node in direct.of_kind("LabelSetDoc")} == {"molecules again collect"}
    both = frame_consequences(campaign.db, campaign.project, frame)
    assert len(both.of_kind("LabelDoc")) == 2
    document = campaign.db.document(campaign.uuids["dataset"]).document
    (place,) = FrameFinder(campaign.project.artifacts).places(document.dataset, [frame])[frame]
    assert (place.level, place.aligned_from, place.split) == (target, source, split)


def test_the_label_of_an_isolated_atom_acts_on_datasets_that_do_not_hold_it(campaign):
    _, target = campaign.levels()
    graph = frame_consequences(campaign.db, campaign.project, campaign.frames["atom"], level=target)
    assert set(campaign.jobs_of(graph)) == {
        "align",
        "dataset",
        "crystal dataset",
        "few",
        "model",
        "few model",
        "tuned",
        "benchmark model",
        "benchmark few model",
        "benchmark tuned",
        "report",
        "few report",
    }
    assert set(campaign.jobs_of(graph).values()) == {""}


def test_back_from_a_label_to_its_structures(campaign):
    frame = campaign.frames["molecules"][1]
    source, target = campaign.levels()
    graph = frame_lineage(campaign.db, campaign.project, frame, level=source)
    (label,) = graph.of_kind("LabelDoc")
    assert label.levels == {source: "LennardJones (ase)"}
    record = campaign.project.labels().get(frame, source)
    assert [(edge.child, edge.parent, edge.how) for edge in graph.edges[:2]] == [
        ((frame, 0), label.key, LABELLED),
        (label.key, (record.job_uuid, 1), COMPUTED),
    ]
    assert {node.name for node in graph.nodes.values() if node.is_job} == {
        "molecule labels batch",
        "molecule labels",
        "structures",
    }
    assert campaign.uuids["molecules"] in {node.uuid for node in graph.of_kind("StructureSetDoc")}
    assert {
        node.levels.popitem()[0] for node in frame_lineage(campaign.db, campaign.project, frame).of_kind("LabelDoc")
    } == {
        source,
        target,
    }


def test_frames_that_nobody_knows(campaign):
    with pytest.raises(InputError, match="'abc' is no frame id"):
        frame_lineage(campaign.db, campaign.project, "abc")
    with pytest.raises(ProjectError, match=r"Frame 0{32} has no label in"):
        frame_lineage(campaign.db, campaign.project, "0" * 32)
    with pytest.raises(ProjectError, match="no label at level 'ffff' in"):
        frame_consequences(campaign.db, campaign.project, campaign.frames["atom"], level="ffff")


def test_a_dataset_that_is_gone_counts_as_holding_the_frame(own_campaign):
    import shutil

    document = own_campaign.db.document(own_campaign.uuids["few"]).document
    shutil.rmtree(own_campaign.project.artifacts.path(document.dataset))
    missing = next(f for f in own_campaign.frames["crystals"] if own_campaign.split_of("crystal dataset", f))
    graph = frame_consequences(own_campaign.db, own_campaign.project, missing)
    notes = own_campaign.jobs_of(graph)
    assert notes["few"] == "[not certain: an artifact is missing]"
    assert "not certain" in notes["few model"] and "not certain" in notes["few report"]
    assert "not certain" not in notes["report"]
