"""What a check found, and the report of all of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Status = Literal["ok", "warning", "problem", "skipped"]

STATUSES: tuple[Status, ...] = ("problem", "warning", "ok", "skipped")


@dataclass(frozen=True)
class Finding:
    """One thing that a check found.

    Attributes
    ----------
    check
        Name of the check; filled in where the check is run.
    status
        ``"problem"``: something will fail. ``"warning"``: it works, but slowly, unsafely or not for long.
        ``"skipped"``: not looked at, or not there and not asked for.
    message
        What was found, with the file, value or host.
    cure
        A command to type or a line to change; every problem and every warning has one.
    details
        Numbers and names behind the message, for machines. Never a credential.
    """

    check: str
    status: Status
    message: str
    cure: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.status in ("warning", "problem") and not self.cure:
            raise ValueError(f"A {self.status} needs a cure: {self.message}")


@dataclass(frozen=True)
class DoctorReport:
    """All findings.

    Attributes
    ----------
    findings
        In the order of the checks.
    project
        The project folder looked into, None if there was none.
    seconds
        How long it took.
    """

    findings: tuple[Finding, ...]
    project: str | None
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.of("problem")

    @property
    def counts(self) -> dict[str, int]:
        """Status -> how many findings."""
        counted = Counter(finding.status for finding in self.findings)
        return {status: counted[status] for status in STATUSES}

    def of(self, status: Status) -> list[Finding]:
        """Return the findings of one status.

        Parameters
        ----------
        status
            Which.
        """
        return [finding for finding in self.findings if finding.status == status]

    def as_dict(self) -> dict[str, Any]:
        """Return plain content, for JSON."""
        return {
            "ok": self.ok,
            "project": self.project,
            "seconds": round(self.seconds, 3),
            "counts": self.counts,
            "findings": [asdict(finding) for finding in self.findings],
        }


def ok(message: str, **details: Any) -> Finding:
    """Return a finding that all is well.

    Parameters
    ----------
    message, **details
        See ``Finding``.
    """
    return Finding("", "ok", message, details=details)


def skipped(message: str, cure: str | None = None, **details: Any) -> Finding:
    """Return a finding that something was not looked at.

    Parameters
    ----------
    message, cure, **details
        See ``Finding``.
    """
    return Finding("", "skipped", message, cure, details)


def warning(message: str, cure: str, **details: Any) -> Finding:
    """Return a finding that something works, but not as it should.

    Parameters
    ----------
    message, cure, **details
        See ``Finding``.
    """
    return Finding("", "warning", message, cure, details)


def problem(message: str, cure: str, **details: Any) -> Finding:
    """Return a finding that something will fail.

    Parameters
    ----------
    message, cure, **details
        See ``Finding``.
    """
    return Finding("", "problem", message, cure, details)
