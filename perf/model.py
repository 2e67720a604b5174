"""Time of a training step and of an inference with our Allegro; prints JSON.

    python perf/model.py [--threads 1] [--repeat 20] [--profile]

The case is that of the peers' measurements: silicon, cutoff 5.2 A, about 28 edges an atom, an FM64-like
model in float32; energies, forces and stresses in the loss. Times are medians in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from ase import Atoms
from ase.build import bulk

from atomfoundry.models import Allegro, FoundryCalculator, GraphBatch, allegro_fm64, build_graph, collate


def rattled_silicon(repeat: int, *, amplitude: float = 0.05, seed: int = 0) -> Atoms:
    atoms = bulk("Si", cubic=True) * (repeat, repeat, repeat)
    atoms.rattle(amplitude, seed=seed)
    return atoms


def training_step(model: Allegro, batch: GraphBatch) -> None:
    model.zero_grad(set_to_none=True)
    out = model(batch, create_graph=True)
    loss = (out["energy"] / batch.num_nodes).square().mean() + out["forces"].square().mean()
    (loss + out["stress"].square().mean()).backward()


def median_ms(work: Callable[[], None], repeat: int) -> float:
    for _ in range(3):
        work()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - start))
    return round(statistics.median(times), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=20)
    parser.add_argument("--profile", action="store_true", help="print a table of operators instead")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    atoms = rattled_silicon(2)
    graph = build_graph(atoms, cutoff=5.2, type_names=["Si"])
    edges = graph.num_edges / graph.num_nodes
    config = allegro_fm64(["Si"], avg_num_neighbors=edges, dtype=options.dtype)
    model = Allegro(config)
    if options.profile:
        from torch.profiler import ProfilerActivity, profile

        training_step(model, graph)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(options.repeat):
                training_step(model, graph)
        print(profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=40, max_name_column_width=60))
        return

    small = bulk("Si")
    small.rattle(0.05, seed=0)
    small_graph = build_graph(small, cutoff=5.2, type_names=["Si"])
    small_batch = collate([small_graph] * 8)
    large = rattled_silicon(4)
    large_graph = build_graph(large, cutoff=5.2, type_names=["Si"])
    large.calc = FoundryCalculator(model)

    def calculate() -> None:
        large.rattle(1e-6)
        large.get_forces()

    report = {
        "threads": options.threads,
        "dtype": options.dtype,
        "torch": torch.__version__,
        "parameters": model.num_parameters,
        "edges_per_atom": edges,
        "training_step_64_atoms_ms": median_ms(lambda: training_step(model, graph), options.repeat),
        "training_step_8_cells_of_2_atoms_ms": median_ms(lambda: training_step(model, small_batch), options.repeat),
        "inference_512_atoms_us_per_atom": round(
            1e3 * median_ms(lambda: model(large_graph) and None, options.repeat) / len(large), 1
        ),
        "ase_512_atoms_us_per_atom": round(1e3 * median_ms(calculate, options.repeat) / len(large), 1),
        "graph_512_atoms_us_per_atom": round(
            1e3
            * median_ms(lambda: build_graph(large, cutoff=5.2, type_names=["Si"]) and None, options.repeat)
            / len(large),
            1,
        ),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
