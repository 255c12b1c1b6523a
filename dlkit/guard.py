"""The door of the server: who may speak to it, how much they may bring, and what a browser may do with its answers.

Pure ASGI around any application: it knows Streamlit's paths, and `app.py` tells it which uploads Streamlit still holds.
A refusal is one plain sentence and never reaches the application. A client that sends no Origin is no browser and is
let in: that check protects people, it is no login. An address is the socket's peer, or what a proxy forwards that
uvicorn trusts: one on this machine always, others by FORWARDED_ALLOW_IPS.
"""

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from pathlib import Path

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dlkit.settings import Settings

MB = 1024 * 1024
BYTES_PER_FILE = 16 * 1024  # what a file costs beside its content, or a million empty ones would be free
FULL_SESSIONS_PER_ADDRESS = 4  # Streamlit keeps a closed tab's files for a while: reopening must not multiply the cap

HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
METRICS_PATH = re.compile(r"/_stcore/metrics/*$")  # who is here and when, without a login
UPLOAD_PATH = re.compile(r"/_stcore/upload_file/([^/]+)/([^/]+)$")
MEDIA_PATH = re.compile(r"(^|/)media/")

# Tried with Streamlit 1.67: without a source, what is named beside it fails. Nothing here needs eval, wasm or workers.
PAGE_POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' blob: {hashes}",  # blob: the JavaScript of components v2; {hashes}: index.html
        "style-src 'self' 'unsafe-inline'",  # every widget
        "img-src 'self' data: blob:",  # data: pictures in tables, icons; blob: upload previews, saving a chart as PNG
        "font-src 'self' data:",  # formulas
        "connect-src 'self' data:",  # 'self' includes the websocket; data: a camera's snapshot
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
# /media/ serves what users and runs made. Opened by itself, such a file is a page without scripts or an origin.
MEDIA_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), payment=(), usb=(), serial=(), midi=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def page_policy() -> str:
    """Return the page's Content-Security-Policy, with a hash of each inline script of the installed Streamlit."""
    spec = find_spec("streamlit")  # finds it without importing it
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("The server needs Streamlit's index.html. Install streamlit.")
    page = (Path(spec.origin).parent / "static" / "index.html").read_bytes()
    digests = [hashlib.sha256(script).digest() for script in re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)]
    return PAGE_POLICY.format(hashes=" ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests))


def address_of(scope: Scope) -> str:
    """Return the client's address; of IPv6 the /64 network, because one household has all of it."""
    host = scope["client"][0] if scope.get("client") else "unknown"
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4 or address.ipv4_mapped:
        return host
    return str(ip_network((int(address), 64), strict=False))


def check_host(headers: Headers, allowed_hosts: tuple[str, ...]) -> str:
    """Return the Host header or raise 421: any name can be made to point here (DNS rebinding), only ours count."""
    hosts = [host.lower() for host in headers.getlist("host")]
    match = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None or match[1] not in allowed_hosts:
        raise HTTPException(
            421, "This server has another name. If this one is right too, list it in DLKIT_ALLOWED_HOSTS."
        )
    return hosts[0]


def check_origin(headers: Headers, host: str) -> None:
    """Raise 403 if a browser says that a page of another host, or of another port, sent this."""
    origin = headers.get("origin")
    if origin is not None and origin.lower().partition("://")[2] != host:
        raise HTTPException(403, "Only a page of this server may do that. Open this server's own address.")


class Uploads:
    """Counts uploaded bytes for each session and each address, in one counter: an id never looks like an address."""

    def __init__(self, max_mb: int, is_held: Callable[[str, str], bool]) -> None:
        self.max_mb = max_mb
        self.is_held = is_held
        self.booked: Counter[str] = Counter()
        self.kept: dict[tuple[str, str], tuple[str, int]] = {}  # (session, file) -> (address, bytes)

    def has_room(self, session: str, address: str, size: int) -> bool:
        """Tell whether `size` more bytes stay within both limits."""
        limits = {session: self.max_mb, address: self.max_mb * FULL_SESSIONS_PER_ADDRESS}
        return all(self.booked[key] + size <= limit * MB for key, limit in limits.items())

    def book(self, session: str, address: str, size: int) -> None:
        """Count `size` more bytes or raise 413, after looking for what Streamlit has dropped meanwhile."""
        if not self.has_room(session, address, size):
            self.drop_gone()
        if not self.has_room(session, address, size):
            raise HTTPException(
                413,
                f"One tab may keep {self.max_mb} MB of uploaded files and all tabs of one network address "
                f"{self.max_mb * FULL_SESSIONS_PER_ADDRESS} MB. Remove files that are no longer needed and try again.",
            )
        self.booked.update({session: size, address: size})

    def give_back(self, session: str, address: str, size: int) -> None:
        """Take back what `book` counted."""
        self.booked.subtract({session: size, address: size})
        self.booked += Counter()  # forgets who has nothing

    def keep(self, session: str, file: str, address: str, size: int) -> None:
        """Note that `size` booked bytes are this file's, in place of what it had before."""
        if (session, file) in self.kept:
            self.give_back(session, *self.kept.pop((session, file)))
        self.kept[session, file] = address, size

    def drop_gone(self) -> None:
        """Give back what Streamlit holds no more: removed files, and a session's some time after its tab closed."""
        for session, file in [key for key in self.kept if not self.is_held(*key)]:
            self.give_back(session, *self.kept.pop((session, file)))


class Guard:
    """ASGI middleware: checks what comes in, counts sockets and uploads, and puts the headers on every answer."""

    def __init__(self, app: ASGIApp, settings: Settings, is_held: Callable[[str, str], bool]) -> None:
        self.app = app
        self.allowed_hosts = tuple(host.lower() for host in settings.allowed_hosts)
        self.max_sockets = settings.max_sessions_per_address
        self.sockets: Counter[str] = Counter()
        self.uploads = Uploads(settings.max_upload_mb_per_session, is_held)
        self.page_policy = page_policy()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on or refuse; of an unexpected error the client gets one sentence and the log the traceback."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        policy = MEDIA_POLICY if MEDIA_PATH.search(scope["path"]) else self.page_policy
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            started = True
            if message["type"].endswith("http.response.start"):
                MutableHeaders(scope=message).update({**HEADERS, "Content-Security-Policy": policy})
            await send(message)

        try:
            await self.admit(scope, receive, send_with_headers)
        except HTTPException as refusal:
            await refuse(refusal, scope, receive, send_with_headers)
        except Exception:
            if scope["type"] == "http" and not started:
                sorry = HTTPException(500, "The server made a mistake and wrote it to its log. Try again.")
                await refuse(sorry, scope, receive, send_with_headers)
            raise

    async def admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Make the checks for this kind of request, then pass it on."""
        headers = Headers(scope=scope)
        host = check_host(headers, self.allowed_hosts)
        if scope["type"] == "websocket" or scope["method"] not in SAFE_METHODS:
            check_origin(headers, host)
        if METRICS_PATH.search(scope["path"]):
            raise HTTPException(404, "There is nothing here.")
        upload = UPLOAD_PATH.search(scope["path"])
        if scope["type"] == "websocket":
            await self.open_socket(scope, receive, send)
        elif upload and scope["method"] == "PUT":
            await self.receive_file(upload[1], upload[2], scope, receive, send)
        else:
            if "text/html" in headers.get("accept", ""):  # a page is being opened
                self.check_seat(address_of(scope))
            await self.app(scope, receive, send)

    def check_seat(self, address: str) -> None:
        """Raise 429 if this address has all its pages open; a browser then asks again by itself.

        It must: when the last page allowed is reloaded, its old socket is still open.
        """
        if self.sockets[address] >= self.max_sockets:
            sentence = f"A network address may open {self.max_sockets} pages. Close one, and this one opens by itself."
            raise HTTPException(429, sentence, {"Refresh": "3"})

    async def open_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run one websocket, which is one open page, unless its address has too many."""
        address = address_of(scope)
        self.check_seat(address)
        self.sockets[address] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.sockets.subtract([address])
            self.sockets += Counter()  # forgets who has none
            self.uploads.drop_gone()

    async def receive_file(self, session: str, file: str, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one file on: what was declared is booked before a byte is read, what comes beyond it as it comes."""
        address = address_of(scope)
        declared = Headers(scope=scope).get("content-length", "")
        received = BYTES_PER_FILE + len(session) + len(file)
        booked = 0

        def book_up_to(size: int) -> None:
            nonlocal booked
            if size > booked:
                self.uploads.book(session, address, size - booked)
                booked = size

        async def counted_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            book_up_to(received)
            return message

        async def send_and_keep(message: Message) -> None:
            nonlocal booked
            if message["type"] == "http.response.start" and message["status"] < 300:
                self.uploads.keep(session, file, address, booked)
                booked = 0
            await send(message)

        try:
            book_up_to(received + (int(declared) if re.fullmatch("[0-9]{1,15}", declared) else 0))
            await self.app(scope, counted_receive, send_and_keep)
        finally:
            self.uploads.give_back(session, address, booked)


async def refuse(refusal: HTTPException, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the sentence; a websocket is not opened (uvicorn answers 403), for no page shows why it was not."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1013, "reason": refusal.detail})
    else:
        await PlainTextResponse(refusal.detail, refusal.status_code, refusal.headers)(scope, receive, send)
