"""Fetch one file of the catalog from the internet: resumable, checked, and visible only when it is whole.

While it arrives a file is called NAME.part, with NAME.part.json beside it to say which version of which address it is
a part of. It knows nothing of what is in the file.
"""

import hashlib
import http.client
import json
import os
import re
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from dlkit import files, locks
from dlkit.catalog.datasets import DATASETS
from dlkit.catalog.remote import RemoteFile
from dlkit.errors import DiskFullError, DownloadError, OfflineError
from dlkit.settings import settings

CHUNK_BYTES = 1 << 18
LOCK_POLL_SECONDS = 0.5
_NETWORK_ERRORS = (OSError, http.client.HTTPException)  # URLError, timeouts and refused connections are OSErrors


@dataclass(frozen=True)
class FetchProgress:
    """How far a file has come; `phase` is "waiting" (for another process), "fetching", "checking" or "unpacking".

    `total_bytes` is None where the server does not tell.
    """

    name: str
    done_bytes: int
    total_bytes: int | None
    phase: str = "fetching"


def fetch(file: RemoteFile, folder: Path, *, timeout_seconds: float | None = None) -> Iterator[FetchProgress]:
    """Bring `folder / file.name` there, whole and with the right digest, or raise and leave a part to go on from.

    To cancel is to stop asking: the part stays. `timeout_seconds` is the longest silence of the server (None: the
    setting). Raises OfflineError when the server cannot be reached or falls silent, DownloadError when it refuses
    and when the file is not the expected one, DiskFullError when there is no room for it.
    """
    timeout = settings().download_timeout_seconds if timeout_seconds is None else timeout_seconds
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    with (yield from take_lock(folder / f".{file.name}.lock", file.name)):
        if file.digest and target.exists() and not _digest_problem(file, target):
            return
        part = folder / f"{file.name}.part"
        yield from _receive(file, part, timeout)
        yield FetchProgress(file.name, part.stat().st_size, part.stat().st_size, "checking")
        if problem := _digest_problem(file, part):
            _discard(part)
            raise DownloadError(problem)
        os.replace(part, target)
        _state_path(part).unlink(missing_ok=True)


def take_lock(path: Path, name: str) -> Generator[FetchProgress, None, IO[bytes]]:
    """Return the lock, held until it is closed; yield "waiting" while another process has it."""
    while (lock := locks.try_lock(path)) is None:
        yield FetchProgress(name, 0, None, "waiting")
        time.sleep(LOCK_POLL_SECONDS)
    return lock


def _receive(file: RemoteFile, part: Path, timeout: float) -> Iterator[FetchProgress]:
    """Append what is missing to the part."""
    _check_space(file, part)
    with _request(file, part, timeout) as response:
        if response.status == 206 and _range_start(response) == _size(part):
            mode = "ab"
        elif response.status == 200:
            mode = "wb"
        elif response.status == 416 and response.headers["Content-Range"] == f"bytes */{_size(part)}":
            return  # nothing was missing but the check
        else:
            _discard(part)
            raise DownloadError(f"{_host(file)} sent another piece of {file.name} than was asked for. Start it again.")
        _state_path(part).write_text(json.dumps(_version(file, response)))
        done = _size(part) if mode == "ab" else 0
        total = _total_bytes(response, done)
        with part.open(mode) as output:
            for chunk in _chunks(file, response, timeout):
                _write(file, output, chunk)
                done += len(chunk)
                yield FetchProgress(file.name, done, total)
            os.fsync(output.fileno())
    if total is not None and done < total:
        raise DownloadError(
            f"The connection to {_host(file)} broke after {done / 1e6:,.1f} of {total / 1e6:,.1f} MB of {file.name}. "
            "Start it again: it goes on from there."
        )


