"""JSON over HTTP: time-outs, retries, Retry-After, and half answers told from whole ones."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

from atomfoundry.errors import AtomfoundryError

USER_AGENT = "atomfoundry"
_RETRIED = frozenset({408, 429, 500, 502, 503, 504})
_LARGEST_ANSWER = 256 * 1024 * 1024


class DatabaseError(AtomfoundryError):
    """An online database does not answer, or not as its protocol says."""


class _SameHost(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but never carry headers (a key may be among them) to another host."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            new.headers = {"User-agent": USER_AGENT, "Accept": "application/json"}
        return new


def _place(url: str) -> str:
    """Return a URL without user, password and query: what may stand in a message."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}{parts.path}"


def _wait_asked_for(answer: urllib.error.HTTPError) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date."""
    value = answer.headers.get("Retry-After") if answer.headers else None
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def get_json(
    url: str,
    *,
    headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
    retries: int = 4,
    backoff: float = 1.0,
    longest_wait: float = 120.0,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Return the JSON object behind a URL.

    Parameters
    ----------
    url
        ``http`` or ``https``.
    headers
        Further headers; none of them is ever part of a message, or sent on to another host.
    timeout
        Longest silence of the server, s.
    retries
        How often an answer that may get better (time-out, broken or half answer, 408, 429, 5xx) is asked for again.
    backoff
        First pause before that, s; doubled every time. A ``Retry-After`` of the server wins.
    longest_wait
        A server that asks for a longer pause (s) is an error.
    sleep
        Pauses.

    Raises
    ------
    DatabaseError
        If there is no whole answer, or it is no JSON object. 4xx other than 408 and 429 is not tried again.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise DatabaseError(f"'{url}' is no http or https address.", remedy="Check the address of the database.")
    request = urllib.request.Request(
        url, headers={"User-Agent": USER_AGENT, "Accept": "application/json", **(headers or {})}
    )
    opener = urllib.request.build_opener(_SameHost)
    trouble, wait = "", 0.0
    for attempt in range(retries + 1):
        if attempt:
            sleep(wait)
        wait = backoff * 2**attempt
        try:
            with opener.open(request, timeout=timeout) as answer:
                body = answer.read(_LARGEST_ANSWER + 1)
                expected = answer.headers.get("Content-Length")
        except urllib.error.HTTPError as error:
            trouble = _explained(error)
            if error.code not in _RETRIED:
                raise DatabaseError(f"{_place(url)} refused: {trouble}.", remedy=_remedy(error.code)) from None
            asked = _wait_asked_for(error)
            if asked is not None and asked > longest_wait:
                raise DatabaseError(
                    f"{_place(url)} asks to wait {asked:.0f} s: {trouble}.", remedy="Try again later."
                ) from None
            wait = wait if asked is None else asked
            continue
        except (http.client.HTTPException, OSError) as error:
            # The error's own text may repeat the request, so only its kind and reason are told.
            reason = getattr(error, "reason", None) or type(error).__name__
            trouble = f"no whole answer ({reason})"
            continue
        if len(body) > _LARGEST_ANSWER:
            raise DatabaseError(f"{_place(url)} sent more than {_LARGEST_ANSWER} bytes.", remedy="Ask for less.")
        if expected is not None and len(body) < int(expected):
            trouble = f"half an answer ({len(body)} of {expected} bytes)"
            continue
        try:
            document = json.loads(body)
        except ValueError:
            trouble = f"an answer of {len(body)} bytes that is no JSON (cut off?)"
            continue
        if not isinstance(document, dict):
            raise DatabaseError(f"{_place(url)} sent a JSON {type(document).__name__}, not an object.")
        return document
    raise DatabaseError(
        f"{_place(url)} did not answer in {retries + 1} attempts; last: {trouble}.",
        remedy="Check the network and the address, or try again later.",
    )


def _explained(error: urllib.error.HTTPError) -> str:
    """Return the status and what the server says about it (FastAPI's ``detail``, JSON:API's ``errors``)."""
    said = ""
    try:
        document = json.loads(error.read(10_000))
    except (ValueError, OSError, http.client.HTTPException):
        document = None
    if isinstance(document, dict):
        problems = document.get("errors")
        if isinstance(problems, list) and problems and isinstance(problems[0], dict):
            said = str(problems[0].get("detail") or problems[0].get("title") or "")
        else:
            said = str(document.get("detail") or document.get("message") or "")
    return f"HTTP {error.code}" + (f", {' '.join(said.split())[:200]}" if said else "")


def _remedy(code: int) -> str:
    if code in (401, 403):
        return "Check the key in the settings."
    return "Check the address and the query."
