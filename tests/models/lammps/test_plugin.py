from __future__ import annotations

import ctypes
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from atomfoundry.errors import ModelError
from atomfoundry.models.lammps import find_lammps
from atomfoundry.models.lammps.plugin import compile_plugin
from atomfoundry.settings import settings

sys.path.insert(0, str(Path(__file__).parent))
from lammps_run import needs_lammps

pytestmark = needs_lammps
KERNEL = {
    "answers.h": "constexpr double CUTOFF = 3.5;\n",
    "foundry_model.h": """
#pragma once
#include <cstdint>
struct FoundryModel {};
extern "C" {
FoundryModel *foundry_open(const char *, char *, int);
void foundry_close(FoundryModel *model);
double foundry_cutoff(const FoundryModel *);
int foundry_type(const FoundryModel *, const char *);
int foundry_head(const FoundryModel *, const char *);
void foundry_evaluate(const FoundryModel *, int, int64_t, const int64_t *, const int32_t *, const int32_t *,
                      const double *, double *, double *, int);
}
""",
    "exported.cpp": """
#include "answers.h"
FoundryModel *foundry_open(const char *, char *, int) { return new FoundryModel; }
void foundry_close(FoundryModel *model) { delete model; }
double foundry_cutoff(const FoundryModel *) { return CUTOFF; }
int foundry_type(const FoundryModel *, const char *) { return 0; }
int foundry_head(const FoundryModel *, const char *) { return 0; }
void foundry_evaluate(const FoundryModel *, int, int64_t, const int64_t *, const int32_t *, const int32_t *,
                      const double *, double *, double *, int) {}
""",
}
"""Compiles in no time."""


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
    symbols = subprocess.run(["nm", "-DC", "--defined-only", plugin], capture_output=True, text=True, check=True).stdout
    ours = [line for line in symbols.splitlines() if " std::" not in line]
    assert [line.split()[-1] for line in ours] == ["lammpsplugin_init"]
    with pytest.raises(OSError, match="undefined symbol"):
        ctypes.CDLL(str(plugin))  # LAMMPS itself is not in this process
    written = plugin.stat().st_mtime_ns
    assert compile_plugin(KERNEL, lammps) == plugin
    assert plugin.stat().st_mtime_ns == written


def test_what_decides_the_plugin(home, tmp_path, monkeypatch):
    """Anything that changes the code gives another plugin; nothing is compiled here."""
    lammps = find_lammps()
    other = {**KERNEL, "answers.h": "constexpr double CUTOFF = 4.5;\n"}
    include = tmp_path / "include"
    include.mkdir()
    (include / "pair.h").write_text("// one")
    moved = replace(lammps, include=include)
    asked = []

    def note(files, main, *, name, flags):
        asked.append((tuple(sorted(files.items())), main, name, tuple(flags)))

    monkeypatch.setattr("atomfoundry.models.lammps.plugin.compile_library", note)
    for kernel, target in (
        (KERNEL, lammps),
        (KERNEL, lammps),
        (other, lammps),
        (KERNEL, replace(lammps, defines=("LAMMPS_BIGBIG",))),
        (KERNEL, replace(lammps, version="1 Jan 2022")),
        (KERNEL, moved),
    ):
        compile_plugin(kernel, target)
    (include / "pair.h").write_text("// two")
    compile_plugin(KERNEL, moved)
    assert asked[0] == asked[1]
    assert len(set(asked)) == 6


def test_without_a_compiler(home, monkeypatch):
    lammps = find_lammps()
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ModelError, match=r"No plugin for the LAMMPS in .*There is no C\+\+ compiler"):
        compile_plugin(KERNEL, lammps)


def test_kernel_that_does_not_compile(home):
    with pytest.raises(ModelError, match=r"(?s)could not compile plugin\.cpp.*wrong"):
        compile_plugin({**KERNEL, "exported.cpp": "int wrong( {"}, find_lammps())
