"""The package list is complete, the version is one, and importing the package stays light."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import atomfoundry

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "atomfoundry": "atomfoundry",
    "makers": "atomfoundry.makers",
    "models": "atomfoundry.models",
    "workflows": "atomfoundry.workflows",
}
IMPORTED = re.compile(r"^\s*(?:from|import) ([A-Za-z_]\w*)", re.M)
"""First names of imports, and words of prose that begins alike."""


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_no_package_is_forgotten(pyproject: dict) -> None:
    found = set()
    for folder, package in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            parts = init.parent.relative_to(ROOT / folder).parts
            found.add(".".join((package, *parts)))
    assert found == set(pyproject["tool"]["setuptools"]["packages"])


def imports_of(text: str) -> set[str]:
    """Return the first names of all imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_every_import_is_declared(pyproject: dict) -> None:
    modules = {"bson": "pymongo", "gridfs": "pymongo", "xdist": "pytest_xdist", "yaml": "pyyaml"}
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    names = [
        *project["dependencies"],
        *(name for key in ("test", "gpaw", "tensorboard", "crate") for name in extras[key]),
    ]
    declared = {re.split(r"[^A-Za-z0-9_-]", name)[0].lower().replace("-", "_") for name in names}
    here = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"peers"}  # a folder of perf/
    known = here | set(sys.stdlib_module_names) | {"atomfoundry"}
    for folder in (*FOLDERS, "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text()
            names = {name for name in IMPORTED.findall(text) if modules.get(name, name) not in declared} - known
            assert not names or not names & imports_of(text), f"{path}: {names}"


def test_version_is_one(pyproject: dict) -> None:
    assert pyproject["project"]["version"] == atomfoundry.__version__


def test_import_is_light() -> None:
    code = "import sys, atomfoundry, atomfoundry.settings, atomfoundry.documents; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "torch",
        "e3nn",
        "ase",
        "pymatgen",
        "jobflow",
        "atomate2",
        "pyarrow",
        "plotly",
        "scipy",
        "pandas",
    }
    assert not heavy & set(loaded)


def test_repository_names_no_machine() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    if not listed:
        pytest.skip("not a git checkout")
    paths = re.compile(r"(^|[^A-Za-z_}])/(work|root|tmp/w)/")
    hosts = re.compile("python" + "hosted|pypi" + r"\.org")
    for name in listed:
        path = ROOT / name
        if path.is_file():
            text = path.read_text(errors="ignore")
            assert not paths.search(text), name
            assert not hosts.search(text), name
