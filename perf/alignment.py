"""Residuals of Total Energy Alignment against what everyone does (one least-squares shift an element); prints JSON.

    python perf/alignment.py [--cache FOLDER] [--train] [--scale N]

Small molecules of H, C, N and O, at rest and rattled by 0.1 A, are labelled here at GFN1-xTB, PBE/def2-SVP and
wB97M-D3(BJ)/def2-SVP (about 7 CPU-minutes; ``--cache`` keeps the labels). Every pair of levels is aligned in every
mode; RMSE are per atom and of structures that the fit did not see (folds by formula), with the same folds for the
least-squares shifts. ``organic`` are the molecules of three and more atoms that hold hydrogen. ``--train`` trains a small
model on the union of two levels, aligned or not. ``--scale`` times the fit on N synthetic overlap structures of 30
elements and takes its peak memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.build import molecule
from ase.optimize import BFGS

from atomfoundry.alignment import AlignmentSettings, fit_alignment
from atomfoundry.datasets import Dataset, attach_labels, with_metadata
from atomfoundry.documents import LevelOfTheory
from atomfoundry.engines import get_engine

TWICE = "H2 CO N2 H2O HCN CO2 N2O NH3 H2CO C2H2 H2O2 CH4 HCOOH C2H4 N2H4 CH3OH".split()
"""Molecules of ASE's G2 set that come at rest and rattled."""

RESTING = "C2H6 H3CNH2 CH3CN H2CCO".split()
RATTLED = "CH3CHO C3H4_D2d C3H4_C3v CH3CH2OH CH3OCH3".split()

SKETCHED = {
    "HNO": ("NOH", [(0, 0, 0), (1.21, 0, 0), (-0.33, 1, 0)]),
    "CH2NH": ("CNHHH", [(0, 0, 0), (1.27, 0, 0), (-0.55, 0.93, 0), (-0.55, -0.93, 0), (1.6, 0.95, 0)]),
    "NH2OH": ("NOHHH", [(0, 0, 0), (1.45, 0, 0), (-0.3, 0.8, 0.55), (-0.3, -0.8, 0.55), (1.7, 0, -0.93)]),
    "HNCO": ("NCOH", [(0, 0, 0), (1.21, 0, 0), (2.38, 0.1, 0), (-0.6, 0.8, 0)]),
    "HCONH2": (
        "COHNHH",
        [(0, 0, 0), (1.21, 0, 0), (-0.6, -0.95, 0), (-0.68, 1.18, 0), (-1.69, 1.18, 0.05), (-0.18, 2.05, 0)],
    ),
    "NH2CN": ("NCNHH", [(0, 0, 0), (1.34, 0, 0), (2.5, 0, 0), (-0.5, 0.85, 0.2), (-0.5, -0.85, 0.2)]),
    "CH2(OH)2": (
        "COOHHHH",
        [
            (0, 0, 0),
            (1.2, 0.7, 0),
            (-1.2, 0.7, 0),
            (0, -0.65, 0.9),
            (0, -0.65, -0.9),
            (1.9, 0.1, 0.3),
            (-1.9, 0.1, -0.3),
        ],
    ),
    "CH2NOH": ("CNOHHH", [(0, 0, 0), (1.27, 0, 0), (1.9, 1.2, 0), (-0.55, 0.93, 0), (-0.55, -0.93, 0), (2.85, 1, 0)]),
    "HOCN": ("OCNH", [(0, 0, 0), (1.3, 0, 0), (2.46, 0.05, 0), (-0.3, 0.9, 0)]),
}
"""Molecules that the G2 set lacks, drawn roughly; relaxed at GFN1-xTB."""

ENGINES = {
    "GFN1-xTB": {"name": "xtb", "method": "GFN1-xTB"},
    "PBE": {"name": "pyscf", "functional": "pbe", "density_fitting": True},
    "wB97M-D3(BJ)": {"name": "pyscf", "functional": "wb97m-d3bj", "density_fitting": True},
}
PAIRS = [("wB97M-D3(BJ)", "PBE"), ("GFN1-xTB", "PBE"), ("GFN1-xTB", "wB97M-D3(BJ)")]


def molecules(seed: int = 0) -> list[Atoms]:
    """Return the structures; the group is the molecule."""
    rng = np.random.default_rng(seed)
    engine = get_engine("xtb", method="GFN1-xTB")
    shapes = {name: molecule(name) for name in [*TWICE, *RESTING, *RATTLED]}
    for name, (symbols, positions) in SKETCHED.items():
        atoms = Atoms(symbols, positions=positions)
        with tempfile.TemporaryDirectory() as folder:
            atoms.calc = engine.calculator(atoms, Path(folder))
            BFGS(atoms, logfile=None).run(fmax=0.05, steps=200)
        shapes[name] = atoms
    frames = []
    for name, shape in shapes.items():
        bare = Atoms(shape.numbers, positions=shape.positions)
        if name in TWICE or name in RESTING:
            frames.append(with_metadata(bare, group_id=name, sampling="input"))
        if name not in RESTING:
            bare = bare.copy()
            bare.positions += rng.normal(scale=0.1, size=bare.positions.shape)
            frames.append(with_metadata(bare, group_id=name, sampling="rattle"))
    return frames


def labels(level: str, cache: Path) -> Dataset:
    """Return the molecules and free atoms at a level, computed unless the cache has them."""
    path = cache / level
    if not path.is_dir():
        engine = get_engine(**ENGINES[level])
        atoms = [with_metadata(Atoms(symbol), sampling="isolated_atom") for symbol in "HCNO"]
        made = []
        for bare in [*atoms, *molecules()]:
            done = engine.compute(bare)
            made.append(with_metadata(done, group_id=bare.info["group_id"], sampling=bare.info["sampling"]))
        isolated = {frame.symbols[0]: frame.get_potential_energy() for frame in made[:4]}
        Dataset.create(path, made, name=level, level=engine.level, isolated_energies=isolated)
    return Dataset.open(path)


if __name__ == "__main__":
    cache = Path(sys.argv[sys.argv.index("--cache") + 1])
    for level in ENGINES:
        start = time.process_time()
        labels(level, cache)
        print(level, time.process_time() - start, flush=True)
