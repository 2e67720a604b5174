"""The rendered page: self-contained, complete, true to its documents, safe."""

from __future__ import annotations

import json
import re
import stat
from html.parser import HTMLParser

import pytest

from atomfoundry.results.report import ReportInputs, page, render_report
from atomfoundry.results.report.blocks import Figure, Fold, Row
from atomfoundry.results.report.page import build_sections, specification

VOID = {"meta", "br", "hr", "img", "input", "link"}
ALL = [
    "summary",
    "pipeline",
    "data",
    "alignment",
    "training",
    "accuracy",
    "forgetting",
    "uncertainty",
    "benchmarks",
    "artifacts",
    "provenance",
]


def without_plotly(content: str) -> str:
    """The page without plotly's own script, which is not ours to judge."""
    return re.sub(r'<script id="plotly-js">.*?</script>', "", content, flags=re.DOTALL)


class Structure(HTMLParser):
    """Checks that elements close in order, and collects ids, text and attributes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def parsed(content: str) -> Structure:
    structure = Structure()
    structure.feed(without_plotly(content))
    structure.close()
    assert structure.open == []
    return structure


def figures(inputs: ReportInputs) -> list[Figure]:
    def inside(blocks: object) -> list[Figure]:
        found: list[Figure] = []
        for block in blocks:  # type: ignore[attr-defined]
            if isinstance(block, Figure):
                found.append(block)
            elif isinstance(block, Row | Fold):
                found += inside(block.blocks)
        return found

    return [figure for section in build_sections(inputs) for figure in inside(section.blocks)]


def test_nothing_is_loaded_from_elsewhere(full_page: str) -> None:
    assert full_page.count('id="plotly-js"') == 1
    ours = without_plotly(full_page)
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", ours)
    assert "@import" not in ours and not re.search(r"url\(", ours)
    assert not re.search(r"https?://", ours)
    for name, value in parsed(full_page).attributes:
        if name in ("src", "href"):
            assert value.startswith("#")


def test_size_and_one_plotly(full_page: str) -> None:
    assert len(full_page.encode()) < 7e6
    assert full_page.count("plotly.js v") == 1


def test_figures_send_nothing(full_page: str) -> None:
    assert "showSendToCloud: false" in full_page and "sendChartToCloud" in full_page


def test_html_is_well_formed_and_complete(full_page: str) -> None:
    structure = parsed(full_page)
    assert [key for key in structure.ids if key in ALL] == ALL
    assert len(structure.ids) == len(set(structure.ids))
    assert "absent" not in structure.ids
    assert structure.tags.count("h1") == 1


def test_numbers_are_those_of_the_documents(full_page: str) -> None:
    words = parsed(full_page).text
    for number in (
        "174",  # labels: 102 + 48 + 24
        "44,390",  # parameters
        "4.33 meV/atom",  # 1000 * 0.00412 * 1.05
        "49.7 meV/Å",
        "87.40",
        "88.70",
        "−1.5 %",
        "20.47",
        "152.3",
        "0.9971",  # R2 after AEC
        "0.9871",  # scale
        "1.12",
        "11.8",
        "0.0317",  # alpha
        "5 of 7 targets are met, 1 missed, 1 not measured.",
        "5.67 meV/atom (57 %) below the limit.",
        "1.20 min (20 %) above the limit.",
        "102 labels, 2 reused",
        "2 failed",
        "unconverged",
        "forces_too_large",
        "71.2",  # 1000 * 0.0698 * 1.02, silicon of the test split
        "fewer than 100 atoms",
    ):
        assert number in words, number


def test_hashes_can_be_copied(full_page: str, sample) -> None:
    copied = {value for name, value in parsed(full_page).attributes if name == "data-copy"}
    inputs = sample.full_inputs()
    for row in inputs.artifact_rows():
        assert row.sha256 in copied
        assert not row.job_uuid or row.job_uuid in copied
    assert len(inputs.artifact_rows()) >= 20


def test_every_figure_is_valid_plotly_with_units_and_words(sample) -> None:
    import plotly.graph_objects as go

    found = figures(sample.full_inputs())
    assert len(found) > 40
    for figure in found:
        spec = json.loads(specification(figure))
        for annotation in spec["layout"].get("annotations", []):
            annotation.pop("bgcolor", None)
        go.Figure(data=spec["data"], layout=spec["layout"])
        assert figure.title and figure.caption.endswith(".")
        assert spec["data"], figure.title
        for name in ("xaxis", "yaxis"):
            axis = spec["layout"][name]
            categories = axis.get("type") == "category"
            assert categories or axis["title"]["text"], (figure.title, name)


def test_specifications_are_strict_json(full_page: str) -> None:
    found = re.findall(r'<script type="application/json" data-for="[^"]+">(.*?)</script>', full_page, re.DOTALL)
    assert len(found) > 40
    for content in found:
        assert "<" not in content
        json.loads(content, parse_constant=lambda name: pytest.fail(f"{name} in a figure"))


def test_absent_documents_are_named_with_a_reason(tmp_path) -> None:
    headline = render_report(ReportInputs(title="Nothing yet"), tmp_path / "empty.html")
    structure = parsed((tmp_path / "empty.html").read_text(encoding="utf-8"))
    assert headline == {}
    assert not set(ALL) & set(structure.ids)
    assert [key for key in structure.ids if key.startswith("absent-")] == [f"absent-{key}" for key in ALL]
    assert "No benchmark was run." in structure.text
    assert "plotly-js" not in structure.ids, "a page without figures needs no plotly"


@pytest.mark.parametrize(
    "field",
    [
        "jobs",
        "structure_sets",
        "label_sets",
        "datasets",
        "dataset_arrays",
        "alignments",
        "models",
        "predictions",
        "forgetting",
        "uncertainties",
        "selections",
        "benchmarks",
        "targets",
        "environment",
    ],
)
def test_each_document_alone_and_each_missing(field: str, sample, monkeypatch) -> None:
    monkeypatch.setattr(page, "_plotly", str)  # five megabytes that are not looked at here
    full = sample.full_inputs()
    full.predictions = dict(list(full.predictions.items())[-1:])
    empty: list | dict = {} if isinstance(getattr(full, field), dict) else []
    parsed(page.html(full.model_copy(update={field: empty})))
    parsed(page.html(ReportInputs(title="Alone", **{field: getattr(full, field)})))


EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{ 7*7 }}\u2028"


def poisoned(value: object) -> object:
    """The same plain value with every free text replaced by something nasty."""
    kept = {"type", "kind", "status", "direction", "split", "benchmark", "quantity", "method"}
    kept |= {"sha256", "start", "started_at", "uuid", "parents"}
    if isinstance(value, dict):
        return {key: item if key in kept else poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return EVIL + value if isinstance(value, str) else value


def test_malicious_text_stays_text(sample, tmp_path) -> None:
    full = sample.full_inputs()
    changed = {}
    for name in type(full).model_fields:
        value = getattr(full, name)
        if name in ("dataset_arrays", "predictions", "created_at"):
            continue
        if isinstance(value, list):
            changed[name] = [type(item).model_validate(poisoned(item.model_dump())) for item in value]
        else:
            changed[name] = poisoned(value)
    environment = {EVIL: EVIL}
    inputs = ReportInputs(**{**changed, "environment": environment}, predictions=full.predictions)
    render_report(inputs, tmp_path / "evil.html")
    content = (tmp_path / "evil.html").read_text(encoding="utf-8")
    structure = parsed(content)
    assert "alert(1)" in structure.text, "the text is shown, as text"
    assert "{{ 7*7 }}" in structure.text
    assert structure.tags.count("script") == len(figures(inputs)) + 1
    assert "img" not in structure.tags
    assert not any(name.startswith("on") for name, _ in structure.attributes)
    assert not any(value.strip().lower().startswith("javascript:") for _, value in structure.attributes)
    for spec in re.findall(r'data-for="[^"]+">(.*?)</script>', content, re.DOTALL):
        assert "<img" not in json.dumps(json.loads(spec)), "plotly must not read it as HTML either"


def test_file_is_written_whole_or_not_at_all(sample, tmp_path, monkeypatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("older")

    def full_disk(_: int) -> None:
        raise OSError("full")

    monkeypatch.setattr("atomfoundry.results.report.page.os.fsync", full_disk)
    with pytest.raises(OSError, match="full"):
        render_report(ReportInputs(title="x"), path)
    assert path.read_text() == "older"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    monkeypatch.undo()
    render_report(ReportInputs(title="x"), path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_same_inputs_same_page(sample, tmp_path) -> None:
    for name in ("a.html", "b.html"):
        render_report(sample.full_inputs(), tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_headline(sample) -> None:
    from atomfoundry.results.report import headline

    found = headline(sample.full_inputs())
    assert found["labels"] == 174
    assert found["labels_failed"] == 2
    assert found["forces_mae_mev_per_angstrom"] == pytest.approx(1000 * 0.0473 * 1.05)
    assert found["bulk_modulus_error_percent"] == pytest.approx(100 * (87.4 / 88.7 - 1))
    assert found["forgetting_forces_replay"] == 1.12
    assert found["forgetting_forces_naive"] == 4.02
    assert (found["targets"], found["targets_met"]) == (7, 5)
