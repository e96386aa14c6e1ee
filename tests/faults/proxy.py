"""Faults between a client and a real S3 service, one decision a request.

    with FaultProxy(server.endpoint, at_rates({"503": 0.1, "reset after": 0.1}, seed=1), server.keys) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        ...                                 # whatever reads and writes
    assert proxy.counts["reset after"] > 0  # else the test has shown nothing

A plan is any function from a :class:`Request` to the name of a fault, or None: a script for the n-th PUT of a key is
one line. ``proxy.plan`` may be replaced while it runs. With one client at a time a seeded plan repeats itself exactly.
The client signs for the proxy's host, and the proxy hands that Host header on, so that signatures stay valid.
"""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

from object_server.sigv4 import signed_request

FAULTS = {
    "500": "answers InternalError, nothing is done",
    "503": "answers SlowDown, nothing is done",
    "409": "answers ConditionalRequestConflict, nothing is done",
    "reset before": "cuts the connection, nothing is done",
    "reset after": "does what is asked, then cuts the connection: the reply is lost",
    "stall": "waits, then does what is asked: late, perhaps after the client has gone",
    "truncate": "sends half of the body of a GET, then cuts the connection",
    "strip": "takes If-None-Match out of a PUT: a service that ignores the condition",
}
_CODES = {"500": "InternalError", "503": "SlowDown", "409": "ConditionalRequestConflict"}


@dataclass(frozen=True, slots=True)
class Request:
    """What a plan decides by."""

    number: int
    method: str
    path: str
    creates: bool
    """It carries If-None-Match."""


Plan = Callable[[Request], str | None]


def at_rates(rates: Mapping[str, float], seed: int) -> Plan:
    """Each fault with its probability, drawn anew for each request."""
    unknown, draws = set(rates) - set(FAULTS), random.Random(seed)
    assert not unknown, f"no such fault: {unknown}"
    names, weights = [*rates, None], [*rates.values(), 1 - sum(rates.values())]

    def plan(request: Request) -> str | None:
        fault = draws.choices(names, weights)[0]
        if (fault == "truncate" and request.method != "GET") or (fault == "409" and not request.creates):
            return None
        return fault

    return plan


def healthy(_: Request) -> None:
    """No faults."""


class FaultProxy:
    """An HTTP proxy before ``target``. ``keys`` sign anew what ``strip`` has changed."""

    def __init__(
        self, target: str, plan: Plan = healthy, keys: tuple[str, str] | None = None, *, stall_s: float = 30.0
    ) -> None:
        self.target, self.plan, self.keys, self.stall_s = target, plan, keys, stall_s
        self.counts: Counter[str] = Counter()
        """Faults by name, as they were done; ``"none"``: requests that passed."""
        self.closing = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def decide(self, method: str, path: str, *, creates: bool) -> str | None:
        with self._lock:
            self._number += 1
            fault = self.plan(Request(self._number, method, path, creates))
            self.counts[fault or "none"] += 1
        return fault


class _Server(ThreadingHTTPServer):
    request_queue_size = 256

    def __init__(self, proxy: FaultProxy) -> None:
        self.proxy = proxy
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request, client_address):
        pass  # a client that went away


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60
    server: _Server

    def setup(self):
        super().setup()
        self.onward = http.client.HTTPConnection(urlsplit(self.server.proxy.target).netloc, timeout=60)

    def finish(self):
        self.onward.close()
        super().finish()

    def log_message(self, *_):
        pass

    def _serve(self):
        proxy = self.server.proxy
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, _, query = self.path.partition("?")
        fault = proxy.decide(self.command, unquote(path), creates="If-None-Match" in self.headers)
        if fault in _CODES:
            said = (
                f"<?xml version='1.0'?><Error><Code>{_CODES[fault]}</Code><Message>planned</Message></Error>".encode()
            )
            self._reply(int(fault), [("Content-Type", "application/xml")], said)
            return
        if fault == "reset before":
            self._cut()
            return
        if fault == "stall":
            proxy.closing.wait(proxy.stall_s)
        if fault == "strip" and self.command == "PUT" and "If-None-Match" in self.headers:
            status, said = signed_request(proxy.target, *proxy.keys, "PUT", unquote(path), query, body)
            self._reply(status, [], said)
            return
        try:
            self.onward.request(self.command, self.path, body, dict(self.headers))
            reply = self.onward.getresponse()
            said = reply.read()
        except (OSError, http.client.HTTPException):  # the service itself is down
            self._cut()
            return
        if fault == "reset after":
            self._cut()
            return
        headers = [(k, v) for k, v in reply.getheaders() if k.lower() not in {"transfer-encoding", "connection"}]
        self._reply(reply.status, headers, said, cut=fault == "truncate")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve

    def _reply(self, status, headers, body, *, cut=False):
        lines = [f"HTTP/1.1 {status} planned", *(f"{k}: {v}" for k, v in headers)]
        if not any(k.lower() == "content-length" for k, _ in headers) and status != 204:
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        self.wfile.write(head + (body[: len(body) // 2] if cut else body))
        if cut:
            self._cut()

    def _cut(self):
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.close()
        self.rfile.close()
        self.connection.close()
