"""What jobs and users say is printed as it is, whatever brackets and colons it holds."""

from __future__ import annotations

import pytest

from atomfoundry.cli import console, doctor, summary
from atomfoundry.doctor import DoctorReport, Finding
from atomfoundry.errors import InputError

TEXTS = [
    "[/shared/a, /shared/b] are not there",
    "[light, dft] and [bold] have no worker",
    r"\[red] C:\[a] ends in a backslash \\",
    "a.py:100: x :warning: :1st_place_medal:",
]


@pytest.mark.parametrize("text", TEXTS)
def test_the_ways_of_printing(capsys, text):
    console.console.print(text, highlight=False, soft_wrap=True)
    console.console.print(console.coloured((text, "bold"), f" {text}"), highlight=False, soft_wrap=True)
    console.print_table([text], [[text]], title=text)
    assert capsys.readouterr().out.count(text) == 6
    console.fail(InputError(text))
    assert capsys.readouterr().err == f"Error: {text}\n"


@pytest.mark.parametrize("text", TEXTS)
def test_findings_of_the_doctor(capsys, text):
    doctor._print(DoctorReport((Finding("workers", "problem", text, cure=text),), None, 1.0))
    assert capsys.readouterr().out.count(text) == 2


@pytest.mark.parametrize("text", TEXTS)
def test_the_end_of_a_run(capsys, text):
    failure = {"name": text, "message": text, "folder": f"/tmp/{text}"}
    counts = {"completed": 1, "reused": 0, "failed": 1, "blocked": 0, "left": 0}
    summary.print_summary({"ok": False, "project": text, **counts, "failures": [failure]})
    assert capsys.readouterr().out.count(text) == 4


def test_colours_are_for_terminals():
    assert console.coloured(("failed", "red"), " [bold]").markup == r"[red]failed[/red] \[bold]"
