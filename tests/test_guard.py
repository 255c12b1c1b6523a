"""The guard around a small application that keeps uploads as Streamlit does."""

import asyncio
import base64
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import streamlit
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from dlkit.guard import BYTES_PER_FILE, FULL_SESSIONS_PER_ADDRESS, HEADERS, MB, Guard, address_of, page_policy
from dlkit.settings import Settings

ALICE, BOB = "0a" * 18, "0b" * 18  # session ids


@dataclass
class Server:
    """A guarded application, its settings, and the uploads that it holds."""

    settings: Settings
    held: dict[tuple[str, str], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        async def put(request: Request) -> Response:
            size = len(await request.body())
            self.held[request.path_params["session"], request.path_params["file"]] = size
            return Response(status_code=400 if request.headers.get("x-fail") else 204)

        async def delete(request: Request) -> Response:
            self.held.pop((request.path_params["session"], request.path_params["file"]), None)
            return Response(status_code=204)

        async def crash(request: Request) -> Response:
            raise RuntimeError("secret in /home/me/app.py")

        async def stream(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.receive()

        path = "/_stcore/upload_file/{session}/{file}"
        self.app = Starlette(
            routes=[
                Route(path, put, methods=["PUT"]),
                Route(path, delete, methods=["DELETE"]),
                Route("/crash", crash),
                WebSocketRoute("/_stcore/stream", stream),
                Route("/{path:path}", lambda request: PlainTextResponse("page"), methods=["GET", "POST"]),
            ],
            middleware=[
                Middleware(Guard, settings=self.settings, is_held=lambda *file: file in self.held),
            ],
        )

    async def request(
        self,
        method: str = "GET",
        path: str = "/",
        headers: Iterable[tuple[str, str]] = (),
        body: Iterable[bytes] = (b"",),
        address: str = "10.0.0.1",
    ) -> tuple[int, dict[str, str], str]:
        """Return status, headers and text. The body's chunks and the headers are sent as they are, true or not."""
        chunks = list(body)
        messages = [
            {"type": "http.request", "body": chunk, "more_body": i + 1 < len(chunks)} for i, chunk in enumerate(chunks)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        await self._run({"type": "http", "method": method}, path, headers, address, receive, sent)
        start = next(message for message in sent if message["type"] == "http.response.start")
        text = b"".join(message.get("body", b"") for message in sent[1:]).decode()
        return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}, text

    async def put(self, session: str, file: object, size: int, address: str = "10.0.0.1", declare: bool = True) -> int:
        """Upload `size` bytes in chunks of up to 64 KiB and return the status."""
        chunks = [bytes(min(65536, size - at)) for at in range(0, size, 65536)] or [b""]
        headers = [("content-length", str(size))] if declare else []
        status, _, _ = await self.request("PUT", upload(session, file), headers, chunks, address)
        return status

    async def open_tab(
        self, address: str = "10.0.0.1", headers: Iterable[tuple[str, str]] = ()
    ) -> tuple[Any, Callable[[], Awaitable[None]]]:
        """Open a websocket; return the server's first message and a function that closes the tab."""
        closed, sent = asyncio.Event(), []
        opening = [{"type": "websocket.connect"}]

        async def receive() -> Any:
            if opening:
                return opening.pop()
            await closed.wait()
            return {"type": "websocket.disconnect", "code": 1001}

        task = asyncio.create_task(self._run({"type": "websocket"}, "/_stcore/stream", headers, address, receive, sent))
        while not sent:
            await asyncio.sleep(0)

        async def close() -> None:
            closed.set()
            await task

        return sent[0], close

    async def _run(
        self,
        scope: dict[str, Any],
        path: str,
        headers: Iterable[tuple[str, str]],
        address: str,
        receive: Any,
        sent: list,
    ) -> None:
        async def send(message: Any) -> None:
            sent.append(message)

        names = [name for name, _ in headers]
        headers = [*headers, *([] if "host" in names else [("host", "localhost:8501")])]
        scope |= {"path": path, "query_string": b"", "client": (address, 5000), "http_version": "1.1"}
        scope |= {"headers": [(name.encode(), value.encode()) for name, value in headers]}
        await self.app(scope, receive, send)


def upload(session: str, file: object) -> str:
    return f"/_stcore/upload_file/{session}/{file}"


@pytest.fixture
def server() -> Server:
    return Server(Settings(max_sessions_per_address=3, max_upload_mb_per_session=1))


@pytest.mark.parametrize("host", ["localhost", "localhost:8501", "LOCALHOST:1", "127.0.0.1:8501", "[::1]:8501"])
def test_own_names_are_answered(server: Server, host: str) -> None:
    assert asyncio.run(server.request(headers=[("host", host)]))[0] == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "localhost.evil.example",
        "evil.example:8501",
        "evil@localhost",
        "localhost/",
        "localhost:",
        "",
        "::1",
    ],
)
def test_other_names_are_refused_with_a_sentence(server: Server, host: str) -> None:
    status, headers, text = asyncio.run(server.request(headers=[("host", host), ("origin", f"http://{host}")]))
    assert status == 421
    assert "DLKIT_ALLOWED_HOSTS" in text
    assert headers["x-content-type-options"] == "nosniff"


