"""No line of ours unpickles, evaluates or decodes what it reads, but for the few named here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("atomfoundry", "makers", "models", "workflows")

DECODERS = {
    "atomfoundry/documents/decoding.py": "after the check of what the document names",
    "atomfoundry/running/execution.py": "a job of the queue: code that is to be run",
    "atomfoundry/running/cluster/attempt.py": "a job of the LaunchPad: code that is to be run",
}
STRUCTURES = {"atomfoundry/datasets/structure_record.py": "of plain values alone"}
STORES = {"makers/harvest.py": "a file of the user's that describes a store"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def dotted(node: ast.expr) -> str:
    """Return ``a.b.c`` of names and attributes, else nothing."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def problems(tree: ast.Module, name: str) -> Iterator[str]:
    """Yield what a module must not do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names]
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                if module.split(".")[0] in ("pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"):
                    yield f"imports {module}"
                if module == "MontyDecoder" and name not in DECODERS:
                    yield "decodes with monty"
                if module in ("loadfn", "extractall"):
                    yield f"imports {module}"
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        keywords = {
            keyword.arg: str(keyword.value.value)
            for keyword in node.keywords
            if isinstance(keyword.value, ast.Constant)
        }
        if called in ("eval", "exec", "os.system", "os.popen") or keywords.get("shell") == "True":
            yield f"calls {called}"
        if called in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False":
            yield f"{called} without allow_pickle=False"
        if called == "torch.load" and keywords.get("weights_only") != "True":
            yield "torch.load without weights_only=True"
        if called in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
            yield called
        if called in ("Structure.from_dict", "Molecule.from_dict") and name not in STRUCTURES:
            yield f"{called}, which decodes site properties"
        if called == "JobStore.from_file" and name not in STORES:
            yield called


def test_nothing_read_can_run() -> None:
    parsed = dict(sources())
    found = [f"{name}: {problem}" for name, tree in parsed.items() for problem in problems(tree, name)]
    assert not found
    names = set(parsed)
    assert {*DECODERS, *STRUCTURES, *STORES} <= names
    assert len(names) > 300


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from monty.json import MontyDecoder",
        "from monty.serialization import loadfn",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader=yaml.Loader)",
        "Structure.from_dict(record)",
        "subprocess.run(command, shell=True)",
        "eval(text)",
    ],
)
def test_the_check_sees_it(line: str) -> None:
    assert list(problems(ast.parse(line), "models/io.py"))
