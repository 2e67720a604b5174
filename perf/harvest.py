"""Speed and memory of the harvest against plain serial pymatgen and ASE on the same tree; prints JSON.

    python perf/harvest.py [--source FOLDER ...] [--copies 10] [--processes 2] [--repeat 3] [--no-long]

The tree is made here: ``--copies`` copies of the VASP and pw.x outputs of the test data (ATOMFOUNDRY_TEST_DATA, or
``../shared/data`` beside the repository). In each copy the first atom of every structure is shifted by another
multiple of the last digit, so that no frame repeats. Serial means what one writes without us: pymatgen's ``Vasprun``
(as it is called by default, and lean: without DOS, eigenvalues and POTCAR) and ``ase.io.read`` of every other file,
one process, nothing judged and nothing written. Ours writes a dataset. Rounds of all contenders alternate, so that a
busy machine is busy for all; ratios are medians of the rounds' ratios. CPU seconds count all processes.

The long run repeats the ionic steps of one AIMD ``vasprun.xml`` to 3,000, again without repeating a frame.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

SERIAL = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from pymatgen.io.vasp import Vasprun
import ase.io
lean = dict(parse_dos=False, parse_eigen=False, parse_potcar_file=False) if sys.argv[2] == "lean" else {}
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if not path.is_file():
        continue
    try:
        if "vasprun" in path.name:
            Vasprun(str(path), **lean).ionic_steps
        elif "OUTCAR" in path.name:
            ase.io.read(str(path), index=":", format="vasp-out")
        else:
            ase.io.read(str(path), index=":", format="espresso-out")
    except Exception:
        pass
"""

OURS = """
import sys
from atomfoundry.harvest import harvest_dataset
report = harvest_dataset(sys.argv[1], sys.argv[2], steps="all", processes=int(sys.argv[3]))
print(report.n_frames, len(report.files))
"""

LONG_PYMATGEN = """
import sys, time, warnings
warnings.simplefilter("ignore")
from pymatgen.io.vasp import Vasprun
start = time.process_time()
run = Vasprun(sys.argv[1], parse_dos=False, parse_eigen=False, parse_potcar_file=False)
print(time.process_time() - start, len(run.ionic_steps), 0)
"""

LONG_OURS = """
import sys, time
import pymatgen.io.vasp
from atomfoundry.harvest.workers import _load_vesin
_load_vesin()
from atomfoundry.harvest.judge import HarvestOptions, read_file
start = time.process_time()
found = read_file(sys.argv[1], "vasprun.xml", "vasprun", "long", HarvestOptions(steps="all"))
print(time.process_time() - start, len(found.frames), len(found.rejections))
"""

WATCH = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
done = subprocess.run([sys.executable, "-c", *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=True)
wall, used = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, done.stdout.strip()]))
"""

FIRST_ATOM = (
    rb'(<varray name="positions" >\s*<v>\s*-?\d+\.\d+)\d\d(?=\s)',
    rb"(POSITION +TOTAL-FORCE \(eV/Angst\)\n -+\n\s*-?\d+\.\d\d)\d\d(?=\d\s)",
    rb"(\(alat units\)\n\s+1\s+\w+\s+tau\(\s*1\) = \(\s*-?\d+\.\d+)\d\d(?=\s)",
    rb"(ATOMIC_POSITIONS[^\n]*\n\s*\w+\s+-?\d+\.\d+)\d\d(?=\s)",
    rb'(<atom name="\w+" index="1">-?\d\.\d+)\d\d(?=e)',
)


def shift(content: bytes, number: int) -> bytes:
    """Write ``number`` into two late digits of the first coordinate of every structure."""
    for pattern in FIRST_ATOM:
        content = re.sub(pattern, rb"\g<1>%02d" % (number % 100), content)
    return content


def make_tree(sources: list[Path], tree: Path, copies: int) -> int:
    """Write the copies; return the number of files."""
    files = [(source, path) for source in sources for path in sorted(source.rglob("*")) if path.is_file()]
    wanted = [(source, path) for source, path in files if re.search(r"vasprun|OUTCAR|\.out|\.xml", path.name)]
    for source, path in wanted:
        packed = path.suffix == ".gz"
        content = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        for copy in range(copies):
            target = tree / str(copy) / source.name / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            changed = shift(content, 3 * copy + 1)
            target.write_bytes(gzip.compress(changed, 6) if packed else changed)
    return copies * len(wanted)


def long_run(source: Path, target: Path, steps: int) -> int:
    """Repeat the ionic steps of a vasprun.xml until there are ``steps``, each with its own first atom."""
    content = gzip.decompress(source.read_bytes()) if source.suffix == ".gz" else source.read_bytes()
    first, last = content.index(b"<calculation>"), content.rindex(b"</calculation>") + len(b"</calculation>")
    block = content[first:last]
    times = -(-steps // block.count(b"<calculation>"))
    blocks = b"".join(shift(block, 3 * number + 1) for number in range(times))
    target.write_bytes(content[:first] + blocks + content[last:])
    return times * block.count(b"<calculation>")


def run(code: str, *arguments: str) -> tuple[float, float, float, str]:
    """Return wall seconds, CPU seconds and peak memory (MB) of a program and its children, and what it printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WATCH, code, *arguments], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    wall, cpu, memory, text = json.loads(done.stdout)
    return wall, cpu, memory, text


