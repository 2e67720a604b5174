"""The last two sections: every artifact with its hash, and where everything came from."""

from __future__ import annotations

from collections.abc import Iterable

from atomfoundry.documents import Provenance
from atomfoundry.results.report import text
from atomfoundry.results.report.blocks import Block, Cell, Section, Table
from atomfoundry.results.report.data import ReportInputs


def artifacts(inputs: ReportInputs) -> Section:
    """Return the section that lists every artifact."""
    key, title = "artifacts", "Artifacts"
    rows = inputs.artifact_rows()
    if not rows:
        return Section(key=key, title=title, absent="No artifact was stored.")
    table = Table(
        header=["Name", "Kind", "Size", "sha256", "Job", "Address"],
        rows=[
            [
                row.name,
                row.kind,
                Cell(text=text.size(row.size), kind="number"),
                Cell(text=text.short_hash(row.sha256, 12), kind="hash", full=row.sha256),
                Cell(text=text.short_hash(row.job_uuid, 8), kind="hash", full=row.job_uuid)
                if row.job_uuid
                else Cell(text=text.MISSING, kind="quiet"),
                Cell(text=row.uri, kind="code"),
            ]
            for row in rows
        ],
        caption="Files and folders, addressed by their content; click a hash or uuid to copy all of it.",
        numeric=frozenset({2}),
    )
    whole = text.size(sum({row.sha256: row.size for row in rows}.values()))
    return Section(key=key, title=title, lead=f"{text.count(len(rows), 'artifact')}, {whole}.", blocks=[table])


def provenance(inputs: ReportInputs) -> Section:
    """Return the section on versions, hosts and seeds."""
    key, title = "provenance", "Provenance"
    records = [document.provenance for document in inputs.documents() if document.provenance is not None]
    blocks: list[Block] = []
    facts = _facts(records, inputs)
    if facts:
        blocks.append(Table(header=["What", "Value"], rows=facts))
    packages: dict[str, set[str]] = {}
    for record in records:
        for name, version in record.packages.items():
            packages.setdefault(name, set()).add(version)
    if packages:
        blocks.append(
            Table(
                header=["Package", "Version"],
                rows=[[name, ", ".join(sorted(found))] for name, found in sorted(packages.items())],
                folded=f"Versions of {text.count(len(packages), 'package')}",
            )
        )
    if records:
        blocks.append(_documents(inputs))
    if not blocks:
        return Section(key=key, title=title, absent="The documents carry no provenance.")
    lead = "With the same code, settings and seeds the same numbers come out again."
    return Section(key=key, title=title, lead=lead, blocks=blocks)


def _facts(records: list[Provenance], inputs: ReportInputs) -> list[list[Cell | str]]:
    """Return what is common to all documents; several values stand side by side."""
    facts: list[list[Cell | str]] = []

    def add(words: str, found: Iterable[str]) -> None:
        distinct = sorted({value for value in found if value})
        if distinct:
            facts.append([words, ", ".join(distinct)])

    add("Atomfoundry version", (r.code_version for r in records))
    add("git commit", (r.git_commit or "" for r in records))
    add("Hosts", (r.host for r in records))
    add("Devices", (r.device for r in records))
    add("Seeds", ("" if r.seed is None else str(r.seed) for r in records))
    add("Settings hash", (r.settings_hash for r in records))
    starts = sorted(r.started_at for r in records if r.started_at)
    if starts:
        facts.append(["First document begun", text.moment(starts[0])])
        facts.append(["Last document begun", text.moment(starts[-1])])
    facts += [[name, value] for name, value in inputs.environment.items()]
    return facts


def _documents(inputs: ReportInputs) -> Table:
    rows: list[list[Cell | str]] = []
    for document in inputs.documents():
        record = document.provenance
        if record is None:
            continue
        memory = record.peak_memory_mb * 1e6 if record.peak_memory_mb else None
        rows.append(
            [
                type(document).__name__.removesuffix("Doc"),
                record.job_name,
                record.host,
                record.device,
                text.MISSING if record.seed is None else str(record.seed),
                text.moment(record.started_at),
                Cell(text=text.duration(record.wall_time_s), kind="number"),
                Cell(text=text.size(memory), kind="number"),
                Cell(text=text.short_hash(record.job_uuid, 8), kind="hash", full=record.job_uuid),
            ]
        )
    return Table(
        header=["Document", "Job", "Host", "Device", "Seed", "Begun", "Wall time", "Peak memory", "Job uuid"],
        rows=rows,
        numeric=frozenset({6, 7}),
        folded=f"Provenance of {text.count(len(rows), 'document')}",
    )
