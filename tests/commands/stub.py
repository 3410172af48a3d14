"""A stand-in for the daemon: answers on the Unix socket with what a test has prepared."""

from __future__ import annotations

import json
import os
import socketserver
import threading
from pathlib import Path
from typing import Any


class StubDaemon:
    """answers: path → (status, JSON value), or None to hang up without an answer.  asked: what came, in order."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "socket"
        self.answers: dict[str, tuple[int, Any] | None] = {}
        self.asked: list[tuple[str, Any]] = []

    def __enter__(self) -> StubDaemon:
        self.folder.mkdir(mode=0o700, exist_ok=True)
        stub = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                path = self.rfile.readline().split()[1].decode()
                length = 0
                while (line := self.rfile.readline().strip()) != b"":
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                body = self.rfile.read(length)
                stub.asked.append((path, json.loads(body) if body else None))
                answer = stub.answers.get(path, (404, {"detail": f"no {path}", "error": "unknown"}))
                if answer is None:
                    return
                text = json.dumps(answer[1]).encode()
                self.wfile.write(
                    f"HTTP/1.1 {answer[0]} Whatever\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text
                )

        self._server = socketserver.ThreadingUnixStreamServer(str(self.socket), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        self.write_note()
        return self

    def write_note(self, **changed: Any) -> None:
        note = {
            "pid": os.getpid(),
            "http_url": "http://127.0.0.1:1",
            "nats_url": "nats://secret@127.0.0.1:2",
            "socket": str(self.socket),
            "version": "9.9.9",
            "instance_id": "stub",
        }
        (self.folder / "daemon.json").write_text(json.dumps(note | changed))

    def __exit__(self, *_: object) -> None:
        """As after kill -9: socket file and note stay behind."""
        self._server.shutdown()
        self._server.server_close()
