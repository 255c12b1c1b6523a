"""Zips as no honest program makes them, built by hand, and small pictures to put into them."""

import io
import struct
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from PIL import Image

FILE, FOLDER, LINK, PIPE, DEVICE = 0o100644, 0o040755, 0o120777, 0o010644, 0o020644


@lru_cache(maxsize=256)
def picture(number: int = 0, kind: str = "PNG", side: int = 8) -> bytes:
    """Return a small picture; each number gives other pixels."""
    noise = np.random.default_rng(number).integers(0, 255, (side, side, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    """Return an ordinary zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@dataclass(frozen=True)
class Member:
    """One entry with whatever is to be told about it; what is None is told truly."""

    name: bytes
    content: bytes = b""
    mode: int = FILE
    method: int = 8
    flags: int = 0
    crc: int | None = None
    unpacked: int | None = None
    packed: int | None = None
    offset: int | None = None
    local_name: bytes | None = None
    extra: bytes = b""


def by_hand(members: Iterable[Member], *, before: bytes = b"", comment: bytes = b"", count: int | None = None) -> bytes:
    """Return a zip of these entries, each told as it says."""
    body, table, number = bytearray(before), bytearray(), 0
    for member in members:
        packed = _deflated(member.content) if member.method == 8 else member.content
        crc = zlib.crc32(member.content) if member.crc is None else member.crc
        told = replace(
            member,
            unpacked=len(member.content) if member.unpacked is None else member.unpacked,
            packed=len(packed) if member.packed is None else member.packed,
            offset=len(body) if member.offset is None else member.offset,
        )
        local_name = member.name if member.local_name is None else member.local_name
        if member.offset is None:
            body += struct.pack(
                "<4s5H3L2H", b"PK\3\4", 20, member.flags, member.method, 0, 0, crc, told.packed, told.unpacked,
                len(local_name), 0,
            )  # fmt: skip
            body += local_name + packed
        table += struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x0314, 20, member.flags, member.method, 0, 0, crc, told.packed, told.unpacked,
            len(member.name), len(member.extra), 0, 0, 0, member.mode << 16, told.offset,
        )  # fmt: skip
        table += member.name + member.extra
        number += 1
    told_count = number if count is None else count
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, told_count, told_count, len(table), len(body), len(comment))
    return bytes(body + table) + end + comment


@lru_cache(maxsize=8)
def _deflated(content: bytes) -> bytes:
    packing = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return packing.compress(content) + packing.flush()
