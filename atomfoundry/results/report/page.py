"""Render a report as one HTML file that needs nothing else."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from atomfoundry.results.report import (
    alignment,
    benchmarks,
    composition,
    curves,
    forgetting,
    ledger,
    overview,
    parity,
    pipeline,
    text,
    uncertainty,
)
from atomfoundry.results.report.blocks import Block, Figure, Fold, Row, Section
from atomfoundry.results.report.data import ReportInputs

SECTIONS = (
    overview.section,
    pipeline.section,
    composition.section,
    alignment.section,
    curves.section,
    parity.section,
    forgetting.section,
    uncertainty.section,
    benchmarks.section,
    ledger.artifacts,
    ledger.provenance,
)
"""The sections in the order of the page."""


def render_report(inputs: ReportInputs, path: str | Path) -> dict[str, float | str | None]:
    """Write the report and return its headline numbers.

    The file is written atomically and opens without a network: scripts and styles are inside.

    Parameters
    ----------
    inputs
        Documents, jobs and arrays; only a title is needed.
    path
        The HTML file; its folder must exist, an older report is replaced.

    Returns
    -------
    dict
        As :func:`atomfoundry.results.report.headline`.
    """
    write_page(
        path,
        build_sections(inputs),
        title=inputs.title,
        subtitle=inputs.subtitle,
        created_at=inputs.created_at,
    )
    return overview.headline(inputs)


def write_page(
    path: str | Path, sections: list[Section], *, title: str, subtitle: str = "", created_at: str | None = None
) -> None:
    """Write sections as one HTML file in the style of the report.

    The file is written atomically and opens without a network: scripts and styles are inside.

    Parameters
    ----------
    path
        The HTML file; its folder must exist, an older page is replaced.
    sections
        What the page is made of.
    title, subtitle
        Its heading.
    created_at
        UTC, ISO 8601; shown if given.
    """
    target = Path(path)
    page = html_of(sections, title=title, subtitle=subtitle, created_at=created_at)
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes private files; a report is for everybody who may read the folder.
        temporary.chmod(0o644)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def html(inputs: ReportInputs) -> str:
    """Return the report as a text of HTML."""
    return html_of(build_sections(inputs), title=inputs.title, subtitle=inputs.subtitle, created_at=inputs.created_at)


def html_of(sections: list[Section], *, title: str, subtitle: str = "", created_at: str | None = None) -> str:
    """Return sections as a text of HTML, as `write_page` writes it."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    numbered = {id(figure): f"figure-{i}" for i, figure in enumerate(_figures(sections), start=1)}
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["spec"] = lambda figure: Markup(specification(figure))  # nosec B704 # JSON without < > &
    environment.filters["svg"] = lambda drawing: Markup(drawing.svg)  # nosec B704 # its texts are escaped where it is drawn
    environment.filters["number_of"] = lambda figure: numbered[id(figure)]
    template = environment.from_string(_resource("report.html"))
    return template.render(
        title=title,
        subtitle=subtitle,
        created=text.moment(created_at) if created_at else "",
        sections=[section for section in sections if not section.absent],
        absent=[section for section in sections if section.absent],
        style=Markup(_resource("report.css")),  # nosec B704 # our own file
        script=Markup(_resource("report.js")),  # nosec B704 # our own file
        plotly=Markup(_plotly()) if numbered else "",  # nosec B704 # plotly's own file
    )


def build_sections(inputs: ReportInputs) -> list[Section]:
    """Return all sections, those without documents with the reason in ``absent``."""
    return [build(inputs) for build in SECTIONS]


def specification(figure: Figure) -> str:
    """Return a figure's specification as JSON that is safe inside a script element."""
    content: dict[str, Any] = {"data": figure.data, "layout": figure.layout}
    dumped = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        dumped = dumped.replace(letter, f"\\u{ord(letter):04x}")
    return dumped


def _figures(sections: list[Section]) -> Iterator[Figure]:
    """Yield every figure of the page in order."""
    for section in sections:
        yield from _inside(section.blocks)


def _inside(blocks: Any) -> Iterator[Figure]:
    block: Block
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Row | Fold):
            yield from _inside(block.blocks)


def _resource(name: str) -> str:
    package = resources.files("atomfoundry.results.report")
    return (package / "templates" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return plotly.js; read as a file, since importing plotly takes longer than rendering the page."""
    content = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    # An HTML parser ends the element at this word wherever it stands; the backslash changes nothing.
    return content.replace("</script", "<\\/script")
