"""What a finished run tells people and machines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomfoundry.cli.console import coloured, console, print_table

if TYPE_CHECKING:
    from atomfoundry.running import RunResult


def summarise(project: Path, result: RunResult) -> dict[str, Any]:
    """Collect counts, failures, targets and the report of a run."""
    from atomfoundry.documents import LabelDoc
    from atomfoundry.results import Project, open_results

    database = open_results(project)
    summary: dict[str, Any] = {
        "project": str(project),
        "ok": result.ok,
        "total": result.total,
        "completed": result.completed - result.reused,
        "reused": result.reused,
        "failed": result.failed,
        "blocked": result.blocked,
        "left": result.left,
        "wall_time_s": result.wall_time_s,
        "failures": [{"name": f.name, "message": f.message, "folder": str(f.folder)} for f in result.failures],
        "labels": {
            "ok": database.count(LabelDoc, {"status": "ok"}),
            "failed": database.count(LabelDoc, {"status": "failed"}),
        },
    }
    reports = database.reports()
    if reports and result.ok:
        newest = max(reports, key=lambda r: r.completed_at or "")
        summary["report"] = str(Project.open(project).artifacts.fetch(newest.document.html))
        summary["targets"] = newest.document.targets
        summary["headline"] = newest.document.headline
        summary["report_uuid"] = newest.uuid
    return summary


def print_summary(summary: dict[str, Any]) -> None:
    """Print a summary for people."""
    if summary["ok"] and not summary["completed"]:
        console.print(
            f"Nothing to do: all {summary['reused']} jobs of this flow are finished in {summary['project']}.",
            highlight=False,
        )
    elif summary["ok"]:
        reused = f" ({summary['reused']} were done before)" if summary["reused"] else ""
        console.print(
            coloured(
                ("Done", "bold green"), f": {summary['completed']} jobs in {summary['wall_time_s']:.0f} s{reused}."
            ),
            highlight=False,
        )
    elif summary["left"] and not summary["failed"]:
        console.print(
            coloured(
                ("Stopped in time", "bold"),
                f": {summary['left']} jobs are left, {summary['completed'] + summary['reused']} done. "
                "The same command goes on with them.",
            ),
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(
            coloured(
                (f"{summary['failed']} jobs failed", "bold red"),
                f", {summary['blocked']} wait for them, {summary['completed']} done. "
                f"Mend the cause, then: atomfoundry retry --project {summary['project']}",
            ),
            highlight=False,
            soft_wrap=True,
        )
    for failure in summary["failures"]:
        console.print(f"  {failure['name']}: {failure['message']}", highlight=False, soft_wrap=True)
        console.print(f"    folder {failure['folder']}", highlight=False, soft_wrap=True)
    counts = summary.get("labels") or {}
    if counts.get("failed"):
        console.print(
            f"{counts['failed']} of {sum(counts.values())} labels failed; the rest went on. See: "
            f"atomfoundry results labels --where status=failed --project {summary['project']}",
            highlight=False,
            soft_wrap=True,
        )
    if summary.get("targets"):
        words = {True: ("reached", "green"), False: ("missed", "red"), None: ("not measured", "")}
        for target in summary["targets"]:
            value = "-" if target["value"] is None else f"{target['value']:.3g}"
            console.print(
                coloured(
                    f"  {target['name']:<42} {value:>9} {target['unit']:<12} (target < {target['target']:g})  ",
                    words[target["passed"]],
                ),
                highlight=False,
            )
    if summary.get("report"):
        console.print(f"Report: {summary['report']}", highlight=False, soft_wrap=True)
        print_table(
            ["next", ""],
            [
                ["the models", f"atomfoundry results models --project {summary['project']}"],
                [
                    "where a result comes from",
                    f"atomfoundry lineage {summary['report_uuid']} --project {summary['project']}",
                ],
                ["the report as a file", f"atomfoundry report -o report.html --project {summary['project']}"],
            ],
        )
