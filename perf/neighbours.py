"""Time of neighbour lists: vesin (ours), matscipy and ASE; prints JSON.

    python perf/neighbours.py [--atoms 64 512 4096 10648] [--cutoff 5.2] [--seconds 1]

Silicon, all directed pairs within the cutoff with their cell shifts, float64, one thread. ``graph`` is our whole
``build_graph``: vesin, sorting, labels and tensors. Microseconds an atom, best of as many calls as fit into the time.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.neighborlist import primitive_neighbor_list
from vesin import NeighborList

from atomfoundry.models import build_graph


def silicon(n_atoms: int) -> Atoms:
    repeat = round((n_atoms / 8) ** (1 / 3))
    atoms = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(0.05, seed=0)
    return atoms


def best(work: Callable[[], object], seconds: float) -> float:
    end = time.perf_counter() + seconds
    times = []
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def subjects(atoms: Atoms, cutoff: float) -> dict[str, Callable[[], object]]:
    finder = NeighborList(cutoff=cutoff, full_list=True, n_threads=1)
    box = np.ascontiguousarray(atoms.cell.array)
    found: dict[str, Callable[[], object]] = {
        "vesin": lambda: finder.compute(points=atoms.positions, box=box, periodic=True, quantities="ijS"),
        "graph": lambda: build_graph(atoms, cutoff=cutoff, type_names=["Si"]),
        "ase": lambda: primitive_neighbor_list("ijS", atoms.pbc, atoms.cell, atoms.positions, cutoff),
    }
    try:
        from matscipy.neighbours import neighbour_list

        found["matscipy"] = lambda: neighbour_list("ijS", atoms, cutoff)
    except ImportError:
        pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[64, 512, 4096, 10648])
    parser.add_argument("--cutoff", type=float, default=5.2)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    report = []
    for n_atoms in options.atoms:
        atoms = silicon(n_atoms)
        times = {
            name: round(1e6 * best(work, options.seconds) / len(atoms), 2)
            for name, work in subjects(atoms, options.cutoff).items()
        }
        report.append({"atoms": len(atoms), "us_per_atom": times})
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
