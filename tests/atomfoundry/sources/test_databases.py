"""Online databases, against a server of our own that speaks their protocols and misbehaves on demand."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from ase.build import bulk
from pymatgen.core import Lattice, Structure

from atomfoundry.errors import ConfigurationError, StructureError
from atomfoundry.settings import settings
from atomfoundry.sources import DatabaseError, fetch_materials_project, fetch_optimade
from atomfoundry.sources.http import get_json

KEY = "secret-key-of-the-tests-12345678"


@dataclass
class Server:
    """What the server answers, and what it was asked."""

    url: str = ""
    entries: list[dict[str, Any]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    announced: int | None = None


class Handler(BaseHTTPRequestHandler):
    state: Server

    def log_message(self, *arguments: Any) -> None:
        pass

    def answer(self, code: int, document: Any, headers: dict[str, str] | None = None, cut: int = 0) -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/vnd.api+json")
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) - cut])

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        self.state.asked.append({"path": parts.path, "query": query, "key": self.headers.get("X-API-KEY")})
        fault = self.state.faults.pop(0) if self.state.faults else ""
        if fault == "silence":
            time.sleep(1.0)
            self.close_connection = True
        elif fault.startswith("wait"):
            self.answer(429, {"detail": "slow down"}, {"Retry-After": fault.removeprefix("wait")})
        elif fault == "half":
            self.answer(200, {"data": self.state.entries, "meta": {}}, cut=20)
        elif fault == "cut":
            self.answer(200, json.dumps({"data": self.state.entries})[:-15].encode())
        elif fault == "hang up":
            self.close_connection = True
            self.connection.close()
        elif fault == "down":
            self.answer(503, b"<html>down</html>")
        elif fault.startswith("to "):
            self.answer(302, b"", {"Location": fault.removeprefix("to ")})
        elif parts.path.endswith("/v1/structures"):
            self.optimade(query)
        elif parts.path == "/heartbeat":
            heart = {"db_version": "2025.09.25", "version": "0.87.0", "access_controlled_batch_ids": []}
            self.answer(200, {"status": "OK", **heart})
        elif parts.path == "/materials/summary/":
            self.materials_project(query)
        else:
            self.answer(404, {"detail": "not found"})

    def optimade(self, query: dict[str, str]) -> None:
        if "BAD" in query["filter"]:
            self.answer(400, {"errors": [{"status": "400", "title": "Bad Request", "detail": "cannot parse BAD"}]})
            return
        offset, limit = int(query.get("page_offset", 0)), int(query["page_limit"])
        more = offset + limit < len(self.state.entries)
        link: Any = f"{self.state.url}/v1/structures?filter=x&page_limit={limit}&page_offset={offset + limit}"
        if offset:
            link = {"href": link}
        self.answer(
            200,
            {
                "data": self.state.entries[offset : offset + limit],
                "links": {"next": link if more and "lost" not in query["filter"] else None},
                "meta": {"api_version": "1.1.0", "more_data_available": more, "data_returned": len(self.state.entries)},
            },
        )

    def materials_project(self, query: dict[str, str]) -> None:
        if self.headers.get("X-API-KEY") != KEY:
            self.answer(401, {"detail": f"No such key {self.headers.get('X-API-KEY', '')[:0]}"})
            return
        chosen = self.state.entries
        if "material_ids" in query:
            chosen = [entry for entry in chosen if entry["material_id"] in query["material_ids"].split(",")]
        if "formula" in query:
            chosen = [entry for entry in chosen if entry["formula_pretty"] in query["formula"].split(",")]
        if "chemsys" in query:
            chosen = [entry for entry in chosen if entry["chemsys"] in query["chemsys"].split(",")]
        skip, limit = int(query.get("_skip", 0)), int(query["_limit"])
        total = self.state.announced or len(chosen)
        self.answer(200, {"data": chosen[skip : skip + limit], "meta": {"total_doc": total}})


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{http.server_address[1]}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield state
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture
def project_key(server: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ATOMFOUNDRY_MATERIALS_PROJECT_KEY", KEY)
    monkeypatch.setenv("ATOMFOUNDRY_MATERIALS_PROJECT_URL", server.url + "/")
    settings.cache_clear()
    yield
    monkeypatch.undo()
    settings.cache_clear()


def optimade_entry(number: int, **changes: Any) -> dict[str, Any]:
    atoms = bulk("NaCl", "rocksalt", a=5.0 + 0.1 * number)
    attributes = {
        "lattice_vectors": atoms.cell.array.tolist(),
        "cartesian_site_positions": atoms.positions.tolist(),
        "species": [
            {"name": "Na1", "chemical_symbols": ["Na"], "concentration": [1.0]},
            {"name": "Cl1", "chemical_symbols": ["Cl"], "concentration": [1.0]},
        ],
        "species_at_sites": ["Na1", "Cl1"],
        "dimension_types": [1, 1, 1],
        "structure_features": [],
        "nsites": 2,
        **changes,
    }
    return {"id": f"x/{number}", "type": "structures", "attributes": attributes}


def project_entry(number: int, formula: str = "NaCl") -> dict[str, Any]:
    structure = Structure.from_spacegroup(
        "Fm-3m", Lattice.cubic(5.0 + 0.1 * number), ["Na+", "Cl-"], [[0, 0, 0], [0.5, 0.5, 0.5]]
    )
    return {
        "material_id": f"mp-{number}",
        "formula_pretty": formula,
        "chemsys": "Cl-Na",
        "structure": structure.as_dict(),
    }


def test_optimade_pages(server: Server) -> None:
    server.entries = [optimade_entry(number) for number in range(7)]
    found = fetch_optimade(server.url, 'elements HAS ALL "Na","Cl"', page_limit=3)
    assert len(found.structures) == found.n_entries == 7
    assert found.rejected == {}
    for number, atoms in enumerate(found.structures):
        assert atoms.get_volume() == pytest.approx(bulk("NaCl", "rocksalt", a=5.0 + 0.1 * number).get_volume())
        assert atoms.pbc.all()
        assert atoms.info["source"] == f"optimade:{server.url.split('://')[1]}:x/{number}"
    assert [call["path"] for call in server.asked] == ["/v1/structures"] * 3
    assert server.asked[0]["query"]["filter"] == 'elements HAS ALL "Na","Cl"'
    few = fetch_optimade(server.url + "/v1", "x", page_limit=3, max_structures=4, cell="conventional")
    assert [len(atoms) for atoms in few.structures] == [8] * 4


def test_optimade_rejects_with_reasons(server: Server) -> None:
    half = {"name": "Cl1", "chemical_symbols": ["Cl", "Br"], "concentration": [0.5, 0.5]}
    sodium = {"name": "Na1", "chemical_symbols": ["Na"], "concentration": [1.0]}
    hole = {"name": "Cl1", "chemical_symbols": ["vacancy"], "concentration": [1.0]}
    server.entries = [
        optimade_entry(0),
        optimade_entry(1, structure_features=["disorder"]),
        optimade_entry(2, species=[sodium, half]),
        optimade_entry(3, species=[sodium, hole]),
        optimade_entry(4, cartesian_site_positions=[[0, 0, 0]]),
        optimade_entry(5, cartesian_site_positions=[[0, 0, 0], [0, 0, 0.01]]),
        optimade_entry(6, species_at_sites=["Na1", "Zz"]),
        optimade_entry(7, lattice_vectors=None),
        optimade_entry(8, cartesian_site_positions=None),
        optimade_entry(0),  # the same id again
    ]
    found = fetch_optimade(server.url, "x")
    assert len(found.structures) == 1
    assert {int(key.removeprefix("x/")): reason.split(",")[0] for key, reason in found.rejected.items()} == {
        1: "has disorder",
        2: "site 'Cl1' is partially occupied",
        3: "site 'Cl1' is of unknown element 'vacancy'",
        4: "has 1 positions for 2 sites",
        5: "cannot exist",
        6: "has sites that are not described",
        7: "has no lattice vectors",
        8: "has no positions",
    }


def test_optimade_molecules_and_layers(server: Server) -> None:
    layer = optimade_entry(1, lattice_vectors=[[4, 0, 0], [0, 4, 0], [None, None, None]], dimension_types=[1, 1, 0])
    free = optimade_entry(2, lattice_vectors=None, dimension_types=[0, 0, 0])
    server.entries = [layer, free]
    found = fetch_optimade(server.url, "x", cell="primitive")
    assert [atoms.pbc.tolist() for atoms in found.structures] == [[True, True, False], [False, False, False]]


def test_optimade_refusals(server: Server) -> None:
    server.entries = [optimade_entry(number) for number in range(3)]
    with pytest.raises(DatabaseError, match="cannot parse BAD"):
        fetch_optimade(server.url, "BAD")
    with pytest.raises(DatabaseError, match="no link to them"):
        fetch_optimade(server.url, "lost", page_limit=2)
    with pytest.raises(StructureError, match="no OPTIMADE provider 'nobody'"):
        fetch_optimade("nobody", "x")
    server.faults = [f"to {server.url}/nowhere"]
    with pytest.raises(DatabaseError, match="HTTP 404"):
        fetch_optimade(server.url, "x")
    server.entries = [{"id": "x"}]
    with pytest.raises(DatabaseError, match="without id or attributes"):
        fetch_optimade(server.url, "x")


@pytest.mark.parametrize("fault", ["silence", "half", "cut", "hang up", "down", "wait0"])
def test_faults_are_tried_again_and_told(server: Server, fault: str) -> None:
    server.entries = [optimade_entry(0)]
    server.faults = [fault, fault]
    found = fetch_optimade(server.url, "x", timeout=0.3, backoff=0.01)
    assert len(found.structures) == 1
    assert len(server.asked) == 3
    server.faults = [fault] * 10
    with pytest.raises(DatabaseError, match="did not answer in 2 attempts"):
        fetch_optimade(server.url, "x", timeout=0.3, backoff=0.01, retries=1)


def test_retry_after_is_waited_for(server: Server) -> None:
    waits: list[float] = []
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    server.entries = [optimade_entry(0)]
    server.faults = ["wait7", f"wait{date}", "waitnonsense", "down"]
    get_json(f"{server.url}/v1/structures?filter=x&page_limit=1", backoff=0.5, sleep=waits.append)
    assert waits[0] == 7.0
    assert 50 < waits[1] <= 60
    assert waits[2:] == [2.0, 4.0]
    server.faults = ["wait3600"]
    with pytest.raises(DatabaseError, match="asks to wait 3600 s: HTTP 429, slow down"):
        get_json(f"{server.url}/v1/structures?filter=x&page_limit=1", sleep=waits.append)


def test_nobody_listens() -> None:
    with pytest.raises(DatabaseError, match="did not answer"):
        fetch_optimade("http://127.0.0.1:9", "x", retries=0)
    with pytest.raises(DatabaseError, match="no http or https"):
        fetch_optimade("file:///etc", "x")


@pytest.mark.usefixtures("project_key")
def test_materials_project(server: Server) -> None:
    server.entries = [project_entry(number) for number in range(5)]
    by_id = fetch_materials_project(material_ids=["mp-3", "mp-1"])
    assert [atoms.info["source"] for atoms in by_id.structures] == ["mp:mp-1", "mp:mp-3"]
    assert by_id.structures[0].get_chemical_formula() == "Cl4Na4"
    assert by_id.structures[0].cell.lengths() == pytest.approx([5.1] * 3)
    by_system = fetch_materials_project(chemical_systems=["Cl-Na"], page_limit=2, cell="primitive")
    assert [len(atoms) for atoms in by_system.structures] == [2] * 5
    by_formula = fetch_materials_project(formulas=["NaCl"], max_structures=3, max_energy_above_hull=0.05)
    assert len(by_formula.structures) == 3
    assert server.asked[-1]["query"]["energy_above_hull_max"] == "0.05"
    assert {call["key"] for call in server.asked} == {KEY}
    assert not any(KEY in json.dumps(call["query"]) for call in server.asked)
    with pytest.raises(DatabaseError, match="has no mp-77"):
        fetch_materials_project(material_ids=["mp-1", "mp-77"])
    server.entries[1]["structure"]["sites"][0]["species"] = [
        {"element": "Na", "occu": 0.5},
        {"element": "K", "occu": 0.5},
    ]
    server.entries[2]["structure"] = None
    rejected = fetch_materials_project(formulas=["NaCl"]).rejected
    assert rejected == {"mp-1": "has partially occupied sites", "mp-2": "has no structure"}


@pytest.mark.usefixtures("project_key")
@pytest.mark.skipif(find_spec("mp_api") is None, reason="the official client (mp-api) is not installed")
def test_we_ask_as_the_official_client_does(server: Server) -> None:
    server.entries = [project_entry(number) for number in range(5)]
    client = import_module("mp_api.client").MPRester(
        KEY, endpoint=f"{server.url}/", use_document_model=False, mute_progress_bars=True
    )
    server.asked.clear()
    fields = ["material_id", "formula_pretty", "energy_above_hull", "deprecated", "structure"]
    client.materials.summary.search(chemsys=["Cl-Na"], energy_above_hull=(0.0, 0.05), deprecated=False, fields=fields)
    fetch_materials_project(chemical_systems=["Cl-Na"], max_energy_above_hull=0.05, page_limit=1000)
    theirs, ours = server.asked
    assert ours["query"].pop("_skip") == "0"
    theirs["query"].pop("energy_above_hull_min", None)
    assert set(theirs["query"].pop("_fields").split(",")) == set(ours["query"].pop("_fields").split(","))
    assert ours == theirs


@pytest.mark.usefixtures("project_key")
def test_the_key_is_told_nowhere(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    assert KEY not in repr(settings()) + settings().model_dump_json()
    server.entries = [project_entry(0)]
    messages = []
    for faults in (["down"] * 3, ["half"] * 3, ["hang up"] * 3, ["to http://127.0.0.1:9/"] * 3):
        server.faults = faults
        with pytest.raises(DatabaseError) as caught:
            fetch_materials_project(material_ids=["mp-0"], retries=1, backoff=0.01)
        messages.append(f"{caught.value} {caught.value.__cause__!r}")
    server.faults = []
    monkeypatch.setenv("ATOMFOUNDRY_MATERIALS_PROJECT_KEY", "another-secret")
    settings.cache_clear()
    with pytest.raises(DatabaseError, match=r"HTTP 401.*Check the key") as caught:
        fetch_materials_project(material_ids=["mp-0"])
    text = " ".join([*messages, str(caught.value), caplog.text])
    assert KEY not in text
    assert "another-secret" not in text


@pytest.mark.usefixtures("project_key")
def test_the_key_does_not_follow_to_another_host(server: Server) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    server.entries = [project_entry(0)]
    server.faults = [f"to {other}/materials/summary/?_skip=0&_limit=1"]
    with pytest.raises(DatabaseError, match="401"):
        fetch_materials_project(material_ids=["mp-0"])
    assert [call["key"] for call in server.asked] == [KEY, None]
    server.asked.clear()
    server.faults = [f"to {server.url}/materials/summary/?_skip=0&_limit=1"]
    assert len(fetch_materials_project(material_ids=["mp-0"]).structures) == 1
    assert [call["key"] for call in server.asked] == [KEY, KEY]


@pytest.mark.usefixtures("project_key")
def test_half_of_what_was_announced(server: Server) -> None:
    server.entries = [project_entry(number) for number in range(2)]
    server.announced = 9
    with pytest.raises(DatabaseError, match="sent 2 of 9 entries"):
        fetch_materials_project(formulas=["NaCl"])


def test_materials_project_needs_a_key_and_a_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ATOMFOUNDRY_MATERIALS_PROJECT_KEY", raising=False)
    monkeypatch.setenv("ATOMFOUNDRY_SETTINGS_FILE", "/nonexistent/settings.yaml")
    settings.cache_clear()
    with pytest.raises(ConfigurationError, match="needs a key"):
        fetch_materials_project(material_ids=["mp-149"])
    with pytest.raises(StructureError, match="Nothing was asked"):
        fetch_materials_project()
    with pytest.raises(StructureError, match="are lists"):
        fetch_materials_project(formulas="Al2O3")
    monkeypatch.undo()
    settings.cache_clear()


def test_positions_are_exact(server: Server) -> None:
    server.entries = [optimade_entry(3)]
    (atoms,) = fetch_optimade(server.url, "x").structures
    assert np.array_equal(atoms.positions, bulk("NaCl", "rocksalt", a=5.3).positions)
