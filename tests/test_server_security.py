"""The real server: what `streamlit run app.py` answers to those who mean ill, and whether its settings hold."""

import gc
import http.client
import re
import shutil
import sys
import tomllib
import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from playwright.sync_api import Browser
from streamlit import config
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from dlkit.guard import HEADERS
from tests.live_server import REPOSITORY, LiveServer

MAX_TABS, MAX_UPLOAD_MB = 6, 40
FILE_MB = 9


def app_with_page(root: Path, page: str) -> Path:
    """Put the real app.py and settings with one page into `root`: the tests are about the server, not the pages."""
    (root / "pages").mkdir(parents=True)
    (root / "pages" / "shell.py").write_text(page, encoding="utf-8")
    shutil.copy(REPOSITORY / "app.py", root)
    shutil.copytree(REPOSITORY / ".streamlit", root / ".streamlit")
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    environment = {
        "PYTHONPATH": str(REPOSITORY),
        "DLKIT_MAX_SESSIONS_PER_ADDRESS": str(MAX_TABS),
        "DLKIT_MAX_UPLOAD_MB_PER_SESSION": str(MAX_UPLOAD_MB),
    }
    root = app_with_page(folder / "app", "import streamlit as st; st.title('Page')")
    with LiveServer(folder / "home", environment, root) as live:
        yield live


def request(
    server: LiveServer, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
) -> tuple[int, http.client.HTTPMessage, str]:
    """Return status, headers and text of one request."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read().decode(errors="replace")
    finally:
        connection.close()


def open_tab(server: LiveServer, origin: str | None = None) -> ClientConnection:
    """Open a page's websocket as a browser would."""
    return connect(f"ws://127.0.0.1:{server.port}/_stcore/stream", origin=origin or server.url, max_size=None)


def session_of(tab: ClientConnection) -> str:
    """Run the page in this tab and return the id of its session."""
    start = BackMsg()
    start.rerun_script.query_string = ""
    tab.send(start.SerializeToString())
    while True:
        message = ForwardMsg()
        message.ParseFromString(tab.recv(timeout=30))
        if message.WhichOneof("type") == "new_session":
            return message.new_session.initialize.session_id


def put_file(server: LiveServer, session: str, token: str, name: str, size: int) -> int:
    """Upload `size` bytes under `name` and return the status, or 413 if the server hung up on the unread rest."""
    boundary = uuid.uuid4().hex
    disposition = f'Content-Disposition: form-data; name="{name}"; filename="{name}"'
    body = f"--{boundary}\r\n{disposition}\r\n\r\n".encode() + bytes(size) + f"\r\n--{boundary}--\r\n".encode()
    headers = {
        "Content-Type": f"multipart/form-data; boundary={boundary}",
        "X-Xsrftoken": token,
        "Cookie": f"_streamlit_xsrf={token}",
        "Origin": server.url,
    }
    try:
        return request(server, "PUT", f"/_stcore/upload_file/{session}/{name}", headers, body)[0]
    except (BrokenPipeError, ConnectionResetError):
        return 413


def xsrf_token(server: LiveServer) -> str:
    """Return the token that the server gives a browser in a cookie."""
    cookie = request(server, "GET", "/_stcore/health")[1]["Set-Cookie"]
    return re.search(r"_streamlit_xsrf=([^;]+)", cookie)[1]  # type: ignore[index]


def resident_mb(server: LiveServer) -> float:
    """Return the memory of the server process in MB."""
    return psutil.Process(server.process.pid).memory_info().rss / 2**20


@pytest.mark.parametrize("path", ["/", "/train?run=1", "/_stcore/health", "/_stcore/metrics", "/no/such/page"])
def test_answers_carry_the_headers(server: LiveServer, path: str) -> None:
    _, headers, _ = request(server, "GET", path)
    for name, value in HEADERS.items():
        assert headers[name] == value
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]


def test_metrics_are_not_public(server: LiveServer) -> None:
    assert request(server, "GET", "/_stcore/metrics")[0] == 404


def test_it_listens_on_this_machine_only(server: LiveServer) -> None:
    listening = psutil.Process(server.process.pid).net_connections("tcp")
    assert {c.laddr.ip for c in listening if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}


def test_a_name_that_was_made_to_point_here_is_refused(server: LiveServer) -> None:
    evil = {"Host": "evil.example", "Origin": "http://evil.example"}
    for path in ("/", "/_stcore/health", "/media/x.png"):
        assert request(server, "GET", path, evil)[0] == 421
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    assert request(server, "GET", "/_stcore/stream", {**evil, **upgrade, **key})[0] == 403


@pytest.mark.parametrize("origin", ["http://evil.example", "http://localhost:9", "null"])
def test_a_socket_from_another_page_is_refused(server: LiveServer, origin: str) -> None:
    with pytest.raises(InvalidStatus) as refusal:
        open_tab(server, origin)
    assert refusal.value.response.status_code == 403


def test_a_flood_of_sockets_stops_at_the_cap(server: LiveServer) -> None:
    opened, refused = 0, set()
    with ExitStack() as tabs:
        for _ in range(80):
            try:
                tabs.enter_context(open_tab(server))
                opened += 1
            except InvalidStatus as refusal:
                refused.add(refusal.response.status_code)
        status, _, sentence = request(server, "GET", "/", {"Accept": "text/html"})
    assert (opened, refused) == (MAX_TABS, {403})
    assert status == 429
    assert sentence.startswith(f"A network address may open {MAX_TABS} pages.")
    with open_tab(server) as tab:
        assert session_of(tab)


