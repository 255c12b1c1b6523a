"""Fetching from a server on the loopback address that misbehaves in every way we know."""

import hashlib
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from dlkit import files
from dlkit.catalog.remote import RemoteFile
from dlkit.data import fetch as fetch_module
from dlkit.data.fetch import FetchProgress, fetch
from dlkit.errors import DiskFullError, DownloadError, OfflineError
from tests.file_server import FileServer

CONTENT = np.random.default_rng(0).bytes(1_000_000)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "big.bin").write_bytes(CONTENT)
    with FileServer(tmp_path / "served") as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "fetched"


def remote(server: FileServer, digest: str = "", name: str = "big.bin") -> RemoteFile:
    return RemoteFile(f"{server.url}/{name}", name, digest or "md5:" + hashlib.md5(CONTENT).hexdigest(), 1.0)


def fetch_all(file: RemoteFile, folder: Path, timeout_seconds: float = 5) -> list[FetchProgress]:
    return list(fetch(file, folder, timeout_seconds=timeout_seconds))


def visible(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def interrupt(server: FileServer, folder: Path, after: int = 400_000) -> None:
    server.drop_after = after
    with pytest.raises(DownloadError, match="goes on from there"):
        fetch_all(remote(server), folder)
    server.drop_after = None


def test_file_arrives_whole_and_nothing_else_stays(server, folder):
    progress = fetch_all(remote(server), folder)
    assert (folder / "big.bin").read_bytes() == CONTENT
    assert visible(folder) == {"big.bin"}
    received = [step for step in progress if step.phase == "fetching"]
    assert [step.done_bytes for step in received] == sorted({step.done_bytes for step in received})
    assert received[-1].done_bytes == received[-1].total_bytes == len(CONTENT)


@pytest.mark.parametrize("kind", ["md5", "sha256"])
def test_both_digests_and_a_prefix_are_accepted(server, folder, kind):
    digest = hashlib.new(kind, CONTENT).hexdigest()
    fetch_all(remote(server, f"{kind}:{digest[: 8 if kind == 'sha256' else None]}"), folder)
    assert (folder / "big.bin").exists()


def test_whole_file_is_not_fetched_twice(server, folder):
    fetch_all(remote(server), folder)
    fetch_all(remote(server), folder)
    assert len(server.requests) == 1


def test_broken_connection_is_resumed_where_it_broke(server, folder):
    interrupt(server, folder)
    assert visible(folder) == {"big.bin.part", "big.bin.part.json"}
    fetch_all(remote(server), folder)
    assert server.requests[-1] == ("/big.bin", "bytes=400000-")
    assert (folder / "big.bin").read_bytes() == CONTENT


def test_resumes_without_a_named_version(server, folder):
    server.send_validators = False
    interrupt(server, folder)
    fetch_all(remote(server), folder)
    assert server.requests[-1][1] == "bytes=400000-"
    assert (folder / "big.bin").read_bytes() == CONTENT


def test_closed_generator_leaves_a_part_to_resume(server, folder):
    steps = fetch(remote(server), folder, timeout_seconds=5)
    done = next(steps).done_bytes
    steps.close()
    assert visible(folder) == {"big.bin.part", "big.bin.part.json"}
    assert (folder / "big.bin.part").stat().st_size == done < len(CONTENT)
    fetch_all(remote(server), folder)
    assert server.requests[-1][1] == f"bytes={done}-"
    assert (folder / "big.bin").read_bytes() == CONTENT


def test_starts_over_when_the_server_ignores_ranges(server, folder):
    interrupt(server, folder)
    server.ignore_range = True
    fetch_all(remote(server), folder)
    assert (folder / "big.bin").read_bytes() == CONTENT


def test_starts_over_when_the_file_has_changed(server, folder):
    interrupt(server, folder)
    changed = CONTENT[::-1]
    (server.folder / "big.bin").write_bytes(changed)
    fetch_all(remote(server, "md5:" + hashlib.md5(changed).hexdigest()), folder)
    assert (folder / "big.bin").read_bytes() == changed


def test_part_of_another_address_is_not_continued(server, folder):
    interrupt(server, folder)
    (server.folder / "moved").mkdir()
    (server.folder / "moved" / "big.bin").write_bytes(CONTENT)
    file = remote(server)
    fetch_all(RemoteFile(f"{server.url}/moved/big.bin", file.name, file.digest, file.size_mb), folder)
    assert server.requests[-1] == ("/moved/big.bin", None)


def test_part_that_lacks_nothing_is_only_checked(server, folder):
    interrupt(server, folder)
    (folder / "big.bin.part").write_bytes(CONTENT)
    fetch_all(remote(server), folder)
    assert (folder / "big.bin").read_bytes() == CONTENT


def test_part_longer_than_the_file_is_thrown_away(server, folder):
    interrupt(server, folder)
    (folder / "big.bin.part").write_bytes(CONTENT + b"more")
    with pytest.raises(DownloadError, match="Start it again"):
        fetch_all(remote(server), folder)
    fetch_all(remote(server), folder)
    assert (folder / "big.bin").read_bytes() == CONTENT


def test_wrong_content_is_deleted_and_both_digests_are_named(server, folder):
    with pytest.raises(DownloadError, match=rf"must begin with 00000000, it is {hashlib.md5(CONTENT).hexdigest()[:8]}"):
        fetch_all(remote(server, "md5:" + "0" * 32), folder)
    assert visible(folder) == set()


def test_damaged_part_is_found_out_by_the_digest(server, folder):
    interrupt(server, folder)
    (folder / "big.bin.part").write_bytes(bytes(400_000))
    with pytest.raises(DownloadError, match="not the file that was expected"):
        fetch_all(remote(server), folder)
    fetch_all(remote(server), folder)
    assert (folder / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_refusal_names_its_status(server, folder, status):
    server.status = status
    with pytest.raises(DownloadError, match=f"refused big.bin \\(HTTP {status}") as caught:
        fetch_all(remote(server), folder)
    assert not isinstance(caught.value, OfflineError)


def test_silent_server_counts_as_offline(server, folder):
    server.hang_seconds = 2
    with pytest.raises(OfflineError, match=r"127\.0\.0\.1 was silent for 0\.2 seconds"):
        fetch_all(remote(server), folder, timeout_seconds=0.2)


def test_refused_connection_tells_what_works_without_network(folder):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        file = RemoteFile(f"http://127.0.0.1:{unused.getsockname()[1]}/x.bin", "x.bin", "md5:" + "0" * 32, 1)
        with pytest.raises(OfflineError, match=r"x\.bin cannot be fetched: no connection to 127.*flowers-mini, "):
            fetch_all(file, folder)


def test_unknown_host_counts_as_offline(folder):
    file = RemoteFile("https://no-such-host.invalid/x.bin", "x.bin", "md5:" + "0" * 32, 1)
    with pytest.raises(OfflineError, match=r"no connection to no-such-host\.invalid"):
        fetch_all(file, folder)


def test_redirect_within_the_scheme_is_followed(server, folder, tmp_path):
    with FileServer(server.folder) as first:
        first.redirect_to = f"{server.url}/big.bin"
        fetch_all(remote(first), folder)
    assert (folder / "big.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("address", ["ftp://127.0.0.1/big.bin", "file:///etc/hostname"])
def test_redirect_to_another_scheme_is_refused(server, folder, address):
    server.redirect_to = address
    with pytest.raises(DownloadError, match="HTTP 302"):
        fetch_all(remote(server), folder)


def test_redirect_from_https_to_http_is_refused():
    request = fetch_module.Request("https://example.org/a")
    with pytest.raises(fetch_module.HTTPError, match="insecure"):
        fetch_module._SafeRedirects().redirect_request(request, None, 302, "", {}, "http://example.org/a")


def test_full_disk_is_said_before_anything_is_asked(server, folder, monkeypatch):
    monkeypatch.setattr(files, "free_bytes", lambda _: 10_000)
    with pytest.raises(DiskFullError, match=r"^Disk full: 0 MB free, 1 MB needed for big\.bin\. Make room\.$"):
        fetch_all(remote(server), folder)
    assert server.requests == []


def test_disk_that_fills_up_on_the_way_is_said(server):
    with open("/dev/full", "wb", buffering=0) as full, pytest.raises(DiskFullError, match="1 MB needed for big"):
        fetch_module._write(remote(server), full, b"x")
