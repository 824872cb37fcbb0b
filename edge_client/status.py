"""A local port that tells how the client is: /metrics, /healthz, /readyz."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from runtime.errors import OutputError

Report = Callable[[], dict[str, bool]]
"""What must be true, by name."""


class StatusServer:
    """Answers in threads of its own, so that it does even when the client is stuck."""

    def __init__(self, host: str, port: int, registry: CollectorRegistry, healthy: Report, ready: Report) -> None:
        """Listen; port 0 takes any that is free.

        Raises:
            OutputError: the port cannot be had.
        """
        try:
            self._server = ThreadingHTTPServer(
                (host, port), _handler(registry, {"/healthz": healthy, "/readyz": ready})
            )
        except OSError as fault:
            raise OutputError(f"status.port: {host}:{port} cannot be listened at: {fault.strerror or fault}") from fault
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="status", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is listened at."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop answering."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def _handler(registry: CollectorRegistry, reports: dict[str, Report]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = 5  # a caller that says nothing is left

        def do_GET(self) -> None:
            if self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            elif self.path in reports:
                report = reports[self.path]()
                self._answer(200 if all(report.values()) else 503, "application/json", json.dumps(report).encode())
            else:
                self._answer(404, "text/plain", b"/metrics /healthz /readyz\n")

        def log_message(self, format: str, *arguments: Any) -> None:
            """Say nothing: probes come all the time."""

        def _answer(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