def test_a_flood_of_files_stops_at_the_cap_and_a_removed_file_makes_room(server: LiveServer) -> None:
    token = xsrf_token(server)
    with open_tab(server) as tab:
        session = session_of(tab)
        before = resident_mb(server)
        names = [str(uuid.uuid4()) for _ in range(30)]
        statuses = [put_file(server, session, token, name, FILE_MB * 2**20) for name in names]
        assert statuses == [204] * (MAX_UPLOAD_MB // FILE_MB) + [413] * (30 - MAX_UPLOAD_MB // FILE_MB)
        assert resident_mb(server) - before < 2 * MAX_UPLOAD_MB

        headers = {"X-Xsrftoken": token, "Cookie": f"_streamlit_xsrf={token}"}
        assert request(server, "DELETE", f"/_stcore/upload_file/{session}/{names[0]}", headers)[0] == 204
        assert put_file(server, session, token, str(uuid.uuid4()), FILE_MB * 2**20) == 204
    assert "Traceback" not in server.output()


def test_a_failed_warm_up_is_logged_and_not_fatal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import app
    from dlkit import engine

    def fail() -> None:
        raise OSError("no weights")

    broken = SimpleNamespace(warm_up=fail)
    monkeypatch.setitem(sys.modules, "dlkit.engine.prediction", broken)
    monkeypatch.setattr(engine, "prediction", broken, raising=False)
    app.warm_up()
    gc.unfreeze()
    assert "The warm-up failed" in caplog.text
    assert "no weights" in caplog.text


WIDGETS = """
import numpy as np, pandas as pd, plotly.graph_objects as go, streamlit as st
pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAP///wAAACwAAAAAAQABAAACAkQBADs="
uploaded = st.file_uploader("photo")
st.write("uploaded" if uploaded else "nothing uploaded")
st.image(np.zeros((8, 8, 3), "uint8"))
st.dataframe(pd.DataFrame({"picture": [pixel]}), column_config={"picture": st.column_config.ImageColumn()})
st.line_chart([3, 2, 1])
st.plotly_chart(go.Figure(go.Scatter(y=[1, 2])))
st.latex("x^2")
st.download_button("save", b"text", "name.txt", icon=":material/download:")
js = "export default ({ parentElement }) => { parentElement.querySelector('p').textContent = 'component ran' }"
st.components.v2.component("probe", html="<p></p>", js=js)(key="probe")
st.markdown("![](http://127.0.0.2:9/spy.png)")
"""


@pytest.mark.browser
def test_widgets_work_under_the_policy_and_nothing_outside_is_reached(browser: Browser, tmp_path: Path) -> None:
    root = app_with_page(tmp_path / "app", WIDGETS)
    environment = {"PYTHONPATH": str(REPOSITORY)}
    with LiveServer(tmp_path / "home", environment, root) as server, browser.new_page() as page:
        errors: list[str] = []
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(server.url)
        page.get_by_text("component ran").wait_for()
        page.locator("[data-testid=stVegaLiteChart] svg.marks, [data-testid=stVegaLiteChart] canvas").first.wait_for()
        page.locator(".js-plotly-plot .main-svg").first.wait_for()
        page.locator("[data-testid=stDataFrame] canvas").first.wait_for()
        photo = {"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"}
        page.locator("[data-testid=stFileUploader] input").set_input_files(photo)
        page.get_by_text("uploaded", exact=True).wait_for()
        with page.expect_download() as download:
            page.get_by_role("button", name="save").click()
        assert Path(download.value.path()).read_bytes() == b"text"
        [refused] = set(errors)
    assert "http://127.0.0.2:9/spy.png" in refused
    assert "Content Security Policy" in refused


CONFIG = tomllib.loads((REPOSITORY / ".streamlit" / "config.toml").read_text(encoding="utf-8"))


def test_streamlit_knows_every_key_of_its_config() -> None:
    known = set(config.get_config_options())

    def keys(table: dict[str, object], prefix: str = "") -> Iterator[str]:
        for key, value in table.items():
            if isinstance(value, dict):
                yield from keys(value, f"{prefix}{key}.")
            else:
                yield prefix + key

    assert set(keys(CONFIG)) - known == set()


def luminance(colour: str) -> float:
    """Return the relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours, 1 to 21 (WCAG 2.2)."""
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("mode", ["light", "dark"])
def test_theme_can_be_read(mode: str) -> None:
    theme = CONFIG["theme"][mode]
    for background in (theme["backgroundColor"], theme["secondaryBackgroundColor"]):
        assert contrast(theme["textColor"], background) >= 7
        assert contrast(theme["linkColor"], background) >= 4.5
        assert contrast(theme["primaryColor"], background) >= 3
    assert contrast(theme["primaryColor"], "#ffffff") >= 4.5  # the text of a primary button
    assert min(contrast(colour, theme["backgroundColor"]) for colour in theme["chartCategoricalColors"]) >= 3
