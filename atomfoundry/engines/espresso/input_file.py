"""Read and change an input file of pw.x, one keyword at a time."""

from __future__ import annotations

import re
from pathlib import Path

from atomfoundry.errors import InputError

Value = bool | int | float | str


class PwInput:
    """An input file whose namelists can be changed; the cards stay as they are.

    Parameters
    ----------
    text
        One keyword a line in its namelists, as ASE writes it.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def read(cls, path: Path) -> PwInput:
        """Read a file."""
        return cls(path.read_text())

    def write(self, path: Path) -> None:
        """Write the file; never a half one."""
        part = path.with_name(f".{path.name}.part")
        part.write_text(self.text)
        part.replace(path)

    def get(self, section: str, key: str) -> Value | None:
        """Return a keyword's value, or None where the file does not set it.

        Parameters
        ----------
        section
            Namelist, e.g. ``"electrons"``.
        key
            Keyword.
        """
        _, body, _ = self._split(section)
        found = self._line(key).search(body)
        return _parsed(found[1].strip()) if found else None

    def set(self, section: str, key: str, value: Value) -> None:
        """Set a keyword.

        Parameters
        ----------
        section
            Namelist, e.g. ``"electrons"``.
        key
            Keyword.
        value
            Its value.

        Raises
        ------
        InputError
            If the file has no such namelist.
        """
        before, body, after = self._split(section)
        line = f"   {key:<16} = {_formatted(value)}\n"
        body = self._line(key).sub("", body) + line
        self.text = before + body + after

    @staticmethod
    def _line(key: str) -> re.Pattern[str]:
        return re.compile(rf"(?im)^[ \t]*{re.escape(key)}[ \t]*=(.*)\n")

    def _split(self, section: str) -> tuple[str, str, str]:
        found = re.search(rf"(?ims)^[ \t]*&{section}[^\n]*\n(.*?)(?=^[ \t]*/)", self.text)
        if found is None:
            raise InputError(
                f"The input of pw.x has no namelist '&{section}'.", remedy="It must have one keyword a line."
            )
        return self.text[: found.start(1)], found[1], self.text[found.end(1) :]


def _parsed(text: str) -> Value:
    text = text.rstrip(", ")
    if text[:1] in ("'", '"'):
        return text.strip("'\"")
    if text.lower().strip(".") in ("true", "t", "false", "f"):
        return text.lower().strip(".").startswith("t")
    try:
        return int(text)
    except ValueError:
        return float(text.lower().replace("d", "e"))


def _formatted(value: Value) -> str:
    if isinstance(value, bool):
        return ".true." if value else ".false."
    return f"'{value}'" if isinstance(value, str) else repr(value)
