"""Atoms x steps a second of our model against the number of atoms and the batch size, to the memory limit; JSON out.

    python perf/throughput.py [MODEL] [--device auto] [--sizes N ...] [--batches B ...] [--output FILE]

MODEL is a model's folder, or fm64 (default), fm256 or fm512: that preset for silicon with random weights. Structures
are rattled silicon, or copies of the one in --structure. Every row is energies, forces and stresses:

    evaluate  one structure of N atoms, or B structures at once; neighbour lists made before
    dynamics  one structure by the ASE calculator: neighbour list and what goes to the device and back too
    train     B structures: a loss of all three, its gradient by the weights, a step of Adam

each as the model comes and, for --compiled-sizes and --compiled-batches, with torch.compile, not filled up to other
shapes as ATOMFOUNDRY_COMPILE=on does; where it fails, or gives other numbers, the row says why. Rows grow until memory
or --limit (seconds a call) ends them: that is a row too, and ``limits`` says how many atoms the memory would hold.

On a GPU the clock waits for it, calls to warm up do not count, times are medians; memory is what torch allocates, on a
CPU the growth of the resident set. A table in Markdown goes to stderr, JSON to stdout and, after each row, to --output.
Without sizes a GPU gets a ladder to beyond its memory, a CPU two small ones.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.build import bulk
from ase.io import read
from peers.case import NEIGHBOURS, WARM_UP, check_device, clocked, first_call, loss, stepping, waiting

from atomfoundry.models import (
    Allegro,
    FoundryCalculator,
    GraphBatch,
    allegro_fm64,
    allegro_fm256,
    allegro_fm512,
    build_graph,
    collate,
    load_model,
)
from atomfoundry.models.compiled import SAME, UNUSED
from atomfoundry.models.kernel import find_kernel
from atomfoundry.models.recording import record

PRESETS = {"fm64": allegro_fm64, "fm256": allegro_fm256, "fm512": allegro_fm512}
CUTOFF = 5.2
LADDERS: dict[str, dict[str, list[int]]] = {
    "cpu": {"sizes": [64, 512], "batches": [1, 8], "compiled_sizes": [], "compiled_batches": []},
    "cuda": {
        "sizes": [64, 512, 4096, 13824, 32768, 64000, 110592, 216000, 512000, 1000000, 2097152, 4096000],
        "batches": [1, 4, 16, 64, 256, 1024, 4096, 16384],
        "compiled_sizes": [64, 4096, 64000],
        "compiled_batches": [1, 16, 256],
    },
}
DIFFERENT_FRAMES = 16
"""Structures of a batch that differ; larger batches repeat them."""

MODES = {False: "plain", True: "torch.compile"}

Row = dict[str, Any]


class Bench:
    """One model on one device."""

    def __init__(self, model: Allegro, unit: Atoms, options: argparse.Namespace) -> None:
        self.model, self.unit, self.options, self.device = model, unit, options, options.device

    def structure(self, atoms: int, *, seed: int = 0) -> Atoms:
        """Return copies of the unit, as near to a cube as comes, with at least so many atoms; rattled."""
        times = [1, 1, 1]
        lengths = self.unit.cell.lengths()
        while times[0] * times[1] * times[2] * len(self.unit) < atoms:
            times[min(range(3), key=lambda axis: times[axis] * lengths[axis])] += 1
        found = self.unit * tuple(times)
        found.rattle(0.05, seed=seed)
        return found

    def batch(self, structures: int, atoms: int) -> GraphBatch:
        """Return a batch with its neighbour lists, on the device."""
        config = self.model.config
        graphs = [
            build_graph(self.structure(atoms, seed=seed), cutoff=config.cutoff, type_names=config.type_names)
            for seed in range(min(structures, DIFFERENT_FRAMES))
        ]
        return collate([graphs[index % len(graphs)] for index in range(structures)]).to(self.device)

    def row(self, kind: str, structures: int, atoms: int, *, compile_it: bool = False) -> Row:
        """Measure one row; running out of memory and other failures are rows too."""
        told: Row = {"kind": kind, "mode": MODES[compile_it], "structures": structures, "atoms": structures * atoms}
        told |= self._attempt(kind, structures, atoms, compile_it=compile_it)
        # only here, where the error and all it refers to is gone
        self.model.zero_grad(set_to_none=True)
        if compile_it:
            torch.compiler.reset()
        gc.collect()
        if self.device != "cpu":
            torch.cuda.empty_cache()
        return told

    def _attempt(self, kind: str, structures: int, atoms: int, *, compile_it: bool) -> Row:
        try:
            return self._measured(kind, structures, atoms, compile_it=compile_it)
        except Exception as error:
            if lacks_memory(error):
                return {"out_of_memory": said(error)}
            return {"failed": f"{type(error).__name__}: {said(error)}"}

    def _measured(self, kind: str, structures: int, atoms: int, *, compile_it: bool) -> Row:
        options = self.options
        batch = self.batch(structures, atoms)
        figures: Row = {"atoms": batch.num_nodes, "edges": batch.num_edges}
        if kind == "dynamics":
            del batch
            work = stepping(self.structure(atoms), FoundryCalculator(self.model))
        else:
            start = time.perf_counter()
            evaluate = self._evaluation(batch, train=kind == "train", compile_it=compile_it)
            figures |= {"compile_s": round(time.perf_counter() - start, 1)} if compile_it else {}
            work = self._training(batch, evaluate) if kind == "train" else lambda: evaluate(batch)
        work = waiting(work, self.device)
        figures |= first_call(work, figures["edges"], self.device)
        if self.device != "cpu":
            # the first call also allocates what libraries keep
            again = first_call(work, figures["edges"], self.device)
            figures |= {key: again[key] for key in ("growth_bytes", "bytes_per_edge")}
            figures["peak_bytes"] = torch.cuda.max_memory_allocated()
        timed = clocked(work, seconds=options.seconds, most=options.repeat, warm_up=WARM_UP[self.device])
        figures |= {key: timed[key] for key in ("median_s", "least_s", "calls")}
        figures["atom_steps_per_s"] = round(figures["atoms"] / timed["median_s"], 1)
        figures["structures_per_s"] = round(structures / timed["median_s"], 3)
        return figures

    def _evaluation(
        self, batch: GraphBatch, *, train: bool, compile_it: bool
    ) -> Callable[[GraphBatch], dict[str, torch.Tensor]]:
        """Return what evaluates such a batch.

        Raises
        ------
        RuntimeError
            If it is compiled and gives other forces.
        """
        if not compile_it:
            return lambda batch: self.model(batch, create_graph=train)
        work = record(self.model, batch, leave_out=UNUSED[True]).compiled(self.options.backend)

        def evaluate(batch: GraphBatch) -> dict[str, torch.Tensor]:
            with torch.set_grad_enabled(train):
                return work(self.model, batch)

        found, expected = evaluate(batch)["forces"].detach(), self.model(batch)["forces"]
        off = float((found - expected).abs().max() / expected.abs().max())
        if not off < SAME[self.model.dtype]:
            raise RuntimeError(f"compiled forces differ by {off:.1e} of the largest")
        return evaluate

    def _training(
        self, batch: GraphBatch, evaluate: Callable[[GraphBatch], dict[str, torch.Tensor]]
    ) -> Callable[[], None]:
        # so small a rate that the weights stay what they are: the row shall not depend on how many steps it took
        optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-12)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            out = evaluate(batch)
            loss(out["energy"] * batch.num_graphs / batch.num_nodes, out["forces"], out["stress"]).backward()
            optimizer.step()

        return step


def said(error: Exception) -> str:
    """Return the first line of an error's message."""
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)[:300]


