from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from atomfoundry.errors import EngineUnavailableError, ModelError
from atomfoundry.models.lammps import find_lammps
from atomfoundry.models.lammps.plugin import KernelSource, compile_plugin
from atomfoundry.settings import settings

sys.path.insert(0, str(Path(__file__).parent))
from lammps_run import needs_lammps

pytestmark = needs_lammps
KERNEL = KernelSource(
    files={
        "answers.h": "constexpr double CUTOFF = 3.5;\n",
        "kernel.cpp": """
#include "foundry_model.h"
#include "answers.h"
struct FoundryModel {};
FoundryModel *foundry_open(const char *, char *, int) { return new FoundryModel; }
void foundry_close(FoundryModel *model) { delete model; }
double foundry_cutoff(const FoundryModel *) { return CUTOFF; }
int foundry_type(const FoundryModel *, const char *) { return 0; }
int foundry_head(const FoundryModel *, const char *) { return 0; }
void foundry_evaluate(const FoundryModel *, int, int64_t, const int64_t *, const int32_t *, const int32_t *,
                      const double *, double *, double *, int) {}
""",
    }
)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMFOUNDRY_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    monkeypatch.undo()
    settings.cache_clear()


def test_compiled_once(home, monkeypatch):
    lammps = find_lammps()
    plugin = compile_plugin(KERNEL, lammps)
    symbols = subprocess.run(["nm", "-D", "--defined-only", plugin], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in symbols.splitlines()] == ["lammpsplugin_init"]
    with pytest.raises(OSError, match="undefined symbol"):
        ctypes.CDLL(str(plugin))  # LAMMPS itself is not in this process
    left = list(home.rglob("*"))
    monkeypatch.setattr("atomfoundry.models.lammps.plugin.FLAGS", ("-nonsense",))
    with pytest.raises(ModelError, match="does not compile"):
        compile_plugin(KERNEL, lammps)
    monkeypatch.undo()
    monkeypatch.setenv("ATOMFOUNDRY_HOME", str(home))
    settings.cache_clear()
    assert compile_plugin(KERNEL, lammps) == plugin
    assert not [path for path in home.rglob("*") if path not in left and path.is_file()]


def test_what_decides_the_plugin(home, monkeypatch):
    """Anything that changes the code gives another plugin; nothing is compiled here."""
    from atomfoundry.models.lammps import plugin

    names = []

    def refuse(command, **kwargs):
        if "-shared" in command:
            names.append(Path(kwargs["cwd"]).parent.name)
            return subprocess.CompletedProcess(command, 1, "", "no")
        return run(command, **kwargs)

    run = subprocess.run
    monkeypatch.setattr(plugin.subprocess, "run", refuse)
    lammps = find_lammps()
    other = KernelSource(files={**KERNEL.files, "answers.h": "constexpr double CUTOFF = 4.5;\n"})
    for kernel, target, march in (
        (KERNEL, lammps, "native"),
        (KERNEL, lammps, "native"),
        (other, lammps, "native"),
        (KERNEL, lammps, "x86-64-v2"),
        (KERNEL, replace(lammps, defines=("LAMMPS_BIGBIG",)), "native"),
        (KERNEL, replace(lammps, version="1 Jan 2022"), "native"),
    ):
        with pytest.raises(ModelError, match=r"does not compile:\nno A LAMMPS of 2022 or newer"):
            compile_plugin(kernel, target, march=march)
    assert names[0] == names[1]
    assert len(set(names)) == 5


def test_without_a_compiler(home, monkeypatch):
    lammps = find_lammps()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EngineUnavailableError, match=r"no C\+\+ compiler \(no-such-compiler\).*apt-get install g\+\+"):
        compile_plugin(KERNEL, lammps)


def test_kernel_that_does_not_compile(home):
    broken = KernelSource(files={"kernel.cpp": "int wrong( {"})
    with pytest.raises(ModelError, match=r"(?s)does not compile.*kernel\.cpp:1"):
        compile_plugin(broken, find_lammps())