def test_two_host_headers_are_refused(server: Server) -> None:
    assert asyncio.run(server.request(headers=[("host", "localhost"), ("host", "evil.example")]))[0] == 421


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),  # no browser
        ("http://localhost:8501", 200),
        ("https://localhost:8501", 200),  # a proxy in front speaks TLS
        ("http://localhost:9999", 403),  # another server on the same machine
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_only_pages_of_this_host_may_change_anything(server: Server, origin: str | None, status: int) -> None:
    headers = [] if origin is None else [("origin", origin)]
    assert asyncio.run(server.request("POST", headers=headers))[0] == status
    assert (
        asyncio.run(server.request("GET", headers=headers))[0] == 200
    )  # the browser itself keeps the answer from them

    async def first_message() -> Any:
        message, close = await server.open_tab(headers=headers)
        await close()
        return message

    message = asyncio.run(first_message())
    assert message["type"] == ("websocket.accept" if status == 200 else "websocket.close")


def test_every_answer_has_the_headers(server: Server) -> None:
    for path in ("/", "/train", "/_stcore/metrics", "/media/x.svg"):
        _, headers, _ = asyncio.run(server.request(path=path))
        assert {name.lower(): value for name, value in HEADERS.items()}.items() <= headers.items()
        assert "content-security-policy" in headers


def test_policy_names_each_inline_script_of_streamlit_and_no_eval(server: Server) -> None:
    page = (Path(streamlit.__file__).parent / "static" / "index.html").read_text(encoding="utf-8")
    scripts = page.split("<script>")[1:]
    assert scripts
    for script in scripts:
        digest = hashlib.sha256(script.split("</script>")[0].encode()).digest()
        assert f"'sha256-{base64.b64encode(digest).decode()}'" in page_policy()
    assert "eval" not in page_policy()
    assert "unsafe-inline" not in page_policy().split("script-src")[1].split(";")[0]


def test_a_media_file_opened_by_itself_has_no_scripts_and_no_origin(server: Server) -> None:
    policy = asyncio.run(server.request(path="/media/page.html"))[1]["content-security-policy"]
    assert policy.startswith("default-src 'none'")
    assert policy.endswith("sandbox")


@pytest.mark.parametrize("path", ["/_stcore/metrics", "/_stcore/metrics//", "/below/_stcore/metrics"])
def test_metrics_are_not_public(server: Server, path: str) -> None:
    assert asyncio.run(server.request(path=path))[0] == 404


def test_an_error_of_ours_shows_no_traceback_but_reaches_the_log(server: Server) -> None:
    async def crash() -> tuple[int, dict[str, str], str]:
        sent: list[Any] = []
        with pytest.raises(RuntimeError, match="secret"):
            await server._run({"type": "http", "method": "GET"}, "/crash", [], "10.0.0.1", None, sent)
        return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"].decode()

    status, headers, text = asyncio.run(crash())
    assert status == 500
    assert text == "The server made a mistake and wrote it to its log. Try again."
    assert b"content-security-policy" in headers


def test_pages_beyond_the_cap_are_refused_until_one_closes(server: Server) -> None:
    async def scenario() -> None:
        tabs = [await server.open_tab() for _ in range(3)]
        assert [message["type"] for message, _ in tabs] == ["websocket.accept"] * 3
        refused, _ = await server.open_tab()
        assert (refused["type"], refused["code"]) == ("websocket.close", 1013)
        status, headers, text = await server.request(headers=[("accept", "text/html,*/*")])
        assert (status, headers["refresh"]) == (429, "3")
        assert text == "A network address may open 3 pages. Close one, and this one opens by itself."
        assert (await server.request())[0] == 200  # what an open page still has to load
        elsewhere, close_elsewhere = await server.open_tab(address="10.0.0.2")
        assert elsewhere["type"] == "websocket.accept"
        await tabs[0][1]()
        assert (await server.request(headers=[("accept", "text/html")]))[0] == 200
        again, close_again = await server.open_tab()
        assert again["type"] == "websocket.accept"
        for close in (tabs[1][1], tabs[2][1], close_again, close_elsewhere):
            await close()

    asyncio.run(scenario())


