"""A server of one file on this machine that breaks off, changes its mind, or does not know ranges."""

from __future__ import annotations

import functools
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from cmr_bench.support import download as module

CONTENT = np.random.default_rng(0).bytes(300_000)


@dataclass
class Host:
    """What the server has, and how it misbehaves; ``asked`` are the ranges that it was asked for."""

    content: bytes = CONTENT
    version: str = '"one"'
    ranges: bool = True
    break_after: list[int | None] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    wrong_part: bool = False
    asked: list[str | None] = field(default_factory=list)
    url: str = ""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, host: Host, *args: Any) -> None:
        self.host = host
        super().__init__(*args)

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        host, asked = self.host, self.headers.get("Range")
        host.asked.append(asked)
        status = host.statuses.pop(0) if host.statuses else 200
        if status != 200:
            self.send_error(status)
            return
        start, content = 0, host.content
        found = re.fullmatch(r"bytes=(\d+)-", asked or "")
        if found and host.ranges and self.headers.get("If-Range") == host.version:
            start = int(found[1])
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start += host.wrong_part
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        if host.version:
            self.send_header("ETag", host.version)
        rest = content[start:]
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        limit = host.break_after.pop(0) if host.break_after else None
        self.wfile.write(rest[:limit])
        if limit is not None:
            self.close_connection = True


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_CHUNK", 4096)
    host = Host()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, host))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host.url = f"http://127.0.0.1:{server.server_port}/data.zip"
    yield host
    server.shutdown()
    server.server_close()
