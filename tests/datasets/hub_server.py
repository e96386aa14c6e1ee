"""A server that answers for one dataset as the Hugging Face Hub does: what it is, its files, and their bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


@contextmanager
def serve(root: Path, name: str) -> Iterator[str]:
    """The endpoint that has the files below ``root`` as dataset ``name``."""
    about = f"/api/datasets/{name}"

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            if path.startswith(f"{about}/tree/main"):
                self.tell([_listed(root, file) for file in sorted(root.rglob("*"))])
            elif path == about:
                self.tell({"id": name, "sha": "a" * 40, "private": False, "tags": [], "siblings": []})
            elif path.startswith(f"/datasets/{name}/resolve/main/"):
                self.send_part((root / path.partition("/resolve/main/")[2]).read_bytes())
            else:
                self.answer(b"{}", 404)

        def tell(self, value: object) -> None:
            self.answer(json.dumps(value).encode(), 200)

        def send_part(self, body: bytes) -> None:
            first, last = self.headers["Range"].removeprefix("bytes=").split("-")
            part = body[int(first) : int(last) + 1]
            where = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
            self.answer(part, 206, {"Content-Range": where, "ETag": '"1"'})

        def answer(self, body: bytes, code: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(code)
            for key, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _listed(root: Path, file: Path) -> dict[str, object]:
    kind, size = ("directory", 0) if file.is_dir() else ("file", file.stat().st_size)
    return {"type": kind, "oid": "0" * 40, "size": size, "path": file.relative_to(root).as_posix()}
