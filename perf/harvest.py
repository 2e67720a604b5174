"""Speed and memory of the harvest against plain serial pymatgen and ASE on the same tree; prints JSON.

    python perf/harvest.py TREE [--copies 4] [--processes 2] [--repeat 3] [--long VASPRUN.xml.gz]

TREE holds finished VASP runs (``vasprun.xml``, ``OUTCAR``, gzipped or not) and pw.x outputs; it is copied
``--copies`` times. Serial means: pymatgen's Vasprun as it is called by default and with DOS and eigenvalues left out,
and ASE's reader for every other file, last step, one process. Rounds of all contenders alternate, so that a slow
machine is slow for all; ratios are medians of the rounds' ratios. ``--long`` repeats the ionic steps of a run to
3,000 and reads them.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

SERIAL = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from pymatgen.io.vasp import Vasprun
import ase.io
options = dict(parse_dos=False, parse_eigen=False) if sys.argv[2] == "lean" else {}
for path in sorted(Path(sys.argv[1]).rglob("*")):
    if not path.is_file():
        continue
    try:
        if "vasprun" in path.name:
            Vasprun(str(path), parse_potcar_file=False, exception_on_bad_xml=False, **options).ionic_steps[-1:]
        elif "OUTCAR" in path.name:
            list(ase.io.iread(str(path), index=":", format="vasp-out"))
        elif path.suffix in (".out", ".gz"):
            ase.io.read(str(path), format="espresso-out")
    except Exception:
        pass
"""

OURS = """
import sys
from atomfoundry.harvest import harvest_dataset
report = harvest_dataset(sys.argv[1], sys.argv[2], steps="all", processes=int(sys.argv[3]))
print(report.n_frames, len(report.files))
"""


def run(code: str, *arguments: str) -> tuple[float, float, str]:
    """Return seconds, peak memory of the process and its children (MB) and what was printed."""
    start = time.perf_counter()
    watched = (
        "import resource, subprocess, sys\n"
        "done = subprocess.run([sys.executable, '-c', *sys.argv[1:]], capture_output=True, text=True, check=True)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)\n"
        "print(done.stdout)\n"
    )
    done = subprocess.run([sys.executable, "-c", watched, code, *arguments], capture_output=True, text=True, check=True)
    memory, _, text = done.stdout.partition("\n")
    return time.perf_counter() - start, float(memory), text.strip()


def long_run(source: Path, target: Path, steps: int) -> int:
    """Repeat the ionic steps of a vasprun.xml until there are ``steps``."""
    opener = gzip.open if source.suffix == ".gz" else open
    with opener(source, "rt", encoding="latin-1") as stream:
        text = stream.read()
    first, last = text.index("<calculation>"), text.rindex("</calculation>") + len("</calculation>")
    block = text[first:last]
    times = -(-steps // block.count("<calculation>"))
    target.write_text(text[:first] + block * times + text[last:], encoding="latin-1")
    return times * block.count("<calculation>")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tree", type=Path)
    parser.add_argument("--copies", type=int, default=4)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--long", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        tree, small = Path(folder) / "tree", Path(folder) / "small"
        for copy in range(options.copies):
            shutil.copytree(options.tree, tree / str(copy))
        shutil.copytree(options.tree, small / "0")
        rounds: list[dict[str, float]] = []
        memory: dict[str, float] = {}
        printed = ""
        for number in range(options.repeat):
            times = {}
            for name in ("default", "lean"):
                times[f"serial_{name}"], memory[f"serial_{name}"], _ = run(SERIAL, str(tree), name)
            for count in (1, options.processes):
                out = str(Path(folder) / f"out-{number}-{count}")
                times[f"ours_{count}"], memory[f"ours_{count}"], printed = run(OURS, str(tree), out, str(count))
            rounds.append(times)
        _, memory["ours_one_copy"], _ = run(OURS, str(small), str(Path(folder) / "out-s"), str(options.processes))
        ours = f"ours_{options.processes}"
        report = {
            "frames_and_files": printed,
            "seconds": {name: round(statistics.median(r[name] for r in rounds), 2) for name in rounds[0]},
            "speedup": {
                name: round(statistics.median(r[name] / r[ours] for r in rounds), 2)
                for name in rounds[0]
                if name != ours
            },
            # Of the biggest single process: the parent, or a reader with its biggest file.
            "peak_mb": {name: round(value, 1) for name, value in memory.items()},
        }
        if options.long is not None:
            from atomfoundry.harvest.judge import HarvestOptions, read_file

            path = Path(folder) / "vasprun.xml"
            steps = long_run(options.long, path, 3000)
            start = time.perf_counter()
            found = read_file(str(path), path.name, "vasprun", "long", HarvestOptions(steps="all"))
            report["long_run"] = {
                "steps": steps,
                "mb": round(path.stat().st_size / 1e6, 1),
                "seconds": round(time.perf_counter() - start, 2),
                "frames": len(found.frames),
                "rejections": len(found.rejections),
                "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
            }
        print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
