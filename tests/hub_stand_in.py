"""A Hugging Face hub of our own, for the real client: `python -m tests.hub_stand_in` serves it until Ctrl-C.

Enters: requests of huggingface_hub with `HF_ENDPOINT` set to its address. Leaves: what the hub answers, as far as
bundles are fetched and pushed: accounts, repositories, branches, trees, files with their hashes, commits, and large
files beside them. Everything is in memory; every request is noted in `asked`.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE = 20_000
"""Bytes from which a file is a large one."""
TOKENS = {"writes": "write", "reads": "read"}
"""By what they may do."""
ACCOUNT = {"type": "user", "name": "me", "orgs": [{"name": "org", "roleInOrg": "admin"}]}

Files = dict[str, bytes]


def files_of(folder: Path) -> Files:
    """Every file of a folder and the folders in it, by its path there."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


@dataclass(kw_only=True)
class Repository:
    """Commits by their hash, and branches by their name."""

    private: bool = False
    gated: bool = False
    read_only: bool = False
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        """Put a branch at a new commit."""
        listing = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in files.items())
        commit = hashlib.sha1(repr((listing, len(self.commits))).encode()).hexdigest()
        self.commits[commit] = dict(files)
        self.branches[branch] = commit
        return commit


@dataclass(kw_only=True)
class Hub:
    """What the server serves. `sizes` are told in place of true ones; `ignored` files are left out of commits."""

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> str:
        """Large files lie on another host, whose answers the client takes no metadata from."""
        return self.address.replace("127.0.0.1", "localhost")

    def add(self, name: str, files: Mapping[str, bytes], **how: Any) -> Repository:
        """A repository with one commit."""
        repository = self.repositories[name] = Repository(**how)
        repository.commit(files)
        return repository

    def fetched(self) -> list[str]:
        """Files whose bytes were asked for."""
        asked = (re.fullmatch(r"GET /[^/]+/[^/]+/resolve/[^/]+/(.+)", line) for line in self.asked)
        small = [found[1] for found in asked if found]
        return small + [self.names[line[11:]] for line in self.asked if line.startswith("GET /large/")]


class RefusedError(Exception):
    """An answer that is an error: its status, and the hub's own code for it."""

    def __init__(self, status: int, code: str = "") -> None:
        super().__init__(status, code)
        self.status, self.code = status, code


