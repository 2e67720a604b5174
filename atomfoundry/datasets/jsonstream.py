"""Read the items of a huge JSON list or object one by one."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from atomfoundry.errors import DatasetError

_CHUNK = 1 << 20
_NEAR_THE_END = 4096
_AFTER_A_VALUE = tuple(",:]} \t\r\n")
_OPENERS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".lzma": lzma.open}


def stream_items(path: str | Path) -> Iterator[tuple[str | int, Any]]:
    """Yield the items of the outermost list or object of a JSON file, ``.gz``, ``.bz2`` and ``.xz`` too.

    The file is never held as a whole: memory is that of the largest item. Each item is decoded by the standard
    library's C scanner, as fast as the C parsers made for streams, so that no further package is needed.

    Yields
    ------
    tuple
        Key (or number in a list) and value.

    Raises
    ------
    DatasetError
        Naming the item after which the file breaks off or is no JSON.
    """
    file = Path(path)
    try:
        with _OPENERS.get(file.suffix, open)(file, "rt", encoding="utf-8") as stream:
            yield from _Scanner(stream, file).items()
    except (OSError, EOFError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise DatasetError(f"'{file}' cannot be read: {error}.", remedy="Fetch the file again.") from error


class _Scanner:
    """A window on the text that moves from item to item."""

    def __init__(self, stream: TextIO, path: Path) -> None:
        self._stream = stream
        self._path = path
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()
        self._done = 0

    def items(self) -> Iterator[tuple[str | int, Any]]:
        opening = self._skip()
        if opening not in ("[", "{"):
            raise self._broken("it is neither a list nor an object")
        closing = "]" if opening == "[" else "}"
        self._at += 1
        if self._skip() == closing:
            return
        while True:
            key: str | int = self._done
            if opening == "{":
                key = self._value()
                if not isinstance(key, str) or self._skip() != ":":
                    raise self._broken("a key is missing")
                self._at += 1
            value = self._value()
            yield key, value
            self._done += 1
            following = self._skip()
            if following == closing:
                return
            if following != ",":
                raise self._broken("it breaks off" if not following else f"'{following}' is no JSON")
            self._at += 1

    def _broken(self, why: str) -> DatasetError:
        return DatasetError(
            f"'{self._path}' cannot be read as JSON after {self._done} items: {why}.", remedy="Fetch the file again."
        )

    def _more(self) -> bool:
        """Read on, at least as much again as waits to be decoded; False at the end of the file."""
        waiting = self._text[self._at :]
        fresh = self._stream.read(max(_CHUNK, len(waiting)))
        self._text, self._at = waiting + fresh, 0
        self._ended = not fresh
        return bool(fresh)

    def _skip(self) -> str:
        """Go to the next character that is no white space and return it; empty at the end."""
        while True:
            while self._at < len(self._text):
                if not self._text[self._at].isspace():
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def _value(self) -> Any:
        self._skip()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                inside = error.pos < len(self._text) - _NEAR_THE_END and not error.msg.startswith("Unterminated")
                if inside or not self._more():
                    raise self._broken("it breaks off" if not inside else error.msg) from error
                continue
            # A number at the end of the window may go on behind it, with digits, a point or an exponent.
            if self._text[end : end + 1] not in _AFTER_A_VALUE and self._more():
                continue
            self._at = end
            return value