def lacks_memory(error: Exception) -> bool:
    """Tell whether a device, or the machine, ran out of memory."""
    signs = ("out of memory", "not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(sign in str(error) for sign in signs)


def series(bench: Bench, options: argparse.Namespace, keep: Callable[[Row], None]) -> None:
    """Measure all rows; a series ends where memory does, with a failure or with a call that would take too long."""
    frame = options.frame_atoms
    plans: list[tuple[str, bool, list[tuple[int, int]]]] = [
        ("evaluate", False, [(1, size) for size in options.sizes]),
        ("dynamics", False, [(1, size) for size in options.sizes]),
        ("evaluate", False, [(batch, frame) for batch in options.batches]),
        ("train", False, [(batch, frame) for batch in options.batches]),
        ("evaluate", True, [(1, size) for size in options.compiled_sizes]),
        ("evaluate", True, [(batch, frame) for batch in options.compiled_batches]),
        ("train", True, [(batch, frame) for batch in options.compiled_batches]),
    ]
    for kind, compile_it, shapes in plans:
        last: Row = {}
        for structures, atoms in sorted(shapes):
            expected = last.get("median_s", 0.0) * structures * atoms / max(last.get("atoms", 1), 1)
            if expected > options.limit:
                told = {"kind": kind, "mode": MODES[compile_it], "structures": structures, "atoms": structures * atoms}
                keep(told | {"left_out": f"a call would take {expected:.0f} s"})
                break
            last = bench.row(kind, structures, atoms, compile_it=compile_it)
            keep(last)
            if "median_s" not in last:
                break


def limits(rows: list[Row], total: int | None) -> list[Row]:
    """Return, for each kind that ran out of memory, where that was, and how many atoms would fit by the bytes taken."""
    found = []
    for row in rows:
        if "out_of_memory" not in row:
            continue
        same = [
            other
            for other in rows
            if "peak_bytes" in other
            and all(other[key] == row[key] for key in ("kind", "mode"))
            and (other["structures"] == 1) == (row["structures"] == 1)
        ]
        told = {key: row[key] for key in ("kind", "mode", "structures")} | {"out_of_memory_at_atoms": row["atoms"]}
        if same and total is not None:
            largest = max(same, key=lambda other: other["atoms"])
            each = largest["peak_bytes"] / largest["atoms"]
            told |= {"largest_atoms": largest["atoms"], "bytes_per_atom": round(each), "fits_atoms": int(total / each)}
        found.append(told)
    return found


def markdown(rows: list[Row]) -> str:
    """Return the rows as a table."""
    lines = ["| what | mode | structures | atoms | atoms x steps/s | ms a call | GB |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        start = f"| {row['kind']} | {row['mode']} | {row['structures']} | {row['atoms']:,} |"
        if "median_s" in row:
            memory = row.get("peak_bytes", row["growth_bytes"]) / 1e9
            lines.append(f"{start} {row['atom_steps_per_s']:,.0f} | {1e3 * row['median_s']:.2f} | {memory:.2f} |")
        else:
            why = next(key for key in ("out_of_memory", "left_out", "failed") if key in row)
            lines.append(f"{start} {why.replace('_', ' ')} | {row[why] if why != 'out_of_memory' else ''} | |")
    return "\n".join(lines)


def machine(device: str) -> dict[str, Any]:
    """Return what the figures belong to."""
    told: dict[str, Any] = {"device": platform.processor() or platform.machine(), "torch": torch.__version__}
    if device != "cpu":
        of = torch.cuda.get_device_properties(0)
        told |= {"device": of.name, "bytes": of.total_memory, "compute_capability": f"{of.major}.{of.minor}"}
        told["cuda"] = torch.version.cuda
    return told


def model_of(options: argparse.Namespace) -> Allegro:
    """Return the model asked for, in the precision asked for, on its device."""
    if options.model in PRESETS:
        config = PRESETS[options.model](["Si"], avg_num_neighbors=NEIGHBOURS, cutoff=CUTOFF)
        weights = None
    else:
        read_model = load_model(options.model)
        config, weights = read_model.config, read_model.state_dict()
    model = Allegro(config.model_copy(update={"dtype": options.dtype or config.dtype}))
    if weights is not None:
        model.load_state_dict(weights)
    return model.to(options.device).eval()


def asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="fm64")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    for name, meaning in (("sizes", "atoms of one structure"), ("batches", "structures at once")):
        parser.add_argument(f"--{name}", type=int, nargs="*", help=meaning)
        parser.add_argument(f"--compiled-{name}", type=int, nargs="*", help="the same with torch.compile")
    parser.add_argument("--frame-atoms", type=int, default=64, help="atoms of each structure of a batch")
    parser.add_argument("--structure", type=Path, help="file of a crystal that is repeated; default: silicon")
    parser.add_argument("--dtype", choices=["float32", "float64"], help="default: the model's")
    parser.add_argument("--backend", default="inductor", help="of torch.compile")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--repeat", type=int, default=50, help="timed calls at most")
    parser.add_argument("--seconds", type=float, default=5, help="of timed calls, at least three calls")
    parser.add_argument("--limit", type=float, default=20, help="seconds that one call may take")
    parser.add_argument("--output", type=Path, help="JSON, rewritten after each row")
    options = parser.parse_args()
    if options.device == "auto":
        options.device = "cuda" if torch.cuda.is_available() else "cpu"
    for name, ladder in LADDERS[options.device].items():
        if getattr(options, name) is None:
            setattr(options, name, ladder)
    return options


def main() -> None:
    options = asked()
    try:
        check_device(options.device)
    except RuntimeError as error:
        raise SystemExit(f"--device cuda: {error}") from None
    torch.set_num_threads(options.threads)
    model = model_of(options)
    unit = bulk("Si", cubic=True) if options.structure is None else read(options.structure)
    if not unit.pbc.all():
        raise SystemExit(f"{options.structure} is not periodic in three directions: it cannot be repeated to any size")
    strangers = set(unit.get_chemical_symbols()) - set(model.config.type_names)
    if strangers:
        raise SystemExit(f"The model does not know {', '.join(sorted(strangers))}: name a --structure of its elements")
    report: dict[str, Any] = {
        "machine": machine(options.device),
        "model": {"name": options.model, "parameters": model.num_parameters, "dtype": model.config.dtype},
        "kernel": find_kernel(model) is not None,
        "rows": [],
        "limits": [],
    }

    def keep(row: Row) -> None:
        report["rows"].append(row)
        report["limits"] = limits(report["rows"], report["machine"].get("bytes"))
        print(markdown([row]).splitlines()[-1], file=sys.stderr, flush=True)
        if options.output is not None:
            temporary = options.output.with_name(f".{options.output.name}.part")
            temporary.write_text(json.dumps(report, indent=1) + "\n")
            temporary.replace(options.output)

    series(Bench(model, unit, options), options, keep)
    print(f"\n{report['machine']['device']}\n\n{markdown(report['rows'])}", file=sys.stderr)
    print(json.dumps(report, indent=1))
    if any("failed" in row for row in report["rows"] if row["mode"] == MODES[False]):
        raise SystemExit("A row failed for another reason than memory: see above")


if __name__ == "__main__":
    main()
