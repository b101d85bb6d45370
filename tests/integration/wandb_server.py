"""As much of a W&B server as a run needs to be logged online."""

import gzip
import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers whatever it is asked, and keeps what it is told.

    Attributes:
        runs: What each run was created or changed with, by its id.
        exit_codes: By the id of the run.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict[str, Any]] = defaultdict(dict)
        self.exit_codes: dict[str, int] = {}
        self.address = f"http://127.0.0.1:{self.server_port}"

    def answer(self, path: str, body: bytes) -> Any:
        if path == "/graphql":
            asked = json.loads(body)
            return {"data": self._query(asked["operationName"], asked.get("variables") or {})}
        if path.endswith("/file_stream"):
            stream = json.loads(body)
            if stream.get("complete"):
                self.exit_codes[path.split("/")[-2]] = stream["exitcode"]
        return {}

    def _query(self, operation: str, given: dict[str, Any]) -> Any:
        match operation:
            case "UpsertBucket":
                self.runs[given["name"]] |= {k: v for k, v in given.items() if v is not None}
                project = {"id": "p", "name": given["project"], "entity": {"name": "somebody"}}
                bucket = {"id": "b", "name": given["name"], "project": project}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                files = [
                    {"name": name, "uploadUrl": f"{self.address}/{name}"} for name in given["files"]
                ]
                return {"createRunFiles": {"runID": "b", "uploadHeaders": [], "files": files}}
            case "Viewer":
                return {"viewer": {"id": "v", "entity": "somebody", "username": "somebody"}}
        return {"model": None, "entity": None, "serverInfo": {"features": []}}


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self._send(self.server.answer(self.path, body))

    do_PUT = do_POST  # noqa: N815

    def do_GET(self) -> None:
        self._send({})

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def _send(self, content: Any) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