@pytest.mark.parametrize("declare", [True, False])
def test_uploads_of_a_session_are_capped_together(server: Server, declare: bool) -> None:
    async def scenario() -> None:
        assert await server.put(ALICE, 1, 400_000, declare=declare) == 204
        assert await server.put(ALICE, 2, 400_000, declare=declare) == 204
        assert await server.put(ALICE, 3, 400_000, declare=declare) == 413
        assert await server.put(ALICE, 4, 100_000, declare=declare) == 204  # what was refused is not counted
        assert await server.put(BOB, 5, 400_000, declare=declare) == 204

    asyncio.run(scenario())


def test_a_declared_length_is_refused_before_a_byte_is_read(server: Server) -> None:
    status, _, text = asyncio.run(server.request("PUT", upload(ALICE, 1), [("content-length", str(2 * MB))], []))
    assert status == 413
    assert text.startswith("One tab may keep 1 MB")


@pytest.mark.parametrize("declared", ["0", "10", "-5", "²", "nonsense", "9" * 5000])
def test_a_lying_length_is_found_out_while_reading(server: Server, declared: str) -> None:
    async def scenario() -> None:
        too_long = await server.request("PUT", upload(ALICE, 1), [("content-length", declared)], [bytes(65536)] * 40)
        assert too_long[0] == 413
        assert not server.held
        assert await server.put(ALICE, 2, 900_000) == 204

    asyncio.run(scenario())


def test_many_empty_files_are_not_free(server: Server) -> None:
    async def scenario() -> None:
        accepted = [await server.put(ALICE, i, 0) for i in range(100)].count(204)
        assert MB // BYTES_PER_FILE - 2 <= accepted <= MB // BYTES_PER_FILE

    asyncio.run(scenario())


def test_a_long_file_id_is_counted(server: Server) -> None:
    async def scenario() -> None:
        accepted = [await server.put(ALICE, f"{i}" + "x" * 60_000, 0) for i in range(40)].count(204)
        assert accepted <= MB // 60_000

    asyncio.run(scenario())


def test_simultaneous_uploads_are_counted_together(server: Server) -> None:
    async def scenario() -> None:
        statuses = await asyncio.gather(*(server.put(ALICE, i, 300_000, declare=i % 2 == 0) for i in range(10)))
        assert 1 <= statuses.count(204) <= 3
        assert set(statuses) == {204, 413}

    asyncio.run(scenario())


def test_removing_a_file_gives_its_bytes_back(server: Server) -> None:
    async def scenario() -> None:
        for i in range(20):
            assert await server.put(ALICE, i, 900_000) == 204
            assert (await server.request("DELETE", upload(ALICE, i)))[0] == 204

    asyncio.run(scenario())


def test_replacing_a_file_counts_it_once(server: Server) -> None:
    async def scenario() -> None:
        assert [await server.put(ALICE, 1, 400_000) for _ in range(10)] == [204] * 10

    asyncio.run(scenario())


def test_a_failed_upload_is_not_counted(server: Server) -> None:
    async def scenario() -> None:
        for i in range(5):
            failed = await server.request("PUT", upload(ALICE, i), [("x-fail", "1")], [bytes(900_000)])
            assert failed[0] == 400
        assert await server.put(ALICE, 9, 900_000) == 204

    asyncio.run(scenario())


def test_the_end_of_a_session_gives_its_bytes_back(server: Server) -> None:
    async def scenario() -> None:
        assert await server.put(ALICE, 1, 900_000) == 204
        assert await server.put(ALICE, 2, 900_000) == 413
        server.held.clear()
        assert await server.put(ALICE, 2, 900_000) == 204

    asyncio.run(scenario())


def test_reopening_the_page_does_not_multiply_the_cap(server: Server) -> None:
    async def scenario() -> None:
        statuses = [await server.put(f"{i:036}", i, 900_000) for i in range(2 * FULL_SESSIONS_PER_ADDRESS)]
        assert statuses == [204] * FULL_SESSIONS_PER_ADDRESS + [413] * FULL_SESSIONS_PER_ADDRESS
        assert await server.put(BOB, 99, 900_000, address="10.0.0.2") == 204

    asyncio.run(scenario())


def test_nothing_is_remembered_of_those_who_have_left(server: Server) -> None:
    async def scenario() -> Guard:
        _, close = await server.open_tab()
        assert await server.put(ALICE, 1, 900_000) == 204
        server.held.clear()
        await close()
        guard = server.app.middleware_stack
        while not isinstance(guard, Guard):
            guard = guard.app  # type: ignore[union-attr]
        return guard

    guard = asyncio.run(scenario())
    assert not guard.sockets
    assert not guard.uploads.booked
    assert not guard.uploads.kept


@pytest.mark.parametrize(
    ("client", "address"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("::ffff:10.1.2.3", "::ffff:10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("a socket file", "a socket file"),
    ],
)
def test_an_ipv6_household_is_one_address(client: str, address: str) -> None:
    assert address_of({"client": (client, 1)}) == address
    assert address_of({"client": None}) == "unknown"
