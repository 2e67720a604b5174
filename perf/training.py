"""Time of a training: preparing graphs with and without kept edges, epochs by processes, sharpness-aware steps.

    python perf/training.py [--frames 200] [--processes 1 2] [--epochs 2]

Silicon cells of 8 to 64 atoms with Lennard-Jones labels, cutoff 5 A, an FM64-like model in float32. Prints JSON;
times are in seconds, the best of three for the graphs, of the epochs after the first for the rest.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator

from atomfoundry.models import Allegro, allegro_fm64
from atomfoundry.models.training import TrainingSettings, train
from atomfoundry.models.training.batches import Sizes, deal, plan_steps
from atomfoundry.models.training.loader import prepare_graphs

CUTOFF = 5.0


def silicon(number: int, *, seed: int = 0) -> list[Atoms]:
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(number):
        atoms = bulk("Si", cubic=True) * tuple(rng.integers(1, 3, 3))
        atoms.positions += rng.normal(0, 0.05, atoms.positions.shape)
        atoms.calc = LennardJones(sigma=2.1, epsilon=0.5, rc=5.0, smooth=True)
        labels = atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
        atoms.calc = SinglePointCalculator(atoms, energy=labels[0], forces=labels[1], stress=labels[2])
        frames.append(atoms)
    return frames


def best(work: Callable[[], object], repeat: int = 3) -> float:
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return round(min(times), 4)


def epochs(config: object, frames: list[Atoms], *, processes: int, n_epochs: int, changes: dict) -> float:
    """Return the seconds of the fastest epoch but the first, with forked processes."""
    settings = TrainingSettings(max_epochs=n_epochs + 1, batch_size=8, schedule="constant", **changes)
    with tempfile.TemporaryDirectory() as scratch:
        children = []
        for rank in range(processes):
            if (pid := os.fork()) == 0:
                if processes > 1:
                    meeting = f"file://{scratch}/meeting"
                    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
                result = train(config, frames, settings=settings)
                if rank == 0:
                    ends = [record.wall_time_s for record in result.history]
                    (Path(scratch) / "seconds").write_text(str(min(np.diff(ends))))
                if processes > 1:
                    dist.barrier()
                os._exit(0)
            children.append(pid)
        for pid in children:
            os.waitpid(pid, 0)
        return round(float((Path(scratch) / "seconds").read_text()), 3)


def waiting(frames: int, processes: int, batching: str) -> float:
    """Return the share of the time that processes wait for the slowest, if time is edges (log-normal sizes)."""
    edges = np.random.default_rng(1).lognormal(6, 1.2, frames).astype(np.int64)
    sizes = Sizes(edges, np.zeros(frames, dtype=np.int64))
    settings = TrainingSettings(batching=batching, batch_size=64, max_edges=7200)
    loads = [
        [
            int(sum(edges[members].sum() for members in part))
            for part in deal(step, edges, processes=processes, turn=turn)
        ]
        for turn, step in enumerate(plan_steps(sizes, settings, epoch=0, batches_per_step=processes))
    ]
    return round(1 - sum(map(sum, loads)) / sum(processes * max(load) for load in loads), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    frames = silicon(options.frames)
    config = allegro_fm64(["Si"], avg_num_neighbors=28.0, cutoff=CUTOFF)
    record: dict[str, object] = {"frames": len(frames), "atoms": sum(map(len, frames))}
    for n in options.processes:
        record[f"epoch_{n}_processes_s"] = epochs(config, frames, processes=n, n_epochs=options.epochs, changes={})
    record["epoch_sharpness_aware_s"] = epochs(
        config, frames, processes=1, n_epochs=options.epochs, changes={"sam_rho": 0.005}
    )
    model = Allegro(config)
    with tempfile.TemporaryDirectory() as folder:
        record["graphs_s"] = best(lambda: prepare_graphs(model, frames))
        record["graphs_first_with_cache_s"] = best(lambda: prepare_graphs(model, frames, edge_cache=folder), 1)
        record["graphs_kept_s"] = best(lambda: prepare_graphs(model, frames, edge_cache=folder))
        record["kept_bytes_per_edge"] = round(
            sum(path.stat().st_size for path in Path(folder).iterdir())
            / sum(graph.num_edges for graph in prepare_graphs(model, frames)),
            1,
        )
    for batching in ("shuffled", "balanced"):
        record[f"waiting_of_8_processes_{batching}"] = waiting(4000, 8, batching)
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
