"""Numbers, times and sizes as a reader wants to see them."""

from __future__ import annotations

import math
from datetime import UTC, datetime

MINUS = "\N{MINUS SIGN}"
MISSING = "\N{EN DASH}"
ANGSTROM = "\N{LATIN CAPITAL LETTER A WITH RING ABOVE}"


def number(value: float | int | None, digits: int = 3) -> str:
    """Return ``value`` with ``digits`` significant digits, thousands separated, never in computer notation.

    Integers keep all their digits. ``None`` and NaN become a dash.
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace("-", MINUS)
    if math.isnan(value):
        return MISSING
    if math.isinf(value):
        return f"{MINUS if value < 0 else ''}\N{INFINITY}"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 7:
        mantissa, power = f"{value:.{digits - 1}e}".split("e")
        raised = str(int(power)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
        return f"{mantissa}×10{raised}".replace("-", MINUS)
    rounded = float(f"{value:.{digits - 1}e}")
    exponent = math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(0, digits - 1 - exponent)}f}".replace("-", MINUS)


def short_number(value: float) -> str:
    """Return a round number without needless zeros, e.g. ``10``, ``0.05``, ``10⁻⁶``."""
    words = number(value, 1)
    return words.removeprefix("1×")


def r_squared(value: float | None) -> str:
    """Return a coefficient of determination: four decimals, fewer where it is far from 1."""
    return fixed(value, 4) if value is None or abs(value) < 10 else number(value)


def plain(value: float | None) -> str:
    """Return a number as it was given, without needless zeros."""
    if value is None or not math.isfinite(value) or not 1e-4 <= abs(value) < 1e7:
        return number(value)
    return f"{value:,.10g}".replace("-", MINUS)


def fixed(value: float | None, decimals: int = 3) -> str:
    """Return ``value`` with a fixed number of decimals; ``None`` and NaN become a dash."""
    if value is None or math.isnan(value):
        return MISSING
    return f"{value:,.{decimals}f}".replace("-", MINUS)


def duration(seconds: float | None) -> str:
    """Return a time span in words of one or two units, e.g. ``3 min 05 s``."""
    if seconds is None:
        return MISSING
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    whole = round(seconds / 60)
    if whole < 48 * 60:
        return f"{whole // 60} h {whole % 60:02d} min"
    return f"{whole // 1440} d {whole % 1440 // 60:02d} h"


def size(n_bytes: float | None) -> str:
    """Return a number of bytes with a decimal unit, e.g. ``1.4 MB``."""
    if n_bytes is None:
        return MISSING
    value = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 999.5:
            return f"{value:.0f} B" if unit == "B" else f"{number(value)} {unit}"
        value /= 1000
    return f"{number(value)} TB"


def moment(iso: str | None) -> str:
    """Return an ISO 8601 time as ``2025-01-31 14:05:09 UTC``; unreadable text is given back as it is."""
    if not iso:
        return MISSING
    parsed = parse_time(iso)
    return iso if parsed is None else parsed.strftime("%Y-%m-%d %H:%M:%S UTC")


def parse_time(iso: str | None) -> datetime | None:
    """Return the aware UTC time of an ISO 8601 text, or ``None``; a time without a zone counts as UTC."""
    if not iso:
        return None
    try:
        parsed = datetime.fromisoformat(iso)
    except ValueError:
        return None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)


def count(n: int, noun: str, plural: str | None = None) -> str:
    """Return ``1 frame`` or ``1,200 frames``."""
    return f"{number(n)} {noun if n == 1 else plural or noun + 's'}"


def listing(counts: dict[str, int]) -> str:
    """Return ``a: 3, b: 1`` in falling order of the counts."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name}: {number(n)}" for name, n in ordered) or MISSING


def short_hash(text: str, length: int = 10) -> str:
    """Return the first digits of a hash or uuid."""
    return text[:length]
