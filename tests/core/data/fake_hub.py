"""A hub on loopback that speaks what reading needs of huggingface.co's protocol, and counts the bytes it sends."""

import json
from hashlib import sha1
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "c0ffee" + "0" * 34
CONVERTED = "decade" + "0" * 34


class FakeHub:
    """`files`: (repository, commit) to path to content; a dataset's repository is named datasets/..."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.sent: list[tuple[str, int]] = []  # path and bytes of every file request

    def add(self, repository: str, files: dict[str, bytes], commit: str = COMMIT) -> None:
        self.files[repository, commit] = files

    def sent_bytes(self) -> int:
        return sum(size for _, size in self.sent)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, hub: FakeHub, *arguments: Any) -> None:
        self.hub = hub
        super().__init__(*arguments)

    def log_message(self, *arguments: object) -> None:
        """Silent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        kind, name, rest = self._api()
        files = self._files(kind, name, rest[1])
        self._answer([e for e in self._entries(files or {}, "", recursive=True) if e["path"] in paths])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if "/resolve/" in path:
            return self._send_file(path)
        if not path.startswith("/api/models/") and not path.startswith("/api/datasets/"):
            return self._answer({"error": "Not found"}, 404)
        kind, name, rest = self._api()
        revision = rest[1] if len(rest) > 1 else "main"
        files = self._files(kind, name, revision)
        if files is None:
            known = any(repository == self._key(kind, name) for repository, _ in self.hub.files)
            code = "RevisionNotFound" if known else "RepoNotFound"
            return self._answer({"error": code}, 404, code)
        if rest[:1] == ["tree"]:
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() == "true"
            return self._answer(self._entries(files, "/".join(rest[2:]), recursive=recursive))
        siblings = [{"rfilename": path} for path in files]
        return self._answer({"id": name, "sha": self._commit(revision), "siblings": siblings, "tags": []})

    def _api(self) -> tuple[str, str, list[str]]:
        """models or datasets, the repository, and what follows; a revision with slashes is one part."""
        parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[2:]]
        return parts[0], "/".join(parts[1:3]), parts[3:]

    def _key(self, kind: str, name: str) -> str:
        return name if kind == "models" else f"datasets/{name}"

    def _commit(self, revision: str) -> str:
        return {"main": COMMIT, "refs/convert/parquet": CONVERTED}.get(revision, revision)

    def _files(self, kind: str, name: str, revision: str) -> dict[str, bytes] | None:
        return self.hub.files.get((self._key(kind, name), self._commit(revision)))

    def _entries(self, files: dict[str, bytes], folder: str, *, recursive: bool) -> list[dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        prefix = f"{folder}/" if folder else ""
        for path, content in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                found[name] = {"type": "directory", "path": name, "oid": "0", "size": 0}
            if recursive or len(parts) == 1:
                oid = sha1(content).hexdigest()
                found[path] = {"type": "file", "path": path, "oid": oid, "size": len(content)}
        return list(found.values())

    def _send_file(self, path: str) -> None:
        repository, _, place = path.strip("/").partition("/resolve/")
        revision, _, name = place.partition("/")
        content = self.hub.files.get((repository, self._commit(revision)), {}).get(name)
        if content is None:
            return self._answer({"error": "Entry not found"}, 404, "EntryNotFound")
        wanted = self.headers.get("range")
        start, stop = 0, len(content)
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            start, stop = int(first), min(len(content), int(last) + 1) if last else len(content)
        part = content[start:stop]
        self.hub.sent.append((name, len(part)))
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("content-range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("content-length", str(len(part)))
        self.send_header("etag", f'"{sha1(content).hexdigest()}"')
        self.send_header("x-repo-commit", self._commit(revision))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(part)
        return None

    def _answer(self, body: object, status: int = 200, code: str | None = None) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        if code:
            self.send_header("x-error-code", code)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
