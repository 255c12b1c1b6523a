"""A file server on the loopback address that can misbehave as real ones do."""

import hashlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class FileServer:
    """Serve the files of a folder; use as a context manager. The attributes are switches, read at every request.

    ignore_range    answer 200 with the whole file whatever was asked
    drop_after      close the connection after this many bytes of a body
    status          answer this status and nothing else
    hang_seconds    be silent so long before the body
    redirect_to     send the client to this address
    send_validators name the version by ETag and honour If-Range
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ignore_range = False
        self.drop_after: int | None = None
        self.status: int | None = None
        self.hang_seconds = 0.0
        self.redirect_to: str | None = None
        self.send_validators = True
        self.requests: list[tuple[str, str | None]] = []  # (path, Range header)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._server.block_on_close = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "FileServer":
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        switches = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                switches.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        self.requests.append((request.path, request.headers["Range"]))
        path = self.folder / request.path.lstrip("/")
        if self.redirect_to:
            request.send_response(302)
            request.send_header("Location", self.redirect_to)
            request.end_headers()
        elif self.status or not path.is_file():
            request.send_error(self.status or 404)
        else:
            self._send(request, path.read_bytes())

    def _send(self, request: BaseHTTPRequestHandler, content: bytes) -> None:
        version = f'"{hashlib.md5(content).hexdigest()}"'
        wanted = request.headers["Range"]
        same = request.headers["If-Range"] in (None, version)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and same and not self.ignore_range else 0
        if start and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.send_validators:
            request.send_header("ETag", version)
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        time.sleep(self.hang_seconds)
        request.wfile.write(content[start:][: self.drop_after])
