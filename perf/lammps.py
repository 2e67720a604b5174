"""Time of a step of molecular dynamics in LAMMPS, and weak scaling over MPI ranks; prints JSON.

    python perf/lammps.py [--ranks 1 2] [--cells 6] [--steps 20] [--repeat 5] [--model FOLDER]

Each rank has its own CELLS x CELLS x CELLS cubic cells of silicon (8 atoms each) at 300 K; an FM64-like model in
float32 with cutoff 5.2 A unless a model is given. Runs with different numbers of ranks take turns; the best of each
counts, since whatever else the machine does can only make a run slower. Efficiency = time on the first number of
ranks / time.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

from ase import Atoms
from ase.build import bulk

from atomfoundry.models import Allegro, allegro_fm64, build_graph, load_model
from atomfoundry.models.lammps import export_lammps, find_program

INPUT = """
units metal
atom_style atomic
processors {ranks} 1 1
lattice diamond 5.43
region box block 0 {along} 0 {cells} 0 {cells}
create_box 1 box
create_atoms 1 box
mass 1 28.085
plugin load {plugin}
pair_style foundry
pair_coeff * * {model} Si
velocity all create 300 1 mom yes rot no dist gaussian
fix nve all nve
timestep 0.0005
thermo {steps}
run 2
run {steps}
"""


def cell_for_edges() -> Atoms:
    atoms = bulk("Si", cubic=True) * (2, 2, 2)
    atoms.rattle(0.05, seed=0)
    return atoms


def measure(folder: Path, ranks: int, *, cells: int, steps: int) -> dict[str, float]:
    """Seconds of the second run, and what LAMMPS says it spent them on."""
    program = find_program()
    text = INPUT.format(
        ranks=ranks, along=cells * ranks, cells=cells, steps=steps, plugin="./foundry.so", model="model.foundry"
    )
    (folder / "in.perf").write_text(text)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "LD_LIBRARY_PATH": str(program.libraries or "")}
    command = program.command("-in", "in.perf", "-log", "none", ranks=ranks)
    if ranks > 1:
        command[1:1] = ["-bind-to", "core"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    last = done.stdout.rpartition("Loop time of ")[2]
    seconds = {"loop": float(last.split()[0])}
    for section in ("Pair", "Neigh", "Comm"):
        found = re.search(rf"^{section} +\| +(\S+) +\| +(\S+)", last, flags=re.MULTILINE)
        assert found is not None
        seconds[section.lower()] = float(found[2])
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cells", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--model", type=Path)
    options = parser.parse_args()

    if options.model:
        model = load_model(options.model)
    else:
        graph = build_graph(cell_for_edges(), cutoff=5.2, type_names=["Si"])
        model = Allegro(allegro_fm64(["Si"], avg_num_neighbors=graph.num_edges / graph.num_nodes))
    best: dict[int, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = export_lammps(model, scratch)
        for _ in range(options.repeat):
            for ranks in options.ranks:
                now = measure(folder, ranks, cells=options.cells, steps=options.steps)
                if ranks not in best or now["loop"] < best[ranks]["loop"]:
                    best[ranks] = now
    atoms = 8 * options.cells**3
    first = best[options.ranks[0]]["loop"]
    report = {"atoms_per_rank": atoms, "steps": options.steps, "threads_per_rank": 1, "load": os.getloadavg()[0]}
    for ranks, seconds in best.items():
        report[f"ranks_{ranks}"] = {
            "us_per_atom_of_a_rank_and_step": round(1e6 * seconds["loop"] / atoms / options.steps, 2),
            "us_per_atom_and_step": round(1e6 * seconds["loop"] / (atoms * ranks) / options.steps, 2),
            "share_of_pair": round(seconds["pair"] / seconds["loop"], 3),
            "share_of_neighbour_lists": round(seconds["neigh"] / seconds["loop"], 3),
            "share_of_communication": round(seconds["comm"] / seconds["loop"], 3),
            "weak_scaling_efficiency": round(first / seconds["loop"], 3),
        }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
