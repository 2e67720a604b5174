"""Files and folders too big for a document, kept by their content's hash."""

from __future__ import annotations

import hashlib
import mimetypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from atomfoundry.documents import Artifact
from atomfoundry.errors import ArtifactError

_BLOCK = 1 << 20
FOLDER_MEDIA_TYPE = "inode/directory"

_Fingerprint = tuple[tuple[str, int, int], ...]
# Path -> (what its files looked like when they were hashed, their hash); spares a second reading in this
# process.
_VERIFIED: dict[Path, tuple[_Fingerprint, str]] = {}


def hash_file(path: str | Path) -> str:
    """Return the sha256 of a file's bytes.

    Parameters
    ----------
    path
        A file.
    """
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield (relative POSIX path, path) of all files, sorted by the former."""
    found = []
    for parent, folders, names in os.walk(folder):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink():
                raise ArtifactError(
                    f"{path} is a symbolic link.", remedy="Store the file it points to; links are refused."
                )
            if name in names:
                if not path.is_file():
                    raise ArtifactError(
                        f"{path} is neither a file nor a folder.",
                        remedy="Remove it before storing the folder.",
                    )
                found.append((path.relative_to(folder).as_posix(), path))
    yield from sorted(found)


def hash_path(path: str | Path) -> tuple[str, int]:
    """Hash a file, or a folder as the sorted list of its files' paths and hashes.

    Parameters
    ----------
    path
        A file or a folder. Empty folders inside do not count.

    Returns
    -------
    tuple[str, int]
        sha256 and size in bytes.

    Raises
    ------
    ArtifactError
        If there is nothing at ``path``, or a symbolic link.
    """
    path = Path(path)
    if path.is_symlink():
        raise ArtifactError(f"{path} is a symbolic link.", remedy="Store the file it points to; links are refused.")
    if path.is_file():
        return hash_file(path), path.stat().st_size
    if not path.is_dir():
        raise ArtifactError(f"There is no file or folder {path}.", remedy="Check the path.")
    digest = hashlib.sha256()
    size = 0
    for relative, file in _files(path):
        digest.update(f"{relative}\0{hash_file(file)}\n".encode())
        size += file.stat().st_size
    return digest.hexdigest(), size


def _fingerprint(path: Path) -> _Fingerprint:
    if path.is_symlink():
        raise ArtifactError(f"{path} is a symbolic link.", remedy="Store the file it points to; links are refused.")
    files = [("", path)] if path.is_file() else list(_files(path))
    return tuple((relative, file.stat().st_mtime_ns, file.stat().st_size) for relative, file in files)


def _verified_hash(path: Path) -> str:
    """Hash a path, reading it only if it looks changed since the last time."""
    fingerprint = _fingerprint(path)
    known = _VERIFIED.get(path)
    if known is None or known[0] != fingerprint:
        known = (fingerprint, hash_path(path)[0])
        _VERIFIED[path] = known
    return known[1]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        shutil.copyfile(source, target)
        _sync(target)
        return
    target.mkdir()
    for relative, file in _files(source):
        copy = target / relative
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)
        _sync(copy)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class ArtifactStore:
    """Artifacts at ``ROOT/<first two digits>/<sha256>/<name>``.

    Parameters
    ----------
    root
        Folder, or an fsspec URL such as ``s3://bucket/folder``.
    cache
        Where copies of remote artifacts are kept; needed for a URL only.

    Raises
    ------
    ArtifactError
        For a URL without a cache folder.
    """

    def __init__(self, root: str | Path, *, cache: str | Path | None = None) -> None:
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        self.filesystem, folder = url_to_fs(str(root))
        self.url = str(root)
        self.is_local = isinstance(self.filesystem, LocalFileSystem)
        if not self.is_local and cache is None:
            raise ArtifactError(
                f"Artifacts at {root} are remote and need a local cache.", remedy="Give a cache folder."
            )
        self._remote_root = folder
        self.root = Path(folder) if self.is_local else Path(cache or "").expanduser()
        """The local folder: the store itself, or the cache of a remote one."""

    def put(self, path: str | Path, media_type: str | None = None) -> Artifact:
        """Store a copy of a file or folder; nothing happens if its content is there already.

        Parameters
        ----------
        path
            File or folder without symbolic links.
        media_type
            IANA media type; default: guessed from the name.

        Returns
        -------
        Artifact
            What a document carries.

        Raises
        ------
        ArtifactError
            If there is nothing at ``path``, or a symbolic link.
        """
        source = Path(path)
        sha256, size = hash_path(source)
        name = source.resolve().name
        uri = f"{sha256[:2]}/{sha256}/{name}"
        target = self.root / uri
        if not (target.exists() and _verified_hash(target) == sha256):
            self._store(source, target, sha256)
        if not self.is_local:
            self._upload(target, uri)
        if media_type is None:
            guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
            media_type = FOLDER_MEDIA_TYPE if source.is_dir() else guessed
        return Artifact(uri=uri, sha256=sha256, size=size, media_type=media_type)

    def _store(self, source: Path, target: Path, sha256: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".put-", dir=target.parent))
        try:
            copy = scratch / target.name
            _copy(source, copy)
            if hash_path(copy)[0] != sha256:
                raise ArtifactError(
                    f"{source} changed while it was stored.", remedy="Store it when nothing writes to it."
                )
            if target.exists() and hash_path(target)[0] != sha256:
                # Somebody altered what is stored; this is the good content again.
                target.replace(scratch / "altered")
            try:
                copy.replace(target)
            except OSError:
                # A folder that another process has stored in the meantime cannot be replaced, and need not
                # be.
                if not target.is_dir() or hash_path(target)[0] != sha256:
                    raise
            _sync(target.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _upload(self, local: Path, uri: str) -> None:
        remote = f"{self._remote_root.rstrip('/')}/{uri}"
        if local.is_file():
            if not self.filesystem.exists(remote):
                self.filesystem.pipe_file(remote, local.read_bytes())
            return
        for relative, file in _files(local):
            if not self.filesystem.exists(f"{remote}/{relative}"):
                self.filesystem.put_file(str(file), f"{remote}/{relative}")

    def _download(self, uri: str) -> None:
        remote = f"{self._remote_root.rstrip('/')}/{uri}"
        target = self.root / uri
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".get-", dir=target.parent))
        try:
            copy = scratch / target.name
            if self.filesystem.isfile(remote):
                self.filesystem.get_file(remote, str(copy))
            else:
                copy.mkdir()
                for file in self.filesystem.find(remote):
                    relative = PurePosixPath(file).relative_to(PurePosixPath(remote))
                    (copy / relative).parent.mkdir(parents=True, exist_ok=True)
                    self.filesystem.get_file(file, str(copy / relative))
            if target.exists():
                _remove(target)
            copy.replace(target)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def path(self, artifact: Artifact) -> Path:
        """Return where an artifact lies locally, without looking at it.

        Parameters
        ----------
        artifact
            An artifact of this store.

        Raises
        ------
        ArtifactError
            If its address leads out of the store.
        """
        address = PurePosixPath(artifact.uri)
        if address.is_absolute() or ".." in address.parts or not address.parts:
            raise ArtifactError(
                f"Artifact address '{artifact.uri}' leads out of the store {self.url}.",
                remedy="The document was not written by this store.",
            )
        return self.root / address

    def fetch(self, artifact: Artifact) -> Path:
        """Return the local path of an artifact whose content has been checked.

        Parameters
        ----------
        artifact
            From a document.

        Returns
        -------
        Path
            File or folder; do not change it.

        Raises
        ------
        ArtifactError
            If it is missing, or its content is not what its hash says.
        """
        path = self.path(artifact)
        if not self.is_local and not (path.exists() and _verified_hash(path) == artifact.sha256):
            remote = f"{self._remote_root.rstrip('/')}/{artifact.uri}"
            if self.filesystem.exists(remote):
                self._download(artifact.uri)
        if not path.exists():
            raise ArtifactError(
                f"Artifact {path} is missing from {self.url}.",
                remedy="Restore it from a copy of the project, or run the job that made it again.",
            )
        found = _verified_hash(path)
        if found != artifact.sha256:
            raise ArtifactError(
                f"Artifact {path} was altered: its sha256 is {found[:16]}..., the document says "
                f"{artifact.sha256[:16]}....",
                remedy="Restore it from a copy of the project, or run the job that made it again.",
            )
        return path
