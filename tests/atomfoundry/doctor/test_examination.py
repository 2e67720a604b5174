"""Checks that crash or hang are findings; what cannot be looked at is one line."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path

import pytest

from atomfoundry.doctor import World, all_checks, examination, run_checks
from atomfoundry.doctor.examination import examine
from atomfoundry.doctor.findings import Finding, ok
from atomfoundry.doctor.registry import _CHECKS, AREAS, Check
from atomfoundry.errors import ConfigurationError, InputError


def quick(world):
    """Answer at once."""
    yield ok("fine")


def test_a_hanging_check_is_left_behind_and_the_others_go_on() -> None:
    def hangs(world):
        time.sleep(30)
        yield ok("never")

    checks = [Check(f"hangs{n}", "machine", hangs, limit=0.2) for n in range(6)]
    checks += [Check("quick", "machine", quick)]
    started = time.monotonic()
    outcomes = examine(checks, World())
    assert time.monotonic() - started < 5  # six that hang, four at a time, are two limits
    assert [type(each).__name__ for each in outcomes] == ["TimeoutError"] * 6 + ["list"]
    assert outcomes[-1] == [Finding("quick", "ok", "fine")]


def test_after_some_have_hung_the_others_get_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "SHORT_LIMIT_S", 0.05)

    def hangs(world):
        time.sleep(30)
        yield ok("never")

    checks = [Check(f"hangs{n}", "machine", hangs, limit=0.4) for n in range(24)]
    outcomes = [str(each) for each in examine(checks, World())]
    assert outcomes[:4] == ["no answer in 0.4 s"] * 4
    assert outcomes[8:] == ["no answer in 0.05 s"] * 16


def test_a_project_on_a_dead_file_server_is_one_finding(project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "has_cluster", property(lambda self: bool(time.sleep(30))))
    monkeypatch.setattr(examination, "FOLDER_LIMIT_S", 0.1)
    for only in ("project", "database"):
        report = run_checks(project, only=only)
        assert [(each.check, each.status) for each in report.findings] == [("project", "problem")]
        assert f"The folder {project} gave no answer" in report.findings[0].message
        assert f"df {project}" in report.findings[0].cure
    assert run_checks(project, only="variables").ok


def replaced(monkeypatch: pytest.MonkeyPatch, function, limit: float = 5.0) -> Finding:
    all_checks()
    monkeypatch.setitem(_CHECKS, "memory", Check("memory", "machine", function, limit))
    report = run_checks(only="memory")
    assert not report.ok
    return report.findings[0]


def test_a_crash_of_a_check_names_the_exception(monkeypatch: pytest.MonkeyPatch) -> None:
    def crashes(world):
        raise ZeroDivisionError("by nothing")
        yield

    found = replaced(monkeypatch, crashes)
    assert (found.check, found.status) == ("memory", "problem")
    assert found.message == "The check itself failed: ZeroDivisionError: by nothing."
    assert "atomfoundry doctor --only memory --json" in found.cure
    assert "ZeroDivisionError" in found.details["traceback"]


def test_an_exit_inside_a_check_does_not_end_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "SystemExit" in replaced(monkeypatch, lambda world: sys.exit(3)).message


def test_a_time_limit_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    found = replaced(monkeypatch, lambda world: time.sleep(30), limit=0.2)
    assert "no answer in 0.2 s" in found.message
    assert "atomfoundry doctor --only memory" in found.cure


def test_our_own_errors_keep_their_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(world):
        raise ConfigurationError("X is wrong.", remedy="Write Y.")

    found = replaced(monkeypatch, refuses)
    assert (found.message, found.cure) == ("X is wrong.", "Write Y.")


def test_a_problem_without_a_cure_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="needs a cure"):
        Finding("x", "problem", "bad")


def test_without_project_and_cluster_there_is_one_line_each() -> None:
    report = run_checks(only=["project", "cluster", "database"])
    assert [(each.check, each.status) for each in report.findings] == [("project", "skipped"), ("cluster", "skipped")]
    assert report.findings[0].cure == "atomfoundry doctor --project DIR"
    assert report.ok


def test_a_project_without_a_cluster_folder_is_one_line(project) -> None:
    findings = run_checks(project, only=["cluster", "database"]).findings
    assert len(findings) == 1
    assert f"{project / 'cluster'} does not exist" in findings[0].message


def test_unknown_names_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="Did you mean 'compiler'"):
        run_checks(only="compilr")


def test_every_check_has_a_title_and_an_area() -> None:
    checks = all_checks()
    assert len(checks) >= 50
    for check in checks:
        assert check.area in AREAS
        assert check.title.endswith(".")
        assert 1 <= check.limit <= 60


def test_the_manual_names_every_check_and_no_other() -> None:
    page = Path(__file__).parents[3] / "docs" / "doctor.md"
    named = set()
    for line in page.read_text().splitlines():
        if line.startswith("| `"):
            named |= set(re.findall(r"`([a-z0-9-]+)`", line.split("|")[1]))
    assert named == {check.name for check in all_checks()}


def test_broken_settings_silence_what_needs_them(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("wrokers: 3\n")
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", str(file))
    report = run_checks(only=["settings", "kernels", "compiler", "quickstart"])
    assert [each.status for each in report.findings] == ["problem", "skipped"]
    assert "quickstart, compiler, kernels" in report.findings[1].message
    assert f"Write 'workers' instead of 'wrokers' in {file}." in report.findings[0].cure


def test_a_report_is_plain_json() -> None:
    import json

    report = run_checks(only="memory")
    content = json.loads(json.dumps(report.as_dict()))
    assert content["ok"] is True
    assert content["counts"] == {"problem": 0, "warning": 0, "ok": 1, "skipped": 0} or content["counts"]["warning"] == 1
    assert content["findings"][0]["check"] == "memory"