class Handler(BaseHTTPRequestHandler):
    """Answers for `hub`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path
        self.hub.asked.append(f"{self.command} {unquote(path)}")
        length = int(self.headers.get("Content-Length") or 0)
        chunked = "chunked" in self.headers.get("Transfer-Encoding", "")
        body = b"".join(self._chunks()) if chunked else self.rfile.read(length)
        try:
            for pattern, method in ROUTES:
                found = re.fullmatch(pattern, f"{self.command} {path}")
                if found:
                    groups = (group and unquote(group) for group in found.groups())
                    self._send(*method(self, body, *groups))
                    return
            raise RefusedError(404)
        except RefusedError as refused:
            headers = {"X-Error-Code": refused.code, "X-Error-Message": refused.code}
            self._send(refused.status, b"{}", headers)

    do_GET = do_HEAD = do_POST = do_PUT = _answer  # noqa: N815

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _send(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def _role(self) -> str | None:
        return TOKENS.get(self.headers.get("Authorization", "").removeprefix("Bearer "))

    def _repository(self, name: str) -> Repository:
        found = self.hub.repositories.get(name)
        if found is None or (found.private and self._role is None):
            raise RefusedError(404 if self._role else 401, "RepoNotFound")
        return found

    def _commit(self, name: str, revision: str) -> tuple[Repository, str]:
        repository = self._repository(name)
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            raise RefusedError(404, "RevisionNotFound")
        return repository, commit

    def _writable(self, name: str) -> Repository:
        repository = self._repository(name)
        if self._role != "write" or repository.read_only:
            raise RefusedError(403)
        return repository

    def whoami(self, _: bytes) -> tuple[int, Any]:
        if self._role is None:
            raise RefusedError(401)
        return 200, {**ACCOUNT, "auth": {"accessToken": {"role": self._role}}}

    def create(self, body: bytes) -> tuple[int, Any]:
        given = json.loads(body)
        name = f"{given.get('organization') or ACCOUNT['name']}/{given['name']}"
        if self._role != "write":
            raise RefusedError(403)
        if name in self.hub.repositories:
            raise RefusedError(409)
        private = given.get("visibility") == "private" or bool(given.get("private"))
        self.hub.add(name, {".gitattributes": b""}, private=private)
        return 200, {"url": f"{self.hub.address}/{name}", "id": name, "name": name}

    def info(self, _: bytes, name: str, revision: str | None) -> tuple[int, Any]:
        repository, commit = self._commit(name, revision or "main")
        return 200, {"id": name, "sha": commit, "private": repository.private, "siblings": []}

    def tree(self, _: bytes, name: str, revision: str) -> tuple[int, Any]:
        repository, commit = self._commit(name, revision)
        return 200, [self._entry(path, data) for path, data in repository.commits[commit].items()]

    def _entry(self, path: str, data: bytes) -> dict[str, Any]:
        size = self.hub.sizes.get(path, len(data))
        entry = {"type": "file", "path": path, "size": size, "oid": hashlib.sha1(data).hexdigest()}
        digest = hashlib.sha256(data).hexdigest()
        return entry | (
            {"lfs": {"oid": digest, "size": size, "pointerSize": 99}} if len(data) >= LARGE else {}
        )

    def may_write(self, _: bytes, name: str) -> tuple[int, Any]:
        self._writable(name)
        return 200, {}

    def branch(self, body: bytes, name: str, branch: str) -> tuple[int, Any]:
        repository = self._writable(name)
        if branch in repository.branches:
            raise RefusedError(409)
        repository.branches[branch] = self._commit(name, json.loads(body).get("startingPoint") or "main")[1]
        return 200, {}

    def preupload(self, body: bytes, name: str, _revision: str) -> tuple[int, Any]:
        self._writable(name)
        return 200, {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if file["size"] >= LARGE else "regular",
                    "shouldIgnore": file["path"] in self.hub.ignored,
                    "oid": None,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def large_files(self, body: bytes, name: str) -> tuple[int, Any]:
        self._writable(name)
        objects = [
            item
            if item["oid"] in self.hub.large
            else item | {"actions": {"upload": {"href": f"{self.hub.address}/large/{item['oid']}"}}}
            for item in json.loads(body)["objects"]
        ]
        return 200, {"transfer": "basic", "objects": objects}

    def put_large(self, body: bytes, digest: str) -> tuple[int, Any]:
        if hashlib.sha256(body).hexdigest() != digest:
            raise RefusedError(400)
        self.hub.large[digest] = body
        return 200, b""

    def get_large(self, _: bytes, digest: str) -> tuple[int, Any]:
        return 200, self.hub.large[digest]

    def commit(self, body: bytes, name: str, revision: str) -> tuple[int, Any]:
        repository = self._writable(name)
        head = repository.branches[revision]
        files = dict(repository.commits[head])
        for line in map(json.loads, body.splitlines()):
            key, value = line["key"], line["value"]
            if key == "header":
                self.hub.messages.append(value["summary"])
                if value.get("parentCommit", head) != head:
                    raise RefusedError(412)
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.large[value["oid"]]
            else:
                del files[value["path"]]
        made = repository.commit(files, revision)
        return 200, {"commitUrl": f"{self.hub.address}/{name}/commit/{made}", "commitOid": made}

    def card_is_sound(self, _: bytes) -> tuple[int, Any]:
        return 200, {"errors": [], "warnings": []}

    def resolve(self, _: bytes, name: str, revision: str, path: str) -> tuple[int, Any, dict[str, str]]:
        repository, commit = self._commit(name, revision)
        if repository.gated:
            raise RefusedError(403, "GatedRepo")
        data = repository.commits[commit].get(path)
        if data is None:
            raise RefusedError(404, "EntryNotFound")
        size = str(self.hub.sizes.get(path, len(data)))
        headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if len(data) < LARGE:
            return 200, data, headers | ({"Content-Length": size} if self.command == "HEAD" else {})
        digest = hashlib.sha256(data).hexdigest()
        self.hub.large[digest], self.hub.names[digest] = data, path
        headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": size}
        return 302, b"", headers | {"Location": f"{self.hub.elsewhere}/large/{digest}"}


_NAME = r"([\w.-]+/[\w.-]+)"
ROUTES: tuple[tuple[str, Any], ...] = (
    (r"GET /api/whoami-v2", Handler.whoami),
    (r"POST /api/repos/create", Handler.create),
    (r"POST /api/validate-yaml", Handler.card_is_sound),
    (rf"GET /api/models/{_NAME}(?:/revision/(.+))?", Handler.info),
    (rf"GET /api/models/{_NAME}/tree/([^/]+)", Handler.tree),
    (rf"GET /api/models/{_NAME}/auth-check/write", Handler.may_write),
    (rf"POST /api/models/{_NAME}/branch/(.+)", Handler.branch),
    (rf"POST /api/models/{_NAME}/preupload/(.+)", Handler.preupload),
    (rf"POST /api/models/{_NAME}/commit/(.+)", Handler.commit),
    (rf"POST /{_NAME}\.git/info/lfs/objects/batch", Handler.large_files),
    (r"PUT /large/(\w+)", Handler.put_large),
    (r"GET /large/(\w+)", Handler.get_large),
    (rf"(?:GET|HEAD) /{_NAME}/resolve/([^/]+)/(.+)", Handler.resolve),
)


@contextmanager
def serving() -> Iterator[Hub]:
    """A hub on a port of this machine, for the length of a block."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfThisHub", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    with serving() as served:
        print(f"export HF_ENDPOINT={served.address} HF_TOKEN=writes HF_HUB_DISABLE_XET=1", flush=True)
        for _ in itertools.repeat(None):
            threading.Event().wait(3600)