def median_ratio(rounds: list[dict[str, float]], over: str, under: str) -> float:
    """Return the median of the rounds' ratios."""
    return round(statistics.median(times[over] / times[under] for times in rounds), 2)


def compare_long(source: Path, folder: Path, repeat: int) -> dict[str, object]:
    """Read the long run with pymatgen alone and with ours; loading of libraries is not counted."""
    path = folder / "vasprun.xml"
    steps = long_run(source, path, 3000)
    rounds: list[dict[str, float]] = []
    memory: dict[str, float] = {}
    frames = rejections = ""
    for _ in range(repeat):
        times = {}
        for name, code in (("pymatgen_lean", LONG_PYMATGEN), ("ours", LONG_OURS)):
            _, _, memory[name], printed = run(code, str(path))
            seconds, frames, rejections = printed.split()
            times[name] = float(seconds)
        rounds.append(times)
    return {
        "steps": steps,
        "mb": round(path.stat().st_size / 1e6, 1),
        "frames": int(frames),
        "rejections": int(rejections),
        "cpu_seconds": {name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]},
        "pymatgen_over_ours": median_ratio(rounds, "pymatgen_lean", "ours"),
        "peak_mb": {name: round(value, 1) for name, value in memory.items()},
    }


def main() -> None:
    """Make the tree, race, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--source", type=Path, nargs="*")
    parser.add_argument("--copies", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--no-long", action="store_true")
    options = parser.parse_args()
    data = Path(os.environ.get("ATOMFOUNDRY_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data")
    sources = options.source or [data / "dft_outputs" / name for name in ("vasp", "qe")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        n_files = make_tree(sources, folder / "tree", options.copies)
        if not n_files:
            parser.error(f"no outputs below {', '.join(map(str, sources))}; set ATOMFOUNDRY_TEST_DATA")
        make_tree(sources, folder / "small", 1)
        walls: list[dict[str, float]] = []
        cpus: list[dict[str, float]] = []
        memory: dict[str, float] = {}
        printed = ""
        for number in range(options.repeat):
            wall, cpu = {}, {}
            for kind in ("default", "lean"):
                key = f"serial_{kind}"
                wall[key], cpu[key], memory[key], _ = run(SERIAL, str(folder / "tree"), kind)
            for count in (1, options.processes):
                key = f"ours_{count}"
                out = str(folder / f"out-{number}-{count}")
                wall[key], cpu[key], memory[key], printed = run(OURS, str(folder / "tree"), out, str(count))
            walls.append(wall)
            cpus.append(cpu)
        ours = f"ours_{options.processes}"
        _, _, memory["ours_one_copy"], _ = run(
            OURS, str(folder / "small"), str(folder / "out-small"), str(options.processes)
        )
        frames, files = printed.split()
        report: dict[str, object] = {
            "files": n_files,
            "outputs": int(files),
            "frames": int(frames),
            "wall_seconds": {key: round(statistics.median(r[key] for r in walls), 2) for key in walls[0]},
            "cpu_seconds": {key: round(statistics.median(r[key] for r in cpus), 2) for key in cpus[0]},
            "wall_serial_over_ours": {
                f"{kind}_{count}": median_ratio(walls, f"serial_{kind}", f"ours_{count}")
                for kind in ("default", "lean")
                for count in (1, options.processes)
            },
            "cpu_serial_over_ours": {
                f"{kind}_{count}": median_ratio(cpus, f"serial_{kind}", f"ours_{count}")
                for kind in ("default", "lean")
                for count in (1, options.processes)
            },
            # Of the biggest single process: the parent, or a reader with its biggest file.
            "peak_mb": {key: round(value, 1) for key, value in memory.items()},
            "peak_growth": round(memory[ours] / memory["ours_one_copy"], 3),
            "load": [round(value, 2) for value in os.getloadavg()],
        }
        if not options.no_long:
            source = data / "dft_outputs/vasp/vasprun.bad_random_seed.xml.gz"
            report["long_run"] = compare_long(source, folder, options.repeat)
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
