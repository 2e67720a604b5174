from __future__ import annotations

import builtins
import hashlib
import json
import shutil
import zipfile
from urllib.parse import quote, unquote

import pytest

from atomfoundry.errors import ConfigurationError, InputError
from atomfoundry.results import research_crate
from atomfoundry.results.artifacts import hash_path
from atomfoundry.results.lineage import lineage
from atomfoundry.results.research_crate import PROFILE, write_crate


def written(campaign, path, name="few model", **fields):
    pytest.importorskip("rocrate")
    graph = lineage(campaign.db, campaign.uuids[name])
    return graph, write_crate(graph, campaign.db, campaign.project.artifacts, path, **fields)


def test_a_crate_is_read_back_by_the_library(campaign, tmp_path):
    graph, done = written(
        campaign,
        tmp_path / "crate",
        name="few model",
        license_="CC-BY-4.0",
        authors=["Ada Lovelace <https://orcid.org/0000-0000-0000-0001>", "Emmy Noether"],
    )
    from rocrate.rocrate import ROCrate

    crate = ROCrate(tmp_path / "crate")
    assert crate.version == "1.2"
    jobs = [node for node in graph.nodes.values() if node.is_job]
    actions = {action.id: action for action in crate.get_by_type("CreateAction")}
    assert set(actions) == {f"#job-{node.uuid}-{node.index}" for node in jobs}
    assert done.n_actions == len(jobs) and done.missing == []
    uuid = campaign.uuids["few model"]
    model = campaign.document("few model")
    action = actions[f"#job-{uuid}-1"]
    assert action["instrument"]["name"] == "Atomfoundry"
    assert action["instrument"]["version"] == model.provenance.code_version
    assert {p["name"]: p["version"] for p in action["instrument"]["softwareRequirements"]} == model.provenance.packages
    assert action["startTime"] == model.provenance.started_at
    assert action["endTime"] > action["startTime"]
    assert [agent["name"] for agent in action["agent"]] == ["Ada Lovelace", "Emmy Noether"]
    assert action["location"]["name"] == model.provenance.host
    dataset = campaign.document("few")
    assert {entity.id for entity in action["object"]} == {
        f"documents/{campaign.uuids['few']}_1.json",
        f"artifacts/{dataset.dataset.uri}/",
        "#seed-3",
        f"#settings_hash-{model.provenance.settings_hash}",
        "#device-cpu",
    }
    assert [entity.id for entity in action["result"]] == [
        f"documents/{uuid}_1.json",
        quote(f"artifacts/{model.model.uri}"),
    ]
    assert crate.mainEntity.id == f"documents/{uuid}_1.json"
    assert crate.license.id == "https://spdx.org/licenses/CC-BY-4.0"
    assert {action.id for action in crate.root_dataset["mentions"]} == set(actions)
    assert crate.root_dataset["conformsTo"].id == PROFILE
    assert [a.id for a in crate.root_dataset["author"]] == [
        "https://orcid.org/0000-0000-0000-0001",
        "#author-emmy-noether",
    ]
    assert hash_path(tmp_path / "crate" / "artifacts" / dataset.dataset.uri)[0] == dataset.dataset.sha256
    files = [file for file in crate.get_by_type("File") if not file.id.startswith("ro-crate")]
    assert len(files) > len(jobs)
    for file in files:
        content = (tmp_path / "crate" / unquote(file.id)).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == int(file["contentSize"])
    document = json.loads((tmp_path / "crate" / f"documents/{uuid}_1.json").read_text())
    assert document["document"] == model.model_dump(mode="json")
    assert {path.name for path in tmp_path.iterdir()} == {"crate"}


def test_every_reference_of_the_metadata_leads_somewhere(campaign, tmp_path):
    written(campaign, tmp_path / "crate", name="report")
    graph = json.loads((tmp_path / "crate" / "ro-crate-metadata.json").read_text())["@graph"]
    known = {entity["@id"] for entity in graph}
    assert len(known) == len(graph)

    def references(value):
        if isinstance(value, dict):
            yield from [value["@id"]] if set(value) == {"@id"} else []
        elif isinstance(value, list):
            for item in value:
                yield from references(item)

    wanted = {name for entity in graph for value in entity.values() for name in references(value)}
    assert {name for name in wanted if not name.startswith("https://w3id.org/ro/crate/")} <= known


def test_a_zip(campaign, tmp_path):
    pytest.importorskip("rocrate")
    _, done = written(campaign, tmp_path / "crate.zip")
    from rocrate.rocrate import ROCrate

    crate = ROCrate(tmp_path / "crate.zip")
    assert len(crate.get_by_type("CreateAction")) == done.n_actions
    with zipfile.ZipFile(tmp_path / "crate.zip") as archive:
        assert archive.testzip() is None
        assert len(archive.namelist()) == len(set(archive.namelist()))
        assert "prov.json" in archive.namelist()
    assert {path.name for path in tmp_path.iterdir()} == {"crate.zip"}


def test_a_folder_of_many_files_is_copied_and_described_as_a_whole(campaign, tmp_path, monkeypatch):
    monkeypatch.setattr(research_crate, "_LISTED", 1)
    written(campaign, tmp_path / "crate")
    from rocrate.rocrate import ROCrate

    dataset = campaign.document("few").dataset
    (folder,) = [e for e in ROCrate(tmp_path / "crate").get_entities() if e.id == f"artifacts/{dataset.uri}/"]
    assert not folder.get("hasPart")
    assert hash_path(tmp_path / "crate" / folder.id)[0] == dataset.sha256


def test_what_is_missing_or_altered_is_told(own_campaign, tmp_path):
    few = own_campaign.document("few")
    model = own_campaign.document("few model")
    shutil.rmtree(own_campaign.project.artifacts.path(few.dataset))
    own_campaign.project.artifacts.path(model.model).write_bytes(b"other")
    _, done = written(own_campaign, tmp_path / "crate")
    assert len(done.missing) == 2
    assert any("dataset of few" in text and "is missing" in text for text in done.missing)
    assert any("model of trained" in text and "was altered" in text for text in done.missing)
    assert not (tmp_path / "crate" / "artifacts" / model.model.uri).exists()
    assert "2 files are missing" in (tmp_path / "crate" / "ro-crate-metadata.json").read_text()


def test_wrong_use(campaign, tmp_path, monkeypatch):
    graph = lineage(campaign.db, campaign.uuids["few model"])
    with pytest.raises(InputError, match="something at"):
        written(campaign, tmp_path)
    with pytest.raises(InputError, match="no folder"):
        written(campaign, tmp_path / "a" / "b")
    with pytest.raises(InputError, match="'<x>' is no author"):
        written(campaign, tmp_path / "crate", authors=["<x>"])
    assert list(tmp_path.iterdir()) == []
    imports = builtins.__import__

    def without(name, *args, **kwargs):
        if name.startswith("rocrate"):
            raise ImportError(name)
        return imports(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigurationError, match=r"pip install 'atomfoundry\[crate\]'"):
        write_crate(graph, campaign.db, campaign.project.artifacts, tmp_path / "crate")
