"""A lineage with its files as an RO-Crate (Process Run Crate profile 0.5)."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from atomfoundry import __version__
from atomfoundry.errors import ArtifactError, ConfigurationError, InputError
from atomfoundry.results.artifacts import FOLDER_MEDIA_TYPE, hash_file
from atomfoundry.results.lineage_graph import POINTS, READ, Key, LineageGraph, LineageNode
from atomfoundry.results.lineage_summary import summarise_lineage
from atomfoundry.results.prov_json import job_times, to_prov_json

if TYPE_CHECKING:
    from rocrate.model.entity import Entity
    from rocrate.rocrate import ROCrate

    from atomfoundry.documents import Artifact
    from atomfoundry.results.artifacts import ArtifactStore
    from atomfoundry.results.database import ResultsDB

SPECIFICATION = "1.2"
PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
HOMEPAGE = "https://atomfoundry.readthedocs.io"

_LISTED = 1000
"""Files of a folder that are described one by one; a folder with more is described as a whole."""

_AUTHOR = re.compile(r"(?P<name>[^<>]+?)\s*(?:<(?P<id>[^<>\s]+)>)?")


@dataclass
class WrittenCrate:
    """What a crate holds."""

    path: Path
    n_files: int = 0
    """Artifacts that were copied."""
    n_actions: int = 0
    """Jobs that are described."""
    missing: list[str] = field(default_factory=list)
    """Artifacts that could not be copied, and why."""


def write_crate(
    graph: LineageGraph,
    db: ResultsDB,
    artifacts: ArtifactStore,
    path: str | Path,
    *,
    name: str | None = None,
    license_: str | None = None,
    authors: list[str] | None = None,
) -> WrittenCrate:
    """Write a folder or a zip file with ``ro-crate-metadata.json``, all documents and all artifacts of a lineage.

    Every job is a ``CreateAction``: its instrument is the version of Atomfoundry (with its packages) that ran, its
    objects are what it read, its results are its document and artifacts, its agents are the authors. An artifact
    that is missing or altered is left out and told. The crate appears complete or not at all.

    Parameters
    ----------
    graph
        The lineage; the document of its root is the main entity.
    db
        The results.
    artifacts
        The artifact store.
    path
        A folder to make, or a file ending in ``.zip``.
    name
        Of the crate.
    license_
        URL, or name of a licence in the SPDX list.
    authors
        Names, each with a web address (such as an ORCID) in angle brackets if there is one.

    Raises
    ------
    ConfigurationError
        If ro-crate-py is not installed.
    InputError
        If there is something at ``path``, or an author is no name.
    """
    try:
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise ConfigurationError(
            "RO-Crates need the package rocrate.", remedy="pip install 'atomfoundry[crate]'."
        ) from error
    target = Path(path)
    if target.exists():
        raise InputError(f"There is something at {target}.", remedy="Give a new name.")
    if not target.parent.is_dir():
        raise InputError(f"There is no folder {target.parent}.", remedy="Make it.")
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        writer = _CrateWriter(ROCrate(version=SPECIFICATION), graph, db, artifacts, scratch / "files")
        writer.describe(name=name, license_=license_, authors=authors or [])
        if target.suffix == ".zip":
            writer.crate.write_zip(scratch / "crate.zip")
            made = scratch / "crate.zip"
        else:
            made = scratch / "crate"
            writer.crate.write(made)
        made.replace(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return WrittenCrate(target, len(writer.files), writer.n_actions, writer.missing)


def _person(author: str) -> tuple[str, str]:
    match = _AUTHOR.fullmatch(author.strip())
    if match is None:
        raise InputError(f"'{author}' is no author.", remedy="Give 'Name' or 'Name <https://orcid.org/...>'.")
    slug = re.sub(r"[^A-Za-z0-9]+", "-", match["name"]).strip("-").lower()
    return match["name"], match["id"] or f"#author-{slug}"


class _CrateWriter:
    def __init__(
        self, crate: ROCrate, graph: LineageGraph, db: ResultsDB, artifacts: ArtifactStore, folder: Path
    ) -> None:
        self.crate = crate
        self.graph = graph
        self.db = db
        self.artifacts = artifacts
        self.folder = folder
        self.files: dict[str, Entity] = {}
        self.documents: dict[Key, Entity] = {}
        self.missing: list[str] = []
        self.n_actions = 0
        self._read_by: dict[Key, list[Key]] = {}
        for edge in graph.edges:
            if edge.how in (READ, POINTS):
                self._read_by.setdefault(edge.child, []).append(edge.parent)
        folder.mkdir()
        crate.metadata.extra_terms["sha256"] = "http://schema.org/sha256"

    def describe(self, *, name: str | None, license_: str | None, authors: list[str]) -> None:
        root = self.graph.nodes[self.graph.root]
        jobs = [node for node in self.graph.nodes.values() if node.is_job and not node.missing]
        people = [self._author(author) for author in authors]
        for node in jobs:
            self._add_document(node)
            for where, artifact in node.files.items():
                self._add_artifact(artifact, f"{where} of {node.name}")
        actions = [self._add_action(node, people) for node in jobs]
        self.n_actions = len(actions)
        self._add_lineage()
        crate = self.crate
        crate.name = name or f"{root.name} and its lineage"
        crate.description = self._description(root)
        crate.datePublished = datetime.now(UTC)
        profile = self._context(PROFILE, "CreativeWork", name="Process Run Crate", version="0.5")
        crate.root_dataset["conformsTo"] = profile
        crate.root_dataset["mentions"] = actions
        if root.key in self.documents:
            crate.mainEntity = self.documents[root.key]
        if license_:
            crate.license = self._license(license_)
        if people:
            crate.root_dataset["author"] = people

    def _description(self, root: LineageNode) -> str:
        found = summarise_lineage(self.graph)
        text = f"{root.label} with the {found['n_jobs']} jobs it came from, their documents and files."
        if found["levels"]:
            text += f" Levels of theory: {', '.join(found['levels'].values())}."
        if found["stale"]:
            text += f" Holds or used {len(found['stale'])} labels that have been withdrawn since."
        if self.missing:
            text += f" {len(self.missing)} files are missing: {'; '.join(self.missing)}."
        return text

    def _context(self, identifier: str, kind: str, /, **properties: Any) -> Entity:
        from rocrate.model.contextentity import ContextEntity

        known = self.crate.dereference(identifier)
        return known or self.crate.add(ContextEntity(self.crate, identifier, {"@type": kind, **properties}))

    def _author(self, author: str) -> Entity:
        name, identifier = _person(author)
        return self._context(identifier, "Person", name=name)

    def _license(self, license_: str) -> Entity:
        known = license_ if "://" in license_ else f"https://spdx.org/licenses/{license_}"
        return self._context(known, "CreativeWork", name=license_)

    def _file(self, name: str, content: Any) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2, default=str) + "\n", encoding="utf-8")
        return path

    def _add_document(self, node: LineageNode) -> None:
        from atomfoundry.results.database import plain

        found = self.db.store.query_one({"uuid": node.uuid, "index": node.index}, load=True) or {}
        output = found.get("output")
        content = {
            "uuid": node.uuid,
            "index": node.index,
            "name": node.name,
            "class": node.kind,
            "completed_at": node.completed_at,
            "document": plain(output),
            "stale": node.stale,
        }
        path = self._file(f"documents/{node.uuid}_{node.index}.json", content)
        self.documents[node.key] = self.crate.add_file(
            path,
            dest_path=f"documents/{path.name}",
            properties={
                "name": f"{node.kind or 'output'} of {node.name}",
                "encodingFormat": "application/json",
                "contentSize": str(path.stat().st_size),
                "sha256": hash_file(path),
                **({"description": "Holds or used withdrawn labels."} if node.stale else {}),
            },
        )

    def _add_artifact(self, artifact: Artifact, what: str) -> None:
        if artifact.sha256 in self.files:
            return
        try:
            path = self.artifacts.fetch(artifact)
        except ArtifactError as error:
            self.missing.append(f"{what} ({error.message})")
            return
        properties: dict[str, Any] = {"name": what, "encodingFormat": artifact.media_type}
        where = f"artifacts/{artifact.uri}"
        if path.is_file():
            properties |= {"contentSize": str(artifact.size), "sha256": artifact.sha256}
            self.files[artifact.sha256] = self.crate.add_file(path, dest_path=where, properties=properties)
            return
        # The hash of a folder is one of its own kind: that of the sorted list of its files and their hashes.
        properties |= {"identifier": f"atomfoundry-folder-sha256:{artifact.sha256}"}
        if artifact.media_type == FOLDER_MEDIA_TYPE:
            properties.pop("encodingFormat")
        inside = sorted(file for file in path.rglob("*") if file.is_file())
        listed = len(inside) <= _LISTED
        # a folder whose files are described one by one is made of these
        folder = self.crate.add_dataset(None if listed else path, dest_path=where, properties=properties)
        self.files[artifact.sha256] = folder
        for file in inside if listed else []:
            entity = self.crate.add_file(
                file,
                dest_path=f"{where}/{file.relative_to(path).as_posix()}",
                properties={
                    "name": file.name,
                    "contentSize": str(file.stat().st_size),
                    "sha256": hash_file(file),
                },
            )
            folder.append_to("hasPart", entity)

    def _software(self, node: LineageNode) -> Entity:
        source = node.provenance
        version = source.get("code_version") or "unknown"
        commit = source.get("git_commit") or ""
        packages = [
            self._context(f"#{package}-{quote(number)}", "SoftwareApplication", name=package, version=number)
            for package, number in sorted((source.get("packages") or {}).items())
        ]
        names = "-".join(sorted(package.id for package in packages))
        digest = hashlib.sha256(f"{version} {commit} {names}".encode()).hexdigest()[:8]
        more: dict[str, Any] = {"softwareRequirements": packages} if packages else {}
        if commit:
            more["identifier"] = f"git:{commit}"
        return self._context(
            f"#atomfoundry-{quote(version)}-{digest}",
            "SoftwareApplication",
            name="Atomfoundry",
            version=version,
            url=HOMEPAGE,
            **more,
        )

    def _add_action(self, node: LineageNode, people: list[Entity]) -> Entity:
        source = node.provenance
        started, ended = job_times(node)
        properties: dict[str, Any] = {
            "@type": "CreateAction",
            "name": node.name,
            "actionStatus": "http://schema.org/CompletedActionStatus",
        }
        if started:
            properties["startTime"] = started
        if ended:
            properties["endTime"] = ended
        objects: list[Entity] = []
        for parent in self._read_by.get(node.key, []):
            objects += self._parts(parent)
        for what in ("seed", "settings_hash", "device"):
            if source.get(what) not in (None, ""):
                objects.append(self._context(f"#{what}-{source[what]}", "PropertyValue", name=what, value=source[what]))
        action = self.crate.add_action(
            self._software(node),
            identifier=f"#job-{node.uuid}-{node.index}",
            object=objects,
            result=self._parts(node.key),
            properties=properties,
        )
        if people:
            action["agent"] = people
        if source.get("host"):
            action["location"] = self._context(f"#machine-{quote(source['host'])}", "Place", name=source["host"])
        return action

    def _parts(self, key: Key) -> list[Entity]:
        """Return the document of an output and the artifacts it carries."""
        if key not in self.documents:
            return []
        files = [self.files[sha256] for sha256 in self.graph.nodes[key].artifacts.values() if sha256 in self.files]
        return [self.documents[key], *dict.fromkeys(files)]

    def _add_lineage(self) -> None:
        path = self._file("prov.json", to_prov_json(self.graph))
        self.crate.add_file(
            path,
            dest_path="prov.json",
            properties={
                "name": "Lineage as W3C PROV-JSON",
                "description": f"Written by Atomfoundry {__version__}",
                "encodingFormat": "application/json",
                "contentSize": str(path.stat().st_size),
                "sha256": hash_file(path),
            },
        )