class _SafeRedirects(HTTPRedirectHandler):
    """Follow a redirect to https, or within the same scheme, and to nothing else."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):  # type: ignore[no-untyped-def]
        if urlsplit(newurl).scheme not in ("https", req.type):
            raise HTTPError(req.full_url, code, "redirect to an insecure address", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _request(file: RemoteFile, part: Path, timeout: float) -> Any:
    """Return the open response: 200, 206, or the 416 that answers a range beyond the end."""
    headers = {"User-Agent": "dlkit"} | _range_headers(file, part)
    try:
        return build_opener(_SafeRedirects).open(Request(file.url, headers=headers), timeout=timeout)
    except HTTPError as error:
        if error.code == 416:
            return error
        raise DownloadError(
            f"{_host(file)} refused {file.name} (HTTP {error.code}: {error.reason}). Try again later; if it stays so, "
            f"the file has moved: {file.url}"
        ) from error
    except _NETWORK_ERRORS as error:
        raise _offline(file, error, timeout) from error


def _chunks(file: RemoteFile, response: Any, timeout: float) -> Iterator[bytes]:
    try:
        while chunk := response.read1(CHUNK_BYTES):
            yield chunk
    except _NETWORK_ERRORS as error:
        raise _offline(file, error, timeout) from error


def _write(file: RemoteFile, output: IO[bytes], chunk: bytes) -> None:
    try:
        output.write(chunk)
        output.flush()  # so that a full disk is noticed here
    except OSError as error:
        if error.errno in files.FULL:
            raise _disk_full(file, Path(output.name)) from error
        raise


def _offline(file: RemoteFile, error: Exception, timeout: float) -> OfflineError:
    reason = error.reason if isinstance(error, URLError) else error
    why = f"no connection to {_host(file)}"
    if isinstance(reason, TimeoutError):
        why = f"{_host(file)} was silent for {timeout:g} seconds"
    local = ", ".join(entry.name for entry in DATASETS.values() if not entry.files)
    return OfflineError(
        f"{file.name} cannot be fetched: {why}. Check the network and start it again; what has arrived is kept. "
        f"These data sets work without network: {local}."
    )


def _host(file: RemoteFile) -> str:
    return urlsplit(file.url).hostname or file.url


def _check_space(file: RemoteFile, part: Path) -> None:
    if file.size_mb * 1e6 - _size(part) > files.free_bytes(part.parent):
        raise _disk_full(file, part)


def _disk_full(file: RemoteFile, part: Path) -> DiskFullError:
    """Return the error that says how much room the rest of the file needs: at least one MB, as its size is rounded."""
    return files.disk_full(part.parent, max(10**6, round(file.size_mb * 1e6) - _size(part)), file.name)


def _range_headers(file: RemoteFile, part: Path) -> dict[str, str]:
    """Ask for the rest of the part if it is a part of this address (RFC 9110, sections 13.1.5 and 14.2)."""
    try:
        state = json.loads(_state_path(part).read_text())
    except (OSError, ValueError):
        return {}
    if not _size(part) or state.get("url") != file.url:
        return {}
    headers = {"Range": f"bytes={_size(part)}-"}
    return headers | ({"If-Range": state["validator"]} if state.get("validator") else {})


def _version(file: RemoteFile, response: Any) -> dict[str, str]:
    """Describe the version that arrives, for If-Range: a weak ETag is not allowed there."""
    entity_tag = response.headers["ETag"] or ""
    validator = response.headers["Last-Modified"] if entity_tag.startswith("W/") or not entity_tag else entity_tag
    return {"url": file.url, "validator": validator or ""}


def _range_start(response: Any) -> int | None:
    found = re.match(r"bytes (\d+)-", response.headers["Content-Range"] or "")
    return int(found.group(1)) if found else None


def _total_bytes(response: Any, done: int) -> int | None:
    length = response.headers["Content-Length"]
    return done + int(length) if length and length.isdigit() else None


def _digest_problem(file: RemoteFile, path: Path) -> str:
    """Return what is wrong with the file's content, or an empty string; nothing is known where there is no digest."""
    if not file.digest:
        return ""
    kind, _, expected = file.digest.partition(":")
    with path.open("rb") as content:
        found = hashlib.file_digest(content, kind).hexdigest()
    if len(expected) >= 8 and found.startswith(expected.lower()):
        return ""
    return (
        f"{file.name} is not the file that was expected: its {kind} must begin with {expected[:8]}, "
        f"it is {found[:8]}. It was deleted. Fetch it again; if it stays so, the file at {_host(file)} has changed."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _state_path(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state_path(part).unlink(missing_ok=True)
