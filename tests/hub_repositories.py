"""What the Hub server of the tests keeps: repositories with their history, and contents by their hash."""

import base64
import hashlib
import itertools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

KINDS = ("models", "datasets", "spaces")


class Refused(Exception):
    """An error answer: status, message, and what the Hub puts into `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    """A file's content by its hashes: `git_oid` as git names it, `sha256` as it is kept."""

    sha256: str
    git_oid: str
    size: int
    lfs: bool = False

    def describe(self) -> dict[str, Any]:
        """As the Hub describes a file."""
        entry: dict[str, Any] = {"size": self.size, "blobId": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"sha256": self.sha256, "size": self.size, "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    """A state of a repository. `files` maps a path to its content."""

    oid: str
    parent: str | None
    title: str
    message: str
    author: str
    date: str
    files: dict[str, Blob]

    def tree(self, path: str, recursive: bool) -> list[dict[str, Any]]:
        """What lies under a folder, as the Hub lists it; `""` is the root."""
        entries: dict[str, dict[str, Any]] = {}
        for name, blob in sorted(self.files.items()):
            if path and name != path and not name.startswith(f"{path}/"):
                continue
            parts = name[len(path) :].strip("/").split("/")
            for depth in range(1, len(parts)):
                folder = "/".join([*([path] if path else []), *parts[:depth]])
                if recursive or depth == 1:
                    oid = hashlib.sha1(folder.encode()).hexdigest()
                    entries[folder] = {"type": "directory", "path": folder, "oid": oid, "size": 0}
            if recursive or len(parts) == 1:
                entry: dict[str, Any] = {"type": "file", "path": name, "oid": blob.git_oid, "size": blob.size}
                if blob.lfs:
                    entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
                entries[name] = entry
        return list(entries.values())


@dataclass
class Repository:
    """A repository: all its commits, oldest first, and what its branches and tags point to."""

    private: bool
    commits: list[Commit] = field(default_factory=list)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def commit(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a hash (also its beginning) names."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        for commit in self.commits:
            if commit.oid == oid or (len(oid) >= 7 and commit.oid.startswith(oid)):
                return commit
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def history(self, revision: str) -> list[Commit]:
        """The commits that led to a revision, newest first."""
        found = [self.commit(revision)]
        while found[-1].parent is not None:
            found.append(self.commit(found[-1].parent))
        return found


class Repositories:
    """All repositories of the server, their contents in files of a folder."""

    def __init__(self, folder: Path) -> None:
        self._contents = folder / "contents"
        self._contents.mkdir(parents=True, exist_ok=True)
        self._all: dict[tuple[str, str], Repository] = {}
        self._clock = itertools.count()

    def has(self, kind: str, name: str) -> bool:
        return (kind, name) in self._all

    def get(self, kind: str, name: str) -> Repository:
        return self._all[kind, name]

    def create(self, kind: str, name: str, private: bool) -> None:
        """A new repository, with the commit that the Hub makes of itself."""
        repository = self._all[kind, name] = Repository(private)
        attributes = base64.b64encode(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n").decode()
        lines = [
            {"key": "header", "value": {"summary": "initial commit"}},
            {"key": "file", "value": {"path": ".gitattributes", "content": attributes, "encoding": "base64"}},
        ]
        self.commit(repository, "main", lines, "system")

    def delete(self, kind: str, name: str) -> None:
        if self._all.pop((kind, name), None) is None:
            raise Refused(404, "Repository not found", "RepoNotFound")

    def commit(self, repository: Repository, branch: str, lines: list[dict[str, Any]], author: str) -> Commit:
        """Carry out the lines of a commit, all or none.

        Raises:
            Refused: an unknown branch or parent, a large file that was never sent, a deleted file that is not there.
        """
        old = repository.commit(branch) if repository.commits else None
        files = dict(old.files) if old else {}
        title = message = ""
        for line in lines:
            key, value = line["key"], line["value"]
            path = value.get("path", "")
            if key == "header":
                title, message = value["summary"], value.get("description", "")
                parent = value.get("parentCommit")
                if parent and (old is None or not old.oid.startswith(parent)):
                    raise Refused(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = self.keep_bytes(base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if not self.has_content(value["oid"]):
                    raise Refused(400, f"Some lfs files are not there: {path} ({value['oid']})")
                files[path] = self._large(value["oid"])
            elif key == "deletedFile":
                if files.pop(path, None) is None:
                    raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
            elif key == "deletedFolder":
                files = {name: blob for name, blob in files.items() if not name.startswith(f"{path.rstrip('/')}/")}
            else:
                raise Refused(400, f"unknown operation {key!r}")
        number = next(self._clock)
        oid = hashlib.sha1(f"{number}{title}{sorted(files)}".encode()).hexdigest()
        date = f"2024-01-01T{number // 3600 % 24:02}:{number // 60 % 60:02}:{number % 60:02}.000Z"
        commit = Commit(oid, old.oid if old else None, title, message, author, date, files)
        repository.commits.append(commit)
        repository.branches[branch] = oid
        return commit

    # --- contents ----------------------------------------------------------------------------------------------------

    def scratch_file(self) -> BinaryIO:
        """A file that is gone once it is closed."""
        return tempfile.TemporaryFile(dir=self._contents)

    def keep(self, body: BinaryIO) -> Blob:
        """Keep a stream's content."""
        sha256, size = hashlib.sha256(), 0
        with tempfile.NamedTemporaryFile(dir=self._contents, delete=False) as file:
            while piece := body.read(1 << 20):
                sha256.update(piece)
                file.write(piece)
                size += len(piece)
        name = sha256.hexdigest()
        Path(file.name).rename(self.content(name))
        return Blob(name, hashlib.sha1(f"lfs {name}".encode()).hexdigest(), size, lfs=True)

    def keep_bytes(self, data: bytes) -> Blob:
        """Keep a small file's content."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.content(sha256).write_bytes(data)
        return Blob(sha256, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest(), len(data))

    def has_content(self, sha256: str) -> bool:
        return self.content(sha256).is_file()

    def content(self, sha256: str) -> Path:
        """The file that holds a content."""
        return self._contents / sha256

    def _large(self, sha256: str) -> Blob:
        size = self.content(sha256).stat().st_size
        return Blob(sha256, hashlib.sha1(f"lfs {sha256}".encode()).hexdigest(), size, lfs=True)


__all__ = ["KINDS", "Blob", "Commit", "Refused", "Repositories", "Repository"]
