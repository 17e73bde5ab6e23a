"""A stand-in of the Hugging Face Hub's HTTP interface: repositories in memory, on this machine."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "1" * 40


class Hub(ThreadingHTTPServer):
    """Files by repository and path; writing needs the token ``secret``."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, content: object, code: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _refuse(self, code: int, kind: str) -> None:
        self._answer({"error": kind}, code, {"X-Error-Code": kind, "X-Error-Message": kind})

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.asked.append(f"POST {path}")
        if self.headers.get("Authorization") != "Bearer secret":
            return self._refuse(401, "Unauthorized")
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'somebody'}/{asked['name']}"
            there = name in self.server.repositories
            self.server.repositories.setdefault(name, {})
            return self._answer({"url": f"{self.server.address}/{name}", "name": name}, 409 if there else 200)
        if path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name, _, action = path.removeprefix("/api/models/").partition("/")
        owner, (name, _, action) = name, action.partition("/")
        files = self.server.repositories[f"{owner}/{name}"]
        if action.startswith("preupload/"):
            wanted = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None} for f in wanted]
            return self._answer({"files": modes})
        assert action.startswith("commit/"), path
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        url = f"{self.server.address}/{owner}/{name}/commit/{COMMIT}"
        return self._answer({"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""})

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        listing = path.startswith("/api/models/")
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        name = "/".join(parts[:2])
        if name not in self.server.repositories:
            return self._refuse(404, "RepoNotFound")
        files = self.server.repositories[name]
        if listing and "tree" in parts:
            return self._answer([
                {"type": "file", "path": file, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for file, content in sorted(files.items())
            ])  # fmt: skip
        if listing:
            siblings = [{"rfilename": file} for file in sorted(files)]
            return self._answer({"id": name, "modelId": name, "sha": COMMIT, "siblings": siblings, "tags": []})
        assert parts[2] == "resolve", path
        file = "/".join(parts[4:])
        if file not in files:
            return self._refuse(404, "EntryNotFound")
        etag = hashlib.sha1(files[file]).hexdigest()
        return self._answer(files[file], headers={"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})

    def do_HEAD(self) -> None:
        self.do_GET()
