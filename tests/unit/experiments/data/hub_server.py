"""A hub on the loopback interface that speaks what `huggingface_hub` asks of the real one for a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Hub:
    """One data set; `files` may change between requests, `cut` closes the connection after so many bytes."""

    hub_id: str
    files: dict[str, bytes]
    revision: str = "a" * 40
    cut: int | None = None
    requests: list[str] = field(default_factory=list)
    endpoint: str = ""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._file(body=False)

        def do_GET(self) -> None:
            if not self.path.startswith(f"/api/datasets/{hub.hub_id}"):
                self._file(body=True)
                return
            hub.requests.append(f"GET {self.path}")
            listed = [{"rfilename": name} for name in (".gitattributes", "README.md", *hub.files)]
            body = json.dumps({"id": hub.hub_id, "sha": hub.revision, "siblings": listed}).encode()
            self._answer(200, body, {"Content-Type": "application/json"})

        def _file(self, body: bool) -> None:
            hub.requests.append(f"{self.command} {self.path}")
            prefix = f"/datasets/{hub.hub_id}/resolve/{hub.revision}/"
            content = hub.files.get(self.path.partition("?")[0].removeprefix(prefix))
            if content is None:
                self._answer(404, b"Entry not found", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": hub.revision})
                return
            etag = hashlib.sha256(content).hexdigest()
            self._answer(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": hub.revision}, body)

        def _answer(self, status: int, content: bytes, headers: dict[str, str], body: bool = True) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content[: hub.cut])
            if hub.cut is not None and len(content) > hub.cut:
                self.close_connection = True

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
