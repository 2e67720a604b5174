"""Our Allegro beside nequip-allegro and MACE, in one run on one machine; JSON out.

    python perf/allegro.py --folder DIR [--device cpu|cuda] [--only PATTERN ...] [--output FILE] [--resume]
                           [--ours-eager]
    python perf/allegro.py --profile [--device cpu|cuda]

All do the same work: rattled silicon, cutoff 5.2 A, 28 directed edges an atom, float32. A training step evaluates
energies, forces and stresses of 64 atoms (two frames of 32, neighbour lists made before) and differentiates a loss of
all three; the optimiser is left out. Inference is a step of molecular dynamics through the ASE calculator: neighbour
list, energy, forces and stress. Ours is Allegro-FM64's architecture, whatever the installed package does by default;
``--ours-eager`` measures it also with the environment variable ``ATOMFOUNDRY_KERNEL=off``.

Peers live in environments of their own in ``--folder``, made by pip at the first run and kept, or where ``--python``
says, e.g. on a machine without a network. Each measurement is a process of its own; what fails is in the result with
its reason. ``--only`` takes patterns of SUBJECT or SUBJECT:MEASUREMENT, e.g. ``'ours*' 'mace*:train*'`` (``--list``
shows them). The output is rewritten after each measurement; ``--resume`` keeps what it already holds.

Ratios are peer over ours. ``cpu`` compares CPU seconds a call, which other programs on the machine disturb least;
``wall`` compares medians of the wall clock; where other programs held the machine, ``noisy`` says so, and then neither
wall times nor two threads mean much. ``first_call_s`` is that of a fresh process, compilation included, where
``compile_cache`` is "empty"; AOTInductor's compilation is ``settings.compile_cpu_s``. Memory is the growth of
the resident set during one call, after a call on a small structure. Before the larger structures time and memory are
estimated from the smaller ones: what would exceed ``--limit`` or ``--max-memory`` is left out, and the result says so.

``--device cuda`` runs all of them on a GPU, if the package's own torch sees one; peers then get environments of their
own with a torch for the same version of CUDA. The clock waits for the GPU, ratios are of the wall clock alone, memory
is what torch allocates on the GPU. PyTorch evaluates ours there; "ours-compiled" is its training step compiled for the
batch's shape (``models/recording.py``). nequip-allegro's AOTInductor form is measured with its Triton kernel too; what
cuEquivariance would add to nequip-allegro and MACE is not. The GPU should have nothing else to do: see ``nvidia-smi``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from peers.install import ENVIRONMENTS, Unavailable, interpreter, run, versions, versions_in
from peers.tables import Results, first_calls, linearity, ratios, two_threads
from peers.work import MEASUREMENTS, SUBJECTS, chosen

DRIVERS = Path(__file__).parent / "peers"
SWITCH = "ATOMFOUNDRY_KERNEL"
NEIGHBOURS = 28
MAX_MEMORY = 8.0
"""GB that a large structure may take on a CPU."""

ASK_GPU = """
import json, torch
if not torch.cuda.is_available():
    raise SystemExit(f"torch {torch.__version__} sees no CUDA device")
of = torch.cuda.get_device_properties(0)
told = {"name": of.name, "bytes": of.total_memory, "compute_capability": f"{of.major}.{of.minor}"}
print(json.dumps(told | {"cuda": torch.version.cuda, "torch": torch.__version__}))
"""


def ask_gpu() -> dict[str, Any]:
    """Return name, memory and CUDA of the GPU that our torch sees; another process asks, so that this one holds none.

    Raises
    ------
    SystemExit
        If it sees none.
    """
    try:
        return json.loads(run([sys.executable, "-c", ASK_GPU], doing="looking for a GPU", timeout=300))
    except Unavailable as error:
        raise SystemExit(f"--device cuda: {error}") from None


def python_of(subject: str, options: argparse.Namespace) -> Path:
    """Return the interpreter of a subject.

    Raises
    ------
    Unavailable
        If it cannot be had.
    """
    entry = SUBJECTS[subject]
    if entry.environment in options.python:
        python = options.python[entry.environment]
        options.versions[entry.environment] = versions_in(entry.environment, python)
        return python
    if entry.environment is not None:
        return interpreter(entry.environment, options.folder, torch_index=options.torch_index, cuda=cuda_of(options))
    if subject == "ours-eager":
        import atomfoundry.models

        package = Path(atomfoundry.models.__file__).parent
        if not any(SWITCH in file.read_text(encoding="utf-8") for file in package.rglob("*.py")):
            raise Unavailable(f"the installed package has no switch {SWITCH}: 'ours' is all there is")
    return Path(sys.executable)


def interpreters(given: list[str]) -> dict[str, Path]:
    """Return the interpreters that were named, by peer.

    Raises
    ------
    SystemExit
        If there is no such peer.
    """
    named = {name: Path(path) for name, _, path in (each.partition("=") for each in given)}
    for name, path in named.items():
        if name not in ENVIRONMENTS or path == Path():
            raise SystemExit(f"--python {name}: give NAME=PATH with a NAME of {', '.join(ENVIRONMENTS)}")
    return named


def cuda_of(options: argparse.Namespace) -> str | None:
    """Return the version of CUDA that the peers' torch must have; None on a CPU."""
    return None if options.gpu is None else options.gpu["cuda"]


