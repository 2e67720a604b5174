"""Speed and memory of the dataset store and of selection against ASE and plain NumPy; prints JSON.

    python perf/datasets.py [--frames 1000000] [--peer-frames 20000] [--points 1000000] [--select 10000] [--folder DIR]

Frames are synthetic, made with a seed: 31 atoms on average, sizes log-normal and cut at 444 as in MPtrj, eleven
frames a material, one frame in a hundred a repetition. Each step runs in a process of its own, whose peak memory is
reported. What peers are asked:

- ASE's SQLite database holds ``--peer-frames`` frames and is read by row id, once through one open connection (its
  best case) and once as ``db.get_atoms`` does by itself.
- Extended XYZ holds the same frames. ``indexed`` means: the byte offset of every frame is known beforehand and ASE's
  reader gets the lines of one frame only, which no reader ships; ``by_index`` is ``ase.io.read(path, i)``, which
  walks through the file, so its cost grows with the file and is measured at ``--peer-frames``.
- Ours reads the whole ``--frames`` dataset, every frame checked against its checksum.
- The NumPy loop of farthest-point sampling is timed over 10 rounds and multiplied by ``--select``. ``fpsample``, which
  mace-torch uses (``fps_npdu_kdtree_sampling``, an approximation), is timed if it can be imported, at
  ``--fpsample-points`` and ``--fpsample-select``, and ours at the same size beside it.

A million frames and points take about 15 minutes of one core and 5 GB of disk, which are freed at the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 64


def frames(number: int, seed: int = 0) -> Iterator[Any]:
    """Make frames; the same ones for the same seed, whatever their number."""
    from atomfoundry.datasets.assembly import assemble

    made = 0
    block = 0
    last = None
    while made < number:
        rng = np.random.default_rng([seed, block])
        sizes = np.clip(np.rint(rng.lognormal(np.log(21.9), 0.84, 1000)), 1, 444).astype(int)
        total = int(sizes.sum())
        numbers = rng.integers(1, 90, total)
        positions, forces = rng.normal(scale=5, size=(total, 3)), rng.normal(size=(total, 3))
        stresses, energies = rng.normal(size=(1000, 6)), rng.normal(size=1000)
        start = 0
        for place, size in enumerate(sizes.tolist()):
            if made == number:
                return
            part = slice(start, start + size)
            start += size
            if last is not None and place % 100 == 99:
                yield last
            else:
                last = assemble(
                    numbers[part],
                    positions[part],
                    np.eye(3) * (16.0 * size) ** (1 / 3),
                    np.ones(3, bool),
                    info={"group_id": f"mp-{made // 11}", "source": "synthetic", "sampling": "relaxation"},
                    energy=float(energies[place]) * size,
                    forces=forces[part],
                    stress=stresses[place],
                )
                yield last
            made += 1
        block += 1


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Return seconds of the wall, of the CPU and the result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def per_frame(work: Callable[[np.ndarray], Any], batches: list[np.ndarray]) -> dict[str, float]:
    """Return microseconds a frame; the lesser of two rounds."""
    number = sum(map(len, batches))
    rounds = [timed(lambda: [work(batch) for batch in batches]) for _ in range(2)]
    return {
        "wall_us": round(min(r[0] for r in rounds) / number * 1e6, 1),
        "cpu_us": round(min(r[1] for r in rounds) / number * 1e6, 1),
    }


def batches(number: int, count: int) -> list[np.ndarray]:
    return list(np.random.default_rng(1).integers(0, number, (count, BATCH)))


# -- steps, each in a process of its own -----------------------------------------------------------


def step_import(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset

    making = timed(lambda: sum(1 for _ in frames(min(options.frames, 20000))))[1] / min(options.frames, 20000)
    wall, cpu, dataset = timed(lambda: Dataset.create(folder / "set", frames(options.frames)))
    size = sum(file.stat().st_size for file in dataset.path.iterdir())
    return {
        "frames": len(dataset),
        "atoms_per_frame": round(dataset.metadata.counts.atoms / len(dataset), 1),
        "wall_s": round(wall, 1),
        "cpu_s": round(cpu, 1),
        "cpu_us_per_frame_without_making_them": round((cpu / len(dataset) - making) * 1e6, 1),
        "bytes_per_frame": round(size / len(dataset)),
    }


def step_read(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset

    wall, _, dataset = timed(lambda: Dataset.open(folder / "set"))
    some = batches(len(dataset), 60)
    first, _, _ = timed(lambda: [dataset.shard(number) for number in range(len(dataset.metadata.shards))])
    return {
        "open_s": round(wall, 3),
        "check_all_indices_s": round(first, 3),
        "atoms": per_frame(lambda batch: list(dataset.frames(batch.tolist())), some),
        "arrays": per_frame(dataset.batch, some),
    }


def step_scan(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset

    dataset = Dataset.open(folder / "set")
    number = min(len(dataset), 50000)
    _, cpu, _ = timed(lambda: sum(len(atoms) for atoms in islice(dataset, number)))
    return {"cpu_us_per_frame": round(cpu / number * 1e6, 1)}


def step_filter(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset

    dataset = Dataset.open(folder / "set")
    wall, _, found = timed(lambda: dataset.where(n_atoms=lambda n: n < 8))
    energy, _, _ = timed(lambda: dataset.column("energy"))
    return {"where_n_atoms_s": round(wall, 2), "found": len(found), "column_energy_s": round(energy, 3)}


def step_duplicates(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset, duplicate_frames

    dataset = Dataset.open(folder / "set")
    wall, cpu, first = timed(lambda: duplicate_frames(dataset))
    return {
        "frames": len(dataset),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "duplicates": int((first != np.arange(len(first))).sum()),
    }


def step_verify(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset

    wall, cpu, _ = timed(Dataset.open(folder / "set").verify)
    return {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def step_merge(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset, merge_datasets

    dataset = Dataset.open(folder / "set")
    other = Dataset.create(folder / "other", frames(options.peer_frames, seed=1))
    wall, cpu, merged = timed(lambda: merge_datasets(folder / "merged", [dataset, other]))
    own = sum(file.stat().st_size for file in merged.path.iterdir() if file.stat().st_nlink == 1)
    return {
        "frames": len(merged),
        "wall_s": round(wall, 2),
        "cpu_s": round(cpu, 2),
        "new_bytes_per_frame": round(own / len(merged), 1),
    }


def step_append(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import Dataset

    dataset = Dataset.open(folder / "merged")
    wall, cpu, longer = timed(lambda: dataset.append(frames(1000, seed=2)))
    return {"frames": len(longer), "added": 1000, "wall_s": round(wall, 2), "cpu_s": round(cpu, 2)}


def step_sqlite(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from ase.db import connect

    database = connect(str(folder / "peer.db"))
    with database:
        for atoms in frames(options.peer_frames):
            database.write(atoms, group_id=atoms.info["group_id"])
    some = batches(options.peer_frames, 12)

    def together(batch: np.ndarray) -> None:
        with database:
            for index in batch.tolist():
                database.get_atoms(index + 1)

    def alone(batch: np.ndarray) -> None:
        for index in batch.tolist():
            database.get_atoms(index + 1)

    return {"one_connection": per_frame(together, some), "by_itself": per_frame(alone, some[:4])}


def step_extxyz(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from ase.io import read
    from ase.io.extxyz import read_xyz

    from atomfoundry.datasets import write_extxyz

    path = folder / "peer.xyz"
    write_extxyz(path, frames(options.peer_frames))
    offsets = [0]
    with path.open("rb") as stream:
        while line := stream.readline():
            for _ in range(int(line) + 1):
                stream.readline()
            offsets.append(stream.tell())
    some = batches(options.peer_frames, 12)
    handle = path.open("rb")

    def indexed(batch: np.ndarray) -> None:
        import io

        for index in batch.tolist():
            handle.seek(offsets[index])
            text = handle.read(offsets[index + 1] - offsets[index]).decode()
            next(iter(read_xyz(io.StringIO(text), 0)))

    by_index = per_frame(lambda batch: [read(path, int(index)) for index in batch], [some[0][:8]])
    return {"indexed": per_frame(indexed, some), "by_index": by_index}


def descriptors(path: Path, number: int, kind: str) -> np.ndarray:
    """Write descriptors ``[n, 64]`` float32: frames around materials in few directions, or noise in all of them."""
    table = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(number, 64))
    spectrum = np.exp(-np.arange(64) / 12)
    centres = np.random.default_rng(3).normal(size=(max(number // 11, 1), 64)) * spectrum
    for start in range(0, number, 50000):
        rng = np.random.default_rng([4, start])
        size = min(50000, number - start)
        noise = rng.normal(size=(size, 64))
        part = noise
        if kind == "materials":
            part = centres[(start + np.arange(size)) // 11 % len(centres)] + 0.1 * spectrum * noise
        table[start : start + size] = part
    table.flush()
    return np.load(path, mmap_mode="r")


def numpy_loop(table: np.ndarray, rounds: int) -> list[int]:
    """What one writes first: all distances to the newest point, in the precision of the table."""
    nearest = np.full(len(table), np.inf, np.float32)
    chosen = [0]
    for _ in range(rounds):
        distances = np.linalg.norm(table - table[chosen[-1]], axis=1)
        nearest = np.minimum(nearest, distances)
        chosen.append(int(nearest.argmax()))
    return chosen


def step_farthest(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import farthest_point_sampling

    found: dict[str, Any] = {"points": options.points, "select": options.select, "width": 64}
    for kind in ("materials", "noise"):
        table = descriptors(folder / "x.npy", options.points, kind)
        wall, cpu, _ = timed(lambda table=table: farthest_point_sampling(table, options.select))
        found[kind] = {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}
    return found


def step_numpy_loop(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    table = np.array(descriptors(folder / "x.npy", options.points, "materials"))
    wall, cpu, _ = timed(lambda: numpy_loop(table, 10))
    scale = options.select / 10
    return {"rounds": 10, "extrapolated_wall_s": round(wall * scale), "extrapolated_cpu_s": round(cpu * scale)}


def step_fpsample(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    from atomfoundry.datasets import covering_radius, farthest_point_sampling

    try:
        import fpsample
    except ImportError:
        return {"skipped": "fpsample is not installed"}
    n, k = options.fpsample_points, options.fpsample_select
    table = np.array(descriptors(folder / "x.npy", n, "materials"))
    found: dict[str, Any] = {"points": n, "select": k}
    for name, work in (
        ("ours", lambda: farthest_point_sampling(table, k)),
        ("fps_npdu_kdtree_sampling", lambda: fpsample.fps_npdu_kdtree_sampling(table, k)),
    ):
        wall, cpu, chosen = timed(work)
        radius = covering_radius(table, np.asarray(chosen, dtype=np.int64))
        found[name] = {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "covering_radius": round(radius, 4)}
    return found


STEPS = {name.removeprefix("step_"): step for name, step in list(globals().items()) if name.startswith("step_")}

RUN = """
import resource, subprocess, sys
done = subprocess.run([sys.executable, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
print(done.stdout)
"""


def run(name: str, folder: Path, arguments: list[str]) -> dict[str, Any]:
    """Run one step in its own process and return its report with the peak memory."""
    command = [sys.executable, "-c", RUN, __file__, *arguments, "--step", name, "--folder", str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    memory, _, text = done.stdout.partition("\n")
    return {**json.loads(text), "peak_mb": round(float(memory))}


def ratios(report: dict[str, Any]) -> dict[str, Any]:
    """Return how much faster ours is, by CPU time."""

    def speed(one: dict[str, float], other: dict[str, float]) -> float:
        return round(one["cpu_us"] / other["cpu_us"], 1)

    ours = report["read"]
    peers = {
        "sqlite_one_connection": report["sqlite"]["one_connection"],
        "sqlite_by_itself": report["sqlite"]["by_itself"],
        "extxyz_indexed": report["extxyz"]["indexed"],
        "extxyz_by_index": report["extxyz"]["by_index"],
    }
    found: dict[str, Any] = {
        f"{kind}_over_{name}": speed(peer, ours[kind]) for kind in ("atoms", "arrays") for name, peer in peers.items()
    }
    found["farthest_over_numpy_loop"] = round(
        report["numpy_loop"]["extrapolated_cpu_s"] / report["farthest"]["materials"]["cpu_s"], 1
    )
    found["largest_peak_mb"] = max(step["peak_mb"] for step in report.values())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--peer-frames", type=int, default=20_000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--select", type=int, default=10_000)
    parser.add_argument("--fpsample-points", type=int, default=20_000)
    parser.add_argument("--fpsample-select", type=int, default=500)
    parser.add_argument("--folder", type=Path, help="Where to write; a temporary folder by default.")
    parser.add_argument("--only", nargs="*", choices=list(STEPS), help="Some steps only.")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(json.dumps(STEPS[options.step](options.folder, options)))
        return
    sizes = ("frames", "peer_frames", "points", "select", "fpsample_points", "fpsample_select")
    arguments = [text for key in sizes for text in (f"--{key.replace('_', '-')}", str(getattr(options, key)))]
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        report = {name: run(name, Path(folder), arguments) for name in options.only or STEPS}
    if not options.only:
        report["ratios"] = ratios(report)
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
