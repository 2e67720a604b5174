"""The commands over lineage and withdrawn labels; beside the campaign that they are tried on."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from atomfoundry.cli.main import app
from atomfoundry.errors import InputError

runner = CliRunner()


def call(campaign, *arguments, code=0):
    result = runner.invoke(app, [*map(str, arguments), "--project", str(campaign.project.path)])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def test_lineage_in_every_format(campaign, tmp_path):
    uuid = campaign.uuids["tuned"]
    tree = call(campaign, "lineage", uuid)
    assert "trained (ModelDoc)" in tree and "structures (StructureSetDoc)" in tree
    assert "levels:    LennardJones (ase)" in tree
    assert "code:      Atomfoundry" in tree and "trained 3" in tree
    content = json.loads(call(campaign, "lineage", uuid, "--format", "json"))
    assert content["root"] == [uuid, 1]
    assert content["summary"]["seeds"]["few"] == [1]
    assert len(content["summary"]["levels"]) == 2
    assert sorted(content["summary"]["structures"]) == sorted(
        campaign.uuids[k] for k in ("crystals", "molecules", "atoms")
    )
    assert call(campaign, "lineage", uuid, "-f", "mermaid").startswith("flowchart TD")
    call(campaign, "lineage", uuid, "-f", "prov-json", "-o", tmp_path / "prov.json")
    assert f"foundry:job_{uuid}_1" in json.loads((tmp_path / "prov.json").read_text())["activity"]
    forward = call(campaign, "lineage", campaign.frames["crystals"][0], "--forward")
    assert "label of H3" in forward and "report (ReportDoc)" in forward


def test_crate_commands(campaign, tmp_path):
    pytest.importorskip("rocrate")
    uuid = campaign.uuids["few model"]
    out = call(campaign, "export-crate", uuid, "-o", tmp_path / "a.zip", "--license", "CC0-1.0", "--author", "A. B.")
    assert "Wrote" in out and "jobs)" in out
    call(campaign, "lineage", uuid, "--format", "ro-crate", "-o", tmp_path / "b")
    assert (tmp_path / "b" / "ro-crate-metadata.json").is_file()
    with pytest.raises(InputError, match="needs a place"):
        call(campaign, "lineage", uuid, "--format", "ro-crate")


def test_withdraw_and_restore(own_campaign):
    frame = own_campaign.frames["crystals"][0]
    dry = json.loads(call(own_campaign, "withdraw", frame, "--reason", "bad", "--dry-run", "--json"))
    assert dry["dry_run"] and len(dry["documents"]) == 8 and dry["changed"] == 0
    assert "stale" not in call(own_campaign, "results", "models")
    out = call(own_campaign, "withdraw", frame, "--reason", "bad")
    assert "1 label withdrawn; 8 documents concerned." in out
    table = call(own_campaign, "results", "models")
    assert table.count("1 withdrawn") == 2
    models = json.loads(call(own_campaign, "results", "models", "--json"))
    assert {model["document"]["name"]: len(model["stale"]) for model in models} == {
        "model": 1,
        "tuned": 1,
        "few model": 0,
    }
    assert {mark["frame_id"] for model in models for mark in model["stale"]} == {frame}
    labels = call(own_campaign, "results", "labels", "--where", "status=withdrawn")
    assert frame[:12] in labels and "withdrawn" in labels
    tree = call(own_campaign, "lineage", own_campaign.uuids["tuned"])
    assert "STALE" in tree and f"withdrawn: {frame[:12]}" in tree
    assert "withdrawn: bad" in call(own_campaign, "lineage", frame)
    out = call(own_campaign, "restore", frame)
    assert "1 label restored; 8 documents concerned." in out
    assert "STALE" not in call(own_campaign, "lineage", own_campaign.uuids["tuned"])
    assert "stays as it is: it is not withdrawn" in call(own_campaign, "restore", frame)
