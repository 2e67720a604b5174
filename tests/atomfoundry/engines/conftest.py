"""What the tests of several codes share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk

from atomfoundry.engines.base import Engine, SinglePoint


@pytest.fixture
def strained_silicon() -> Atoms:
    atoms = bulk("Si", a=5.43)
    strain = np.array([[0.02, 0.03, 0], [0.03, -0.01, 0.01], [0, 0.01, 0.03]])
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=1)
    return atoms


@pytest.fixture
def finite_differences() -> Callable[[Engine, Atoms], tuple[SinglePoint, float, float, float]]:
    """Return labels, and from energies alone: force x of atom 0, stress xx and yz."""

    def differences(engine: Engine, atoms: Atoms) -> tuple[SinglePoint, float, float, float]:
        def energy(change: Callable[[Atoms], None]) -> float:
            moved = atoms.copy()
            change(moved)
            return engine.single_point(moved).energy

        def displaced(step: float) -> Callable[[Atoms], None]:
            def change(moved: Atoms) -> None:
                moved.positions[0, 0] += step

            return change

        def strained(i: int, j: int, step: float) -> Callable[[Atoms], None]:
            deformation = np.eye(3)
            deformation[i, j] += step / 2
            deformation[j, i] += step / 2
            return lambda moved: moved.set_cell(moved.cell.array @ deformation, scale_atoms=True)

        force = -(energy(displaced(0.01)) - energy(displaced(-0.01))) / 0.02
        xx, yz = (
            (energy(strained(i, j, 0.005)) - energy(strained(i, j, -0.005))) / 0.01 / atoms.get_volume()
            for i, j in ((0, 0), (1, 2))
        )
        return engine.single_point(atoms), force, xx, yz

    return differences


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts an executable, a shell script, first into PATH."""

    def write(*names: str, script: str) -> Path:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        for name in names:
            path = folder / name
            path.write_text(f"#!/bin/sh\n{script}\n")
            path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
        return folder

    return write
