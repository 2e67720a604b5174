"""Disks: space, writing, the kind of file system."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from atomfoundry.doctor import disks
from atomfoundry.doctor.mounts import mount_of, read_mounts


def disk(monkeypatch: pytest.MonkeyPatch, *, free: int, inodes: int = 10**6, files: int = 10**7) -> None:
    found = SimpleNamespace(f_bavail=free // 4096, f_frsize=4096, f_favail=inodes, f_files=files)
    monkeypatch.setattr(disks.os, "statvfs", lambda folder: found)


@pytest.mark.parametrize(("free", "status"), [(100 * 2**20, "problem"), (2 * 2**30, "warning"), (100 * 2**30, "ok")])
def test_free_space(ask, project, monkeypatch: pytest.MonkeyPatch, free, status) -> None:
    disk(monkeypatch, free=free)
    found = ask("space", project)
    assert {each.status for each in found} == {status}
    if status != "ok":
        assert found[0].cure == f"du -xh --max-depth=2 {project} | sort -h | tail"


def test_inodes(ask, project, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free=100 * 2**30, inodes=12)
    found = ask("space", project)
    assert "room for only 12 more files" in found[0].message
    assert "du -x --inodes" in found[0].cure


def test_a_file_system_that_counts_no_inodes(one, project, monkeypatch: pytest.MonkeyPatch) -> None:
    disk(monkeypatch, free=100 * 2**30, inodes=0, files=0)
    assert one("space", project).status == "ok"


def test_writing_leaves_nothing(one, project) -> None:
    before = sorted(project.iterdir())
    found = one("writing", project)
    assert found.status == "ok"
    assert sorted(project.iterdir()) == before
    assert abs(found.details["project"]["clock_skew"]) < 1


def test_a_folder_that_cannot_be_written(ask, project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**given: object):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(disks.tempfile, "mkstemp", refuse)
    found = ask("writing", project)[0]
    assert found.status == "problem"
    assert found.message == f"project ({project}) cannot be written: Permission denied."
    assert f"chmod u+rwx {project}" in found.cure


@pytest.mark.parametrize(("shift", "word"), [(90, "behind"), (-90, "ahead of")])
def test_a_file_server_with_another_clock(ask, project, monkeypatch: pytest.MonkeyPatch, shift, word) -> None:
    real = disks.time.time
    monkeypatch.setattr(disks, "time", SimpleNamespace(time=lambda: real() + shift, monotonic=disks.time.monotonic))
    found = ask("writing", project)[0]
    assert found.status == "warning"
    assert f"is 90 s {word} this machine's" in found.message
    assert "chronyc tracking" in found.cure


def test_slow_writing(ask, project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disks, "write_once", lambda folder: (3.2, 0.0))
    found = ask("writing", project)[0]
    assert "took 3.2 s" in found.message
    assert "oflag=dsync" in found.cure


MOUNTS = """\
/dev/sda1 / ext4 rw,relatime 0 0
server:/export/home /home nfs4 rw,vers=4.2 0 0
10.0.0.1@o2ib:/fs /scratch/my\\040disk lustre rw,flock 0 0
tmpfs {root} {kind} {options} 0 0
"""


@pytest.fixture
def mounted(tmp_path):
    def make(kind: str, options: str = "rw"):
        path = tmp_path / "mounts"
        path.write_text(MOUNTS.format(root=os.path.realpath(tmp_path), kind=kind, options=options))
        return path

    return make


@pytest.mark.parametrize("kind", ["nfs4", "nfs", "lustre", "beegfs", "fuse.sshfs", "gpfs"])
def test_sqlite_on_a_network_file_system(one, project, mounted, kind) -> None:
    found = one("file-system", project, mounts=mounted(kind))
    assert found.status == "problem"
    assert f"lies on {kind}" in found.message
    assert f"cp -a {project} /local/disk/" in found.cure


def test_no_project_on_a_network_file_system_is_a_warning(one, mounted) -> None:
    found = one("file-system", mounts=mounted("nfs4"))
    assert found.status == "warning"
    assert "--project /local/disk/NAME" in found.cure


def test_mongodb_on_a_network_file_system_is_right(one, cluster, mounted) -> None:
    assert one("file-system", cluster.parent, mounts=mounted("nfs4")).status == "ok"


def test_a_cluster_project_on_a_local_disk(one, cluster, mounted) -> None:
    found = one("file-system", cluster.parent, mounts=mounted("xfs"))
    assert found.status == "warning"
    assert "workers on other machines do not see it" in found.message


def test_a_project_in_memory_and_one_read_only(ask, project, mounted) -> None:
    assert "gone when the machine restarts" in ask("file-system", project, mounts=mounted("tmpfs"))[0].message
    found = ask("file-system", project, mounts=mounted("ext4", "ro,relatime"))
    assert [each.status for each in found] == ["problem"]
    assert "mount -o remount,rw" in found[0].cure


def test_mounts_are_found_by_the_longest_point() -> None:
    mounts = read_mounts(MOUNTS.format(root="/x", kind="tmpfs", options="rw"))
    assert mount_of("/home/me/p", mounts).kind == "nfs4"
    assert mount_of("/homes/me", mounts).kind == "ext4"
    assert mount_of("/scratch/my disk/a", mounts).kind == "lustre"
    assert mount_of("/", mounts).kind == "ext4"
    assert mount_of("/home", []) is None