def estimate(name: str, subject: str, results: Results, options: argparse.Namespace) -> str | None:
    """Return why a measurement would take too much, judged by the subject's largest inference; None if it fits."""
    work = MEASUREMENTS[name]
    smaller = [
        entry[subject]
        for entry in results.values()
        if "median_s" in entry.get(subject, {}) and entry[subject]["kind"] == "infer"
    ]
    if work.kind != "infer" or work.atoms <= 1000 or not smaller:
        return None
    largest = max(smaller, key=lambda figures: figures["atoms"])
    factor = work.atoms / largest["atoms"]
    seconds = 6 * factor * largest["median_s"]
    gigabytes = factor * largest["growth_bytes"] / 1e9
    if seconds > options.limit or gigabytes > options.max_memory:
        return f"by the figures at {largest['atoms']} atoms it would take {seconds:.0f} s and {gigabytes:.1f} GB"
    return None


def running_besides() -> float:
    """Return how many threads of other programs want a core, over half a second (Linux)."""
    seen = []
    for _ in range(10):
        time.sleep(0.05)
        seen.append(int(Path("/proc/loadavg").read_text().split()[3].split("/")[0]) - 1)
    return round(sum(seen) / len(seen), 1)


def measure(name: str, subject: str, python: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one measurement in a process of its own and return its figures.

    Raises
    ------
    Unavailable
        If it fails or takes longer than ``--limit``.
    """
    work, entry = MEASUREMENTS[name], SUBJECTS[subject]
    on_gpu = options.device != "cpu"
    cache = options.folder / "compiled" / f"{subject}-{options.dtype}-{work.threads}{'-cuda' if on_gpu else ''}"
    compile_cache = "kept" if cache.exists() and any(cache.iterdir()) else "empty"
    cache.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "OMP_NUM_THREADS": str(work.threads),
        "MKL_NUM_THREADS": str(work.threads),
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    if on_gpu:
        environment["TRITON_CACHE_DIR"] = str(cache / "triton")
        del environment["TORCHINDUCTOR_COMPILE_THREADS"]
    if subject == "ours-eager":
        environment[SWITCH] = "off"
    with tempfile.TemporaryDirectory() as place:
        result = Path(place) / "result.json"
        what = vars(work) | entry.options | {"device": options.device}
        what |= {"seconds": options.seconds, "repeat": options.repeat, "dtype": options.dtype}
        what |= {"folder": str(cache.parent), "result": str(result)}
        others = running_besides()
        try:
            done = subprocess.run(
                [str(python), str(DRIVERS / entry.driver), json.dumps(what)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=options.limit,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"took longer than {options.limit:.0f} s") from error
        if done.returncode or not result.exists():
            raise Unavailable(f"exited with {done.returncode}: {' | '.join(done.stderr.strip().splitlines()[-3:])}")
        figures = json.loads(result.read_text())
    busy = others + work.threads > (os.cpu_count() or 1) + 0.5
    figures |= {"kind": work.kind, "threads": work.threads, "others_running": others, "noisy": busy}
    figures |= {"compile_cache": compile_cache}
    if "median_s" in figures:
        if work.kind == "train":
            figures["ms_per_step"] = round(1e3 * figures["median_s"], 2)
            figures["cpu_ms_per_step"] = round(1e3 * figures["cpu_s"], 2)
        else:
            figures["us_per_atom"] = round(1e6 * figures["median_s"] / work.atoms, 1)
            figures["cpu_us_per_atom"] = round(1e6 * figures["cpu_s"] / work.atoms, 1)
    return figures


def write(path: Path, results: Results, options: argparse.Namespace) -> None:
    """Write everything known so far, atomically."""
    report = {
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        | ({} if options.gpu is None else {"gpu": options.gpu}),
        "case": {"dtype": options.dtype, "cutoff": 5.2, "edges_per_atom": NEIGHBOURS, "repeat": options.repeat},
        "versions": {
            name: known
            for name in ENVIRONMENTS
            if (known := options.versions.get(name) or versions(name, options.folder, cuda=cuda_of(options)))
        },
        "results": results,
        "ratios_peer_over_ours": ratios(results),
        "linearity": linearity(results),
        "two_threads_over_one": two_threads(results),
        "first_call": first_calls(results),
    }
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(json.dumps(report, indent=1) + "\n")
    temporary.replace(path)


def profile(options: argparse.Namespace) -> None:
    """Print where our training step spends its time, by operator."""
    what = {"profile": 10, "dtype": options.dtype, "device": options.device}
    command = [sys.executable, str(DRIVERS / "run_ours.py"), json.dumps(what)]
    raise SystemExit(subprocess.run(command).returncode)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="environments and compiled models; kept between runs")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--only", nargs="+", default=[], metavar="SUBJECT[:MEASUREMENT]")
    parser.add_argument("--output", type=Path, help="default: allegro.json, of a GPU allegro-cuda.json")
    parser.add_argument("--resume", action="store_true", help="keep the figures that the output already holds")
    parser.add_argument("--ours-eager", action="store_true", help=f"ours also with {SWITCH}=off")
    parser.add_argument("--list", action="store_true", help="show subjects and measurements")
    parser.add_argument("--profile", action="store_true", help="operators of our training step instead")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--repeat", type=int, default=20, help="timed calls at most")
    parser.add_argument("--seconds", type=float, default=10, help="of timed calls, at least three calls")
    parser.add_argument("--limit", type=float, default=900, help="seconds for one measurement, compilation included")
    parser.add_argument(
        "--max-memory",
        type=float,
        help=f"GB that a large structure may take; default: {MAX_MEMORY:.0f}, on a GPU nine tenths of its memory",
    )
    parser.add_argument("--torch-index", help="package index of torch for the peers")
    parser.add_argument(
        "--python",
        nargs="+",
        default=[],
        metavar="NAME=PATH",
        help=f"interpreter that has a peer ({', '.join(ENVIRONMENTS)}), instead of one that pip makes",
    )
    options = parser.parse_args()
    if options.profile:
        profile(options)
    pairs = chosen(options.only, ours_eager=options.ours_eager, device=options.device)
    if options.list:
        print("\n".join(f"{subject}:{measurement}" for measurement, subject in pairs))
        return
    if options.folder is None:
        parser.error("--folder is needed: peers' environments take some 3 GB there")
    options.output = options.output or Path("allegro.json" if options.device == "cpu" else "allegro-cuda.json")
    options.python, options.versions = interpreters(options.python), {}
    options.gpu = ask_gpu() if options.device != "cpu" else None
    if options.max_memory is None:
        options.max_memory = MAX_MEMORY if options.gpu is None else 0.9 * options.gpu["bytes"] / 1e9
    options.folder = options.folder.resolve()
    options.folder.mkdir(parents=True, exist_ok=True)
    results: Results = {}
    if options.resume and options.output.exists():
        known = json.loads(options.output.read_text())
        if known["machine"].get("gpu") != options.gpu:
            raise SystemExit(f"{options.output} holds figures of another device: name another --output")
        results = known["results"]
    pythons: dict[str, Path | Unavailable] = {}
    for name, subject in pairs:
        if "edges" in results.get(name, {}).get(subject, {}):
            continue
        entries = results.setdefault(name, {})
        key = SUBJECTS[subject].environment or subject
        if key not in pythons:
            try:
                pythons[key] = python_of(subject, options)
            except Unavailable as error:
                pythons[key] = error
        python = pythons[key]
        if isinstance(python, Unavailable):
            entries[subject] = {"failed": str(python)}
        elif too_much := estimate(name, subject, results, options):
            entries[subject] = {"left_out": too_much}
        else:
            try:
                entries[subject] = measure(name, subject, python, options)
            except Unavailable as error:
                entries[subject] = {"failed": str(error)}
        told = ("failed", "left_out", "ms_per_step", "cpu_ms_per_step", "us_per_atom", "cpu_us_per_atom")
        short = {key: entries[subject][key] for key in (*told, "bytes_per_edge") if key in entries[subject]}
        print(f"{subject}:{name} {short}", file=sys.stderr, flush=True)
        write(options.output, results, options)
    print(json.dumps(json.loads(options.output.read_text())["ratios_peer_over_ours"], indent=1))


if __name__ == "__main__":
    main()
