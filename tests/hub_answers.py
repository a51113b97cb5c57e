"""How the Hub server of the tests answers each request: the addresses, the permissions, the forms of the answers."""

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any, BinaryIO
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub_repositories import KINDS, Blob, Refused, Repository

_KIND = rf"(?P<kind>{'|'.join(KINDS)})"
_NAME = r"(?P<name>[^/]+(?:/[^/]+)?)"
_REPOSITORY = r"(?P<name>[^/]+/[^/]+)"


@dataclass
class Request:
    """One request as it was answered; `status` 0 where the connection was dropped."""

    method: str
    path: str
    status: int
    token: str | None


class HubRequestHandler(BaseHTTPRequestHandler):
    """Answers one request after the other on a connection; `hub` is the server that it answers for."""

    protocol_version = "HTTP/1.1"
    hub: Any

    def _serve(self) -> None:
        failure = self.hub.next_failure()
        # Before it is answered: a test may look as soon as it has the answer.
        self._request = Request(self.command, self.path, 0, self._token())
        self.hub.log(self._request)
        try:
            body = self._body()
            if failure is None or failure.after:
                with self.hub.lock:
                    answer = self._answer(body)
            if failure is None:
                answer()
            elif failure.status is None:
                self.close_connection = True
                self.connection.close()
            else:
                self._json({"error": "made to fail"}, failure.status)
        except Refused as refusal:
            headers = {"X-Error-Code": refusal.code} if refusal.code else {}
            self._json({"error": refusal.message}, refusal.status, {**headers, "X-Error-Message": refusal.message})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    # --- what is asked -----------------------------------------------------------------------------------------------

    def _answer(self, body: BinaryIO) -> Callable[[], None]:
        """Carry a request out; what comes back sends the answer."""
        url = urlsplit(self.path)
        path = unquote(url.path).rstrip("/")
        for method, pattern, action in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == ("GET" if self.command == "HEAD" else self.command):
                found = match.groupdict()
                return getattr(self, action)(body, **{**found, "kind": found.get("kind") or "models"})
        raise Refused(404, f"no such address: {self.command} {path}")

    def _whoami(self, body: BinaryIO, kind: str) -> Callable[[], None]:
        name, spaces = self._user(required=True)
        orgs = [{"name": space, "type": "org", "roleInOrg": "write"} for space in spaces if space != name]
        return self._json_later(
            {"type": "user", "name": name, "orgs": orgs, "auth": {"accessToken": {"role": "write"}}}
        )

    def _validate(self, body: BinaryIO, kind: str) -> Callable[[], None]:
        problems = self.hub.check_card(json.loads(body.read())["content"])
        errors = [{"message": problem} for problem in problems]
        return self._json_later({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _create(self, body: BinaryIO, kind: str) -> Callable[[], None]:
        wanted = json.loads(body.read())
        owner = wanted.get("organization") or self._user(required=True)[0]
        self._may_write(owner)
        kind = f"{wanted.get('type') or 'model'}s"
        name = f"{owner}/{wanted['name']}"
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}"
        if self.hub.repositories.has(kind, name):
            return self._json_later({"error": "You already created this repo", "url": url}, 409)
        private = wanted.get("visibility") == "private" or bool(wanted.get("private"))
        self.hub.repositories.create(kind, name, private)
        return self._json_later({"url": url, "name": name})

    def _delete(self, body: BinaryIO, kind: str) -> Callable[[], None]:
        wanted = json.loads(body.read())
        owner = wanted.get("organization") or self._user(required=True)[0]
        self._may_write(owner)
        self.hub.repositories.delete(f"{wanted.get('type') or 'model'}s", f"{owner}/{wanted['name']}")
        return self._json_later({})

    def _info(self, body: BinaryIO, kind: str, name: str, revision: str = "main") -> Callable[[], None]:
        repository = self._repository(kind, name)
        commit = repository.commit(revision)
        full = "blobs" in parse_qs(urlsplit(self.path).query)
        siblings = [
            {"rfilename": path, **(blob.describe() if full else {})} for path, blob in sorted(commit.files.items())
        ]
        return self._json_later(
            {
                "_id": name,
                "id": name,
                "modelId": name,
                "author": name.split("/")[0],
                "sha": commit.oid,
                "private": repository.private,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "lastModified": commit.date,
                "createdAt": repository.commits[0].date,
                "siblings": siblings,
            }
        )

    def _tree(self, body: BinaryIO, kind: str, name: str, revision: str, path: str | None = None) -> Callable[[], None]:
        commit = self._repository(kind, name).commit(revision)
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = commit.tree((path or "").strip("/"), recursive)
        if path and not entries:
            raise Refused(404, f"{path} does not exist on {revision!r}", "EntryNotFound")
        return self._json_later(entries)

    def _paths_info(self, body: BinaryIO, kind: str, name: str, revision: str) -> Callable[[], None]:
        commit = self._repository(kind, name).commit(revision)
        content = body.read().decode()
        sent_json = "json" in self.headers.get("Content-Type", "")
        paths = json.loads(content)["paths"] if sent_json else parse_qs(content).get("paths", [])
        entries = {entry["path"]: entry for entry in commit.tree("", recursive=True)}
        return self._json_later([entries[path] for path in paths if path in entries])

    def _commits(self, body: BinaryIO, kind: str, name: str, revision: str) -> Callable[[], None]:
        history = self._repository(kind, name).history(revision)
        return self._json_later(
            [
                {
                    "id": commit.oid,
                    "title": commit.title,
                    "message": commit.message,
                    "date": commit.date,
                    "authors": [{"user": commit.author}],
                }
                for commit in history
            ]
        )

    def _refs(self, body: BinaryIO, kind: str, name: str) -> Callable[[], None]:
        repository = self._repository(kind, name)
        entry = {
            where: [
                {"name": ref, "ref": f"refs/{prefix}/{ref}", "targetCommit": oid} for ref, oid in sorted(refs.items())
            ]
            for where, prefix, refs in (
                ("branches", "heads", repository.branches),
                ("tags", "tags", repository.tags),
                ("converts", "convert", {}),
                ("pullRequests", "pr", {}),
            )
        }
        return self._json_later(entry)

    def _branch(self, body: BinaryIO, kind: str, name: str, revision: str) -> Callable[[], None]:
        repository = self._repository(kind, name, write=True)
        if revision in repository.branches:
            return self._json_later({"error": f"Reference already exists: {revision}"}, 409)
        start = json.loads(body.read() or b"{}").get("startingPoint", "main")
        repository.branches[revision] = repository.commit(start).oid
        return self._json_later({})

    def _tag(self, body: BinaryIO, kind: str, name: str, revision: str) -> Callable[[], None]:
        repository = self._repository(kind, name, write=True)
        tag = json.loads(body.read())["tag"]
        if tag in repository.tags:
            return self._json_later({"error": f"Tag already exists: {tag}"}, 409)
        repository.tags[tag] = repository.commit(revision).oid
        return self._json_later({})

    # --- pushing -----------------------------------------------------------------------------------------------------

    def _preupload(self, body: BinaryIO, kind: str, name: str, revision: str) -> Callable[[], None]:
        files = self._repository(kind, name, write=True).commit(revision).files
        answers = []
        for file in json.loads(body.read())["files"]:
            # The Hub looks at `.gitattributes` and the size; what is no text counts as large there as well.
            large = b"\0" in base64.b64decode(file["sample"]) or file["size"] > 10_000_000
            there = files.get(file["path"])
            oid = (there.sha256 if there.lfs else there.git_oid) if there else None
            mode = "lfs" if large else "regular"
            answers.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        return self._json_later({"files": answers})

    def _lfs_batch(self, body: BinaryIO, kind: str, name: str) -> Callable[[], None]:
        self._repository(kind, name, write=True)
        objects = []
        for wanted in json.loads(body.read())["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if not self.hub.repositories.has_content(wanted["oid"]):
                answer["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}", "header": {}}}
            objects.append(answer)
        return self._json_later({"transfer": "basic", "objects": objects})

    def _lfs_put(self, body: BinaryIO, kind: str, oid: str) -> Callable[[], None]:
        found = self.hub.repositories.keep(body).sha256
        if found != oid:
            raise Refused(400, f"content has the sha256 {found}, expected {oid}")
        return self._json_later({})

    def _commit(self, body: BinaryIO, kind: str, name: str, revision: str) -> Callable[[], None]:
        repository = self._repository(kind, name, write=True)
        lines = [json.loads(line) for line in body.read().splitlines() if line.strip()]
        author = self._user(required=True)[0]
        commit = self.hub.repositories.commit(repository, revision, lines, author)
        url = f"{self.hub.url}/{'' if kind == 'models' else kind + '/'}{name}/commit/{commit.oid}"
        return self._json_later({"success": True, "commitOid": commit.oid, "commitUrl": url})

    # --- files -------------------------------------------------------------------------------------------------------

    def _resolve(self, body: BinaryIO, kind: str, name: str, revision: str, path: str) -> Callable[[], None]:
        commit = self._repository(kind, name).commit(revision)
        blob = commit.files.get(path)
        if blob is None:
            message = f"{path} does not exist on {revision!r}"
            headers = {"X-Error-Code": "EntryNotFound", "X-Error-Message": message, "X-Repo-Commit": commit.oid}
            return self._json_later({"error": message}, 404, headers)
        return lambda: self._file(blob, commit.oid)

    def _file(self, blob: Blob, oid: str) -> None:
        begin, end = 0, blob.size
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            begin, end = int(wanted[1]), min(int(wanted[2]) + 1 if wanted[2] else blob.size, blob.size)
        if wanted and begin >= blob.size:
            self._json({"error": "range"}, 416, {"Content-Range": f"bytes */{blob.size}"})
            return
        etag = f'"{blob.sha256 if blob.lfs else blob.git_oid}"'
        if not wanted and self.headers.get("If-None-Match") == etag:
            self._head(304, 0, {"ETag": etag, "X-Repo-Commit": oid})
            return
        headers = {"ETag": etag, "X-Repo-Commit": oid, "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-Etag": etag, "X-Linked-Size": str(blob.size)}
        if wanted:
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{blob.size}"
        self._head(206 if wanted else 200, end - begin, headers)
        if self.command == "GET":
            with self.hub.repositories.content(blob.sha256).open("rb") as file:
                file.seek(begin)
                left = end - begin
                while left:
                    piece = file.read(min(left, 1 << 20))
                    self.wfile.write(piece)
                    left -= len(piece)

    # --- who asks ----------------------------------------------------------------------------------------------------

    def _token(self) -> str | None:
        scheme, _, token = (self.headers.get("Authorization") or "").partition(" ")
        return token if scheme == "Bearer" else None

    def _user(self, required: bool = False) -> tuple[str, tuple[str, ...]]:
        token = self._token()
        if token is not None and token not in self.hub.users:
            raise Refused(401, "Invalid credentials in Authorization header")
        if token is None and required:
            raise Refused(401, "Invalid username or password.")
        return self.hub.users[token] if token is not None else ("", ())

    def _may_write(self, owner: str) -> None:
        user, spaces = self._user(required=True)
        if owner not in spaces:
            raise Refused(403, f"You don't have the rights to create or change anything under {owner!r} as {user!r}")

    def _repository(self, kind: str, name: str, write: bool = False) -> Repository:
        user, spaces = self._user()
        owner = name.split("/")[0]
        known = self.hub.repositories.has(kind, name)
        if not known or (self.hub.repositories.get(kind, name).private and owner not in spaces):
            # The Hub does not tell strangers what is missing from what is private.
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if write:
            self._may_write(owner)
        return self.hub.repositories.get(kind, name)

    # --- bytes in and out --------------------------------------------------------------------------------------------

    def _body(self) -> BinaryIO:
        file = self.hub.repositories.scratch_file()
        if "chunked" in (self.headers.get("Transfer-Encoding") or ""):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                file.write(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
        else:
            left = int(self.headers.get("Content-Length") or 0)
            while left:
                piece = self.rfile.read(min(left, 1 << 20))
                if not piece:
                    raise ConnectionResetError
                file.write(piece)
                left -= len(piece)
        file.seek(0)
        return file

    def _json_later(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> Callable[[], None]:
        return lambda: self._json(content, status, headers)

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self._head(status, len(data), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(data)

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self._request.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(length), **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: Any) -> None:
        """Nothing on stderr; [`HubServer.requests`] has it."""


_ROUTES = [
    ("GET", r"/api/whoami-v2", "_whoami"),
    ("POST", r"/api/validate-yaml", "_validate"),
    ("POST", r"/api/repos/create", "_create"),
    ("DELETE", r"/api/repos/delete", "_delete"),
    ("GET", rf"/api/{_KIND}/{_REPOSITORY}/revision/(?P<revision>.+)", "_info"),
    ("GET", rf"/api/{_KIND}/{_REPOSITORY}/tree/(?P<revision>[^/]+)(?P<path>/.*)?", "_tree"),
    ("GET", rf"/api/{_KIND}/{_REPOSITORY}/commits/(?P<revision>.+)", "_commits"),
    ("GET", rf"/api/{_KIND}/{_REPOSITORY}/refs", "_refs"),
    ("POST", rf"/api/{_KIND}/{_REPOSITORY}/paths-info/(?P<revision>.+)", "_paths_info"),
    ("POST", rf"/api/{_KIND}/{_REPOSITORY}/branch/(?P<revision>.+)", "_branch"),
    ("POST", rf"/api/{_KIND}/{_REPOSITORY}/tag/(?P<revision>.+)", "_tag"),
    ("POST", rf"/api/{_KIND}/{_REPOSITORY}/preupload/(?P<revision>.+)", "_preupload"),
    ("POST", rf"/api/{_KIND}/{_REPOSITORY}/commit/(?P<revision>.+)", "_commit"),
    ("GET", rf"/api/{_KIND}/{_NAME}", "_info"),
    ("POST", rf"(?:/{_KIND})?/{_REPOSITORY}\.git/info/lfs/objects/batch", "_lfs_batch"),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", "_lfs_put"),
    ("GET", rf"(?:/{_KIND})?/{_REPOSITORY}/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "_resolve"),
]

__all__ = ["HubRequestHandler", "Request"]
