from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from atomfoundry.documents import Artifact
from atomfoundry.errors import ArtifactError
from atomfoundry.results import ArtifactStore


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "model"
    (path / "sub").mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "sub" / "weights").write_bytes(b"\0" * 100)
    return path


def test_file(tmp_path):
    source = tmp_path / "report.html"
    source.write_text("<html>")
    store = ArtifactStore(tmp_path / "store")
    artifact = store.put(source)
    sha = hashlib.sha256(b"<html>").hexdigest()
    assert artifact == Artifact(uri=f"{sha[:2]}/{sha}/report.html", sha256=sha, size=6, media_type="text/html")
    assert store.fetch(artifact).read_text() == "<html>"
    assert store.put(source) == artifact
    assert len([p for p in (tmp_path / "store").rglob("*") if p.is_file()]) == 1


def test_folder_hash_depends_on_names_and_content_only(tmp_path, folder):
    store = ArtifactStore(tmp_path / "store")
    artifact = store.put(folder, media_type="application/x-model")
    assert artifact.size == 102
    (folder / "empty").mkdir()
    os.utime(folder / "config.json", (1, 1))
    assert store.put(folder).sha256 == artifact.sha256
    fetched = store.fetch(artifact)
    assert fetched.name == "model"
    assert (fetched / "sub" / "weights").read_bytes() == b"\0" * 100
    (folder / "config.json").rename(folder / "other.json")
    assert store.put(folder).sha256 != artifact.sha256


def test_the_store_can_be_moved(tmp_path, folder):
    artifact = ArtifactStore(tmp_path / "store").put(folder)
    (tmp_path / "store").rename(tmp_path / "moved")
    assert (ArtifactStore(tmp_path / "moved").fetch(artifact) / "config.json").exists()


def test_altered_and_missing_are_found_and_healed(tmp_path, folder):
    store = ArtifactStore(tmp_path / "store")
    artifact = store.put(folder)
    stored = store.fetch(artifact) / "config.json"
    stored.write_text("{1}")
    with pytest.raises(ArtifactError, match=r"model was altered.*sha256"):
        store.fetch(artifact)
    assert store.put(folder) == artifact
    assert stored.read_text() == "{}"
    (store.fetch(artifact) / "more").write_text("x")
    with pytest.raises(ArtifactError, match="altered"):
        store.fetch(artifact)
    import shutil

    shutil.rmtree(store.path(artifact))
    with pytest.raises(ArtifactError, match=r"model is missing"):
        store.fetch(artifact)


def test_verified_content_is_not_read_again(tmp_path, monkeypatch):
    source = tmp_path / "big"
    source.write_bytes(b"x" * 1000)
    store = ArtifactStore(tmp_path / "store")
    artifact = store.put(source)
    store.fetch(artifact)
    monkeypatch.setattr(Path, "open", None)
    store.fetch(artifact)


def test_links_and_absent_paths_are_refused(tmp_path, folder):
    store = ArtifactStore(tmp_path / "store")
    (folder / "link").symlink_to("config.json")
    with pytest.raises(ArtifactError, match="link is a symbolic link"):
        store.put(folder)
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.put(folder / "link")
    with pytest.raises(ArtifactError, match="no file or folder"):
        store.put(folder / "absent")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("uri", ["../x", "/etc/passwd", "aa/../../x", ""])
def test_addresses_cannot_leave_the_store(tmp_path, uri):
    with pytest.raises(ArtifactError, match="leads out"):
        ArtifactStore(tmp_path).fetch(Artifact(uri=uri, sha256="0", size=0))


def test_remote(tmp_path, folder):
    store = ArtifactStore("memory://foundry/artifacts", cache=tmp_path / "here")
    folder_artifact = store.put(folder)
    file_artifact = store.put(folder / "config.json")
    elsewhere = ArtifactStore("memory://foundry/artifacts", cache=tmp_path / "there")
    assert (elsewhere.fetch(folder_artifact) / "sub" / "weights").stat().st_size == 100
    assert elsewhere.fetch(file_artifact).read_text() == "{}"
    (elsewhere.path(file_artifact)).write_text("spoilt")
    assert elsewhere.fetch(file_artifact).read_text() == "{}"
    with pytest.raises(ArtifactError, match="cache"):
        ArtifactStore("memory://foundry")
