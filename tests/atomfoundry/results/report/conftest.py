"""The sample documents, imported by path since test folders are no packages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def sample() -> ModuleType:
    name = "report_sample"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name("sample.py"))
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def full_page(sample: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> str:
    from atomfoundry.results.report import render_report

    path = tmp_path_factory.mktemp("report") / "report.html"
    render_report(sample.full_inputs(), path)
    return path.read_text(encoding="utf-8")
