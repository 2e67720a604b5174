"""What custodian's handlers did to a run, in words; what that makes of the label."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custodian.custodian import CustodianError
from pymatgen.io.vasp import Incar, Kpoints

from atomfoundry.engines.vasp.tags import surface_tags
from atomfoundry.errors import LabelError

_TAIL = 300


def corrections(directory: Path) -> list[dict[str, Any]]:
    """Return what custodian wrote about its corrections: ``errors``, ``actions`` and ``handler`` of each."""
    path = directory / "custodian.json"
    if not path.is_file():
        return []
    log = json.loads(path.read_text())
    return [entry for job in log for entry in job.get("corrections", [])]


def describe_corrections(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the corrections in words, e.g. ``VaspErrorHandler: edddav -> ALGO=All``; empty where there were none."""
    return "; ".join(dict.fromkeys(_correction(entry) for entry in entries))


def _correction(entry: Mapping[str, Any]) -> str:
    handler = (entry.get("handler") or {}).get("@class", "a handler")
    errors = ", ".join(entry.get("errors") or [])
    return f"{handler}: {errors} -> {', '.join(map(_action, entry.get('actions') or [])) or 'no remedy'}"


def _action(action: Mapping[str, Any]) -> str:
    (verb, change), *_ = action.get("action", {}).items() or [("", {})]
    where = action.get("dict") or action.get("file") or ""
    if where == "POSCAR":
        return "POSCAR changed"
    if not isinstance(change, Mapping) or "dict" not in action:
        return f"{where} {verb.strip('_').replace('_', ' ')}"
    if verb == "_unset":
        return f"without {' '.join(change)}"
    words = " ".join(f"{key}={value}" for key, value in change.items())
    return words if where == "INCAR" else f"{where} {words}"


def failure_of(error: CustodianError, formula: str, directory: Path) -> LabelError:
    """Turn custodian's failure into a label's.

    Parameters
    ----------
    error
        What custodian raised.
    formula
        Of the structure.
    directory
        Where VASP ran.

    Returns
    -------
    LabelError
        ``"timeout"``, ``"unconverged"`` or ``"crashed"``, with what the handlers did and VASP's last words.
    """
    entries = corrections(directory)
    if stopped_by_time(entries):
        return timed_out(formula, directory)
    last = [text for entry in entries[-1:] for text in entry.get("errors") or []]
    history = describe_corrections(entries)
    tried = f" Repairs: {history}." if history else ""
    if last in (["Unconverged"], ["Non-converging job"]):
        return LabelError(
            f"{formula}: the electronic steps of VASP did not converge.{tried}",
            reason="unconverged",
            remedy="Raise NELM or change ALGO and mixing in user_incar_settings.",
        )
    words = _last_words(directory)
    return LabelError(
        f"{formula}: VASP failed: {error.message.strip().rstrip('.')}.{tried}{words}",
        reason="crashed",
        remedy="Look at the structure.",
    )


def stopped_by_time(entries: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether one of the clocks ended the run."""
    return any(text in ("Time limit", "Walltime reached") for entry in entries for text in entry.get("errors") or [])


def reached_ediff(directory: Path) -> bool:
    """Tell whether the OUTCAR says that the electronic steps converged."""
    path = directory / "OUTCAR"
    return path.is_file() and "aborting loop because EDIFF is reached" in path.read_text(errors="replace")


def timed_out(formula: str, directory: Path) -> LabelError:
    """Return the failure of a run that was over its time."""
    others = [entry for entry in corrections(directory) if not stopped_by_time([entry])]
    tried = f" Repairs: {describe_corrections(others)}." if others else ""
    return LabelError(f"{formula}: VASP did not end in its time.{tried}", reason="timeout", remedy="Raise 'timeout'.")


def _last_words(directory: Path) -> str:
    words = []
    for name in ("vasp.out", "std_err.txt"):
        path = directory / name
        text = path.read_text(errors="replace").strip() if path.is_file() else ""
        if text:
            words.append(f" {name} ends: {' / '.join(text[-_TAIL:].splitlines()[-4:])}")
    return "".join(words)


def level_changes(directory: Path, incar: Incar, kpoints: Kpoints | None) -> list[str]:
    """Return what the handlers changed of the level of theory.

    Parameters
    ----------
    directory
        Where VASP ran.
    incar, kpoints
        As they were written.

    Returns
    -------
    list of str
        E.g. ``ISMEAR -5 -> 0``; empty where the label is of the level it was asked for.
    """
    changes = []
    if (directory / "INCAR").is_file():
        before, after = surface_tags(incar), surface_tags(Incar.from_file(directory / "INCAR"))
        for key in sorted(before.keys() | after.keys()):
            if before.get(key) != after.get(key):
                changes.append(f"{key} {before.get(key)} -> {after.get(key)}")
    if kpoints is not None and (directory / "KPOINTS").is_file():
        now = Kpoints.from_file(directory / "KPOINTS")
        if (now.style, _rows(now)) != (kpoints.style, _rows(kpoints)):
            changes.append(f"KPOINTS {kpoints.style} {_rows(kpoints)} -> {now.style} {_rows(now)}")
    return changes


def _rows(kpoints: Kpoints) -> list[tuple[float, ...]]:
    return [tuple(float(value) for value in row) for row in (*kpoints.kpts, kpoints.kpts_shift)]
