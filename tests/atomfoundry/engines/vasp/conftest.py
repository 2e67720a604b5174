from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_SPEC = importlib.util.spec_from_file_location("vasp_standin", Path(__file__).with_name("standin.py"))
standin_module = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(standin_module)


@pytest.fixture
def standin(tmp_path, monkeypatch):
    """The stand-in for VASP, with POTCARs, found by atomate2 and pymatgen."""
    return standin_module.install(tmp_path / "standin", monkeypatch)


@pytest.fixture
def constants():
    """The numbers of the stand-in."""
    return standin_module
