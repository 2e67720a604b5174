from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


class Trap:
    """Payloads that leave a file where they are run, and whether one was."""

    def __init__(self, folder: Path) -> None:
        self.marker = folder / "executed"
        self.module = f"planted_{folder.name.replace('-', '_')}_module"
        (folder / f"{self.module}.py").write_text(
            f"import pathlib\npathlib.Path({str(self.marker)!r}).touch()\n\n\n"
            "class Thing:\n    @classmethod\n    def from_dict(cls, d):\n        return cls()\n"
        )

    @property
    def command(self) -> str:
        return f"touch {self.marker}"

    @property
    def bomb(self) -> Bomb:
        return Bomb(self.command)

    @property
    def pickled(self) -> bytes:
        return pickle.dumps(self.bomb)

    @property
    def yaml(self) -> str:
        return f"!!python/object/apply:os.system ['{self.command}']"

    @property
    def thing(self) -> dict[str, Any]:
        """What monty would import the planted module for."""
        return {"@module": self.module, "@class": "Thing"}

    @property
    def function(self) -> dict[str, Any]:
        return {"@module": self.module, "@callable": "Thing"}

    @property
    def sprung(self) -> bool:
        return self.marker.exists()


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Trap]:
    folder = tmp_path / "importable"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    made = Trap(folder)
    yield made
    assert not made.sprung
    # the payloads work: whoever decodes them carelessly runs them
    pickle.loads(made.pickled)
    assert made.sprung
    made.marker.unlink()
    importlib.import_module(made.module)
    assert made.sprung
    sys.modules.pop(made.module)
