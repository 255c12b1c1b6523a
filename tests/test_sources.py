"""What is to be imported is listed and read without trust: archives, folders, uploads, and every name in them."""

import io
import os
import struct
import tarfile
import time
import zipfile
import zlib
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from dlkit.data.sources import Folder, LeftOut, Loose, Source, shown, shown_part
from dlkit.data.zips import Zip
from dlkit.errors import DatasetError, ImageError
from dlkit.settings import settings
from tests.archive_maker import DEVICE, FOLDER, LINK, PIPE, Member, by_hand, picture, zipped

LIMIT = 10_000_000


def opened(data: bytes) -> Zip:
    return Zip(io.BytesIO(data), "photos.zip")


def names(source: Source) -> list[str]:
    return [file.name for file in source.files]


def reasons(source: Source) -> dict[str, tuple[str, ...]]:
    return {one.reason: one.names for one in source.left_out}


def refusal(data: bytes) -> str:
    started = time.perf_counter()
    with pytest.raises(DatasetError) as caught:
        opened(data)
    assert time.perf_counter() - started < 2
    sentence = str(caught.value)
    assert sentence.startswith("photos.zip ")
    assert sentence.endswith(".")
    assert sentence.count(". ") >= 1, "what, and what to do"
    return sentence


@pytest.fixture(autouse=True)
def _fresh_settings(home):
    """The limits are the defaults."""


# Archives that are read


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_ordinary_archive_is_read(method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.mkdir("cat")
        archive.writestr("cat/1.png", picture(1))
        archive.writestr("dog/2.png", picture(2))
        archive.writestr("dog/empty.png", b"")
        archive.comment = b"PK\5\6 a comment that looks like an end"
    source = opened(buffer.getvalue())
    assert names(source) == ["cat/1.png", "dog/2.png", "dog/empty.png"]
    assert [source.read(file, LIMIT) for file in source.files] == [picture(1), picture(2), b""]
    assert source.left_out == ()


def test_archive_that_was_written_as_a_stream_and_one_in_the_form_for_large_ones_are_read():
    class Pipe(io.RawIOBase):
        def __init__(self) -> None:
            self.data = bytearray()

        def writable(self) -> bool:
            return True

        def write(self, data) -> int:
            self.data += data
            return len(data)

    pipe = Pipe()
    with (
        zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("cat/1.png", "w", force_zip64=True) as entry,
    ):
        entry.write(picture(1))
    source = opened(bytes(pipe.data))
    assert source.read(source.files[0], LIMIT) == picture(1)

    data = by_hand([Member(b"a.png", picture(1))])
    size, begin = struct.unpack("<2L", data[-10:-2])
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, begin)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(data) - 22, 1)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    source = opened(data[:-22] + record + locator + end)
    assert source.read(source.files[0], LIMIT) == picture(1)


def test_entry_in_the_form_for_large_ones_is_read():
    sizes = struct.pack("<2H2Q", 1, 16, len(picture(1)), len(picture(1)))
    member = Member(b"a.png", picture(1), method=0, packed=0xFFFFFFFF, unpacked=0xFFFFFFFF, extra=sizes)
    source = opened(by_hand([member]))
    assert source.read(source.files[0], LIMIT) == picture(1)


def test_names_are_read_in_every_encoding():
    unicode_path = struct.pack("<BL", 1, zlib.crc32("Löwe".encode("cp850"))) + "Löwe".encode()
    source = opened(
        by_hand(
            [
                Member("花/1.png".encode(), picture(1), flags=0x800),
                Member("é.png".encode("cp437"), picture(2)),
                Member(b"\xff\xfe.png", picture(3), flags=0x800),
                Member(
                    "Löwe".encode("cp850"),
                    picture(4),
                    extra=struct.pack("<2H", 0x7075, len(unicode_path)) + unicode_path,
                ),
            ]
        )
    )
    assert {"花/1.png", "é.png", "Löwe"} < set(names(source))
    assert len(source.files) == 4


def test_what_systems_leave_in_archives_is_passed_over():
    junk = {"__MACOSX/cat/._1.png": b"x", "cat/.DS_Store": b"x", "Thumbs.db": b"x", "cat/desktop.ini": b"x"}
    source = opened(zipped({"cat/1.png": picture(1), **junk}))
    assert names(source) == ["cat/1.png"]
    assert source.left_out == ()


# Entries that are left out


@pytest.mark.parametrize(
    "name",
    [
        "../evil.png",
        "cat/../../evil.png",
        "..\\evil.png",
        "cat\\..\\..\\evil.png",
        "/etc/evil.png",
        "\\evil.png",
        "C:/evil.png",
        "c:evil.png",
        "//server/share/evil.png",
        "\\\\server\\evil.png",
        "cat/evil.png\0.txt",
        "",
    ],
)
def test_name_that_leads_elsewhere_is_left_out(name):
    source = opened(by_hand([Member(name.encode(), picture(1)), Member(b"cat/1.png", picture(2))]))
    assert names(source) == ["cat/1.png"]
    assert list(reasons(source)) == ["have a name that leads out of its folder"]


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (Member(b"a.png", b"/etc/passwd", mode=LINK), "link elsewhere"),
        (Member(b"a.png", mode=PIPE), "have no content to be read"),
        (Member(b"a.png", mode=DEVICE), "have no content to be read"),
        (Member(b"a.png", picture(1), flags=1), "are encrypted"),
        (Member(b"a.png", picture(1), method=99), "are encrypted"),
        (Member(b"a.png", picture(1), method=14), "are packed in a way that is not read here"),
        (Member(b"a.png", picture(1), method=1234), "are packed in a way that is not read here"),
        (Member(b"a.png", picture(1), method=0, unpacked=1), "are damaged"),
        (Member(b"a/" * 40 + b"1.png", picture(1)), "have a name of more than 1,000 letters or 20 folders"),
        (Member(b"a" * 5000 + b".png", picture(1)), "have a name of more than 1,000 letters or 20 folders"),
    ],
)
def test_entry_that_is_no_plain_file_is_left_out(member, reason):
    source = opened(by_hand([member, Member(b"b.png", picture(2)), Member(b"folder/", mode=FOLDER)]))
    assert names(source) == ["b.png"]
    assert list(reasons(source)) == [reason]


@pytest.mark.parametrize(
    "member",
    [
        Member(b"a.png", picture(1), crc=1),
        Member(b"a.png", picture(1), unpacked=10),
        Member(b"a.png", picture(1), unpacked=100_000),
        Member(b"a.png", bytes(50_000_000), unpacked=100),
        Member(b"a.png", picture(1), packed=10),
        Member(b"a.png", picture(1), local_name=b"b.png"),
        Member(b"a.png", bytes(9_000_000), method=0, unpacked=9_000_000, crc=5),
    ],
)
def test_entry_that_lies_is_damaged_and_the_others_are_read(member):
    source = opened(by_hand([member, Member(b"z.png", picture(2))]))
    with pytest.raises(ImageError, match="damaged in the archive") as caught:
        source.read(source.files[0], LIMIT)
    assert caught.value.reason == "are damaged"
    assert source.read(source.files[1], LIMIT) == picture(2)


def test_entry_beyond_the_limit_is_not_unpacked():
    source = opened(by_hand([Member(b"a.png", bytes(20_000_000))]))
    with pytest.raises(ImageError, match=r"larger than 10 MB"):
        source.read(source.files[0], LIMIT)


# Archives that are refused


def test_cut_off_archive_is_refused():
    data = zipped({f"cat/{number}.png": picture(number) for number in range(20)})
    for share in (0.2, 0.5, 0.9, 0.999):
        assert "is damaged or cut off" in refusal(data[: int(len(data) * share)])


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "is empty"),
        (b"hello", "is no zip archive"),
        (picture(1), "is no zip archive"),
        (picture(1) + zipped({"a.png": picture(1)}), "has something else before the archive"),
        (b"MZ" + bytes(500) + zipped({"a.png": picture(1)}), "has something else before the archive"),
        (by_hand([Member(b"a.png", picture(1))], before=b"PK\3\4 not told of"), ""),
        (b"Rar!\x1a\7\1\0" + bytes(50), "is a RAR archive. Only zip is read"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(50), "is a 7z archive"),
        (b"\x1f\x8b\x08" + bytes(50), "is a gzip file"),
        (b"BZh9" + bytes(50), "is a bzip2 file"),
        (b"\xfd7zXZ\0" + bytes(50), "is an xz file"),
        (zipped({"a.png": picture(1)}) + b"something behind", "is damaged or cut off"),
        (by_hand([Member(b"a.png", picture(1))], count=2), "is damaged or cut off"),
        (by_hand([Member(b"a.png", picture(1))], count=0), "is damaged or cut off"),
        (by_hand([Member(b"b.png"), Member(b"a.png", picture(1), offset=900_000)]), "lie over each other"),
    ],
)
def test_what_is_no_plain_archive_is_refused_with_advice(data, what):
    if what:
        assert what in refusal(data)
    else:
        assert names(opened(data)) == ["a.png"]  # a gap does no harm


def test_tar_is_refused_with_advice():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("cat/1.png"))
    assert "is a tar archive. Only zip is read: unpack it" in refusal(buffer.getvalue())


def test_part_of_a_split_archive_is_refused():
    data = bytearray(zipped({"a.png": picture(1)}))
    data[-18:-16] = b"\1\0"
    assert "is one of several parts" in refusal(bytes(data))


def test_entries_over_each_other_refuse_the_archive():
    """As in the bomb of David Fifield, 2019: one packed kernel is told to be the content of every entry."""
    kernel = Member(b"0.png", bytes(1_000_000))
    copies = [Member(b"%d.png" % number, bytes(1_000_000), offset=0) for number in range(1, 2000)]
    assert "has entries that lie over each other" in refusal(by_hand([kernel, *copies]))


def test_bomb_by_ratio_is_refused():
    members = [Member(b"%d.png" % number, bytes(50_000_000)) for number in range(20)]
    assert "would unpack from 1.0 to 1,000 MB; the limit is 100 times its size" in refusal(by_hand(members))


def test_too_many_files_are_refused_by_the_table_alone():
    data = by_hand([Member(b"%d.png" % number, b"x", method=0) for number in range(60_008)])
    assert "has 60,008 files; the limit is 50,000. Split it" in refusal(data)
    told = by_hand([Member(b"a.png")], count=65_534)
    assert "is damaged" in refusal(told)


def test_limit_of_files_is_a_setting(monkeypatch):
    monkeypatch.setenv("DLKIT_IMPORT_FILES", "2")
    settings.cache_clear()
    assert "has 3 files; the limit is 2" in refusal(zipped({f"{number}.png": b"" for number in range(3)}))


def test_archive_in_an_archive_is_a_file_like_another():
    data = zipped({"a.png": picture(1)})
    for _ in range(4):
        data = zipped({"inner.zip": data})
    assert names(opened(data)) == ["inner.zip"]


def test_no_hostile_archive_takes_memory():
    process, bombs = psutil.Process(), []
    bombs.append(by_hand([Member(b"a.png", bytes(1 << 30), unpacked=100)]))
    bombs.append(by_hand([Member(b"%d.png" % number, bytes(9_999_999)) for number in range(19)]))
    before = process.memory_info().rss
    for bomb in bombs:
        source = opened(bomb)
        for file in source.files:
            with suppress(ImageError):
                source.read(file, LIMIT)
    assert process.memory_info().rss - before < 300 << 20


# Folders and uploads


def test_folder_is_listed_without_following_links(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(picture(1))
    (tmp_path / "cat" / ".hidden").write_bytes(b"")
    (tmp_path / "secret.png").symlink_to("/etc/passwd")
    (tmp_path / "loop").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "pipe.png")
    source = Folder(tmp_path)
    assert names(source) == ["cat/1.png"]
    assert source.read(source.files[0], LIMIT) == picture(1)
    assert reasons(source) == {"link elsewhere": ("loop", "secret.png"), "have no content to be read": ("pipe.png",)}


def test_folders_beyond_measure_are_not_entered_and_said(tmp_path):
    deep = tmp_path / Path(*["a"] * 40)
    deep.mkdir(parents=True)
    (deep / "1.png").write_bytes(picture(1))
    source = Folder(tmp_path)
    assert source.files == ()
    assert list(reasons(source)) == ["lie deeper than 20 folders"]


def test_file_that_became_a_link_since_is_not_read(tmp_path):
    path = tmp_path / "1.png"
    path.write_bytes(picture(1))
    source = Folder(tmp_path)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="cannot be opened"):
        source.read(source.files[0], LIMIT)


def test_folder_names_that_are_no_text_are_shown_harmlessly(tmp_path):
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe/1.png")).write_bytes(picture(1))
    source = Folder(tmp_path)
    assert names(source) == ["??/1.png"]
    assert source.read(source.files[0], LIMIT) == picture(1)


def test_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DatasetError, match="cannot be opened"):
        Folder(tmp_path / "nowhere")


def test_uploads_are_read(tmp_path):
    source = Loose("3 files", [("cat/1.png", io.BytesIO(picture(1))), ("../x.png", io.BytesIO()), (".x", io.BytesIO())])
    assert names(source) == ["cat/1.png"]
    assert source.read(source.files[0], LIMIT) == picture(1)
    assert list(reasons(source)) == ["have a name that leads out of its folder"]


# Names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cat", "cat"),
        (" Löwe \t 3 ", "Löwe 3"),
        ("a\x1b[31mb\x00c", "a[31mbc"),
        ("gpj.\u202etac", "gpj.tac"),
        ("<img onerror=alert(1)>", "<img onerror=alert(1)>"),
        ("=1+1", "=1+1"),
        ("🐱", "🐱"),
        ("e\u0301", "é"),
        ("CON", "CON"),
        ("\u200b", "?"),
        ("", "?"),
    ],
)
def test_name_is_shown_on_one_line_and_harmless(name, expected):
    assert shown_part(name) == expected


def test_long_names_are_cut_and_keep_their_ending():
    assert len(shown_part("x" * 10**6 + ".jpg")) == 100
    assert shown_part("x" * 10**6 + ".jpg").endswith("x.jpg")
    assert len(shown("/".join(["y" * 200] * 100))) <= 1000
    assert shown("./a//b\\c.png") == "a/b/c.png"


def test_what_is_left_out_is_said_in_a_sentence():
    many = LeftOut("are damaged", tuple(f"cat/{number}.png" for number in range(1200)), "images")
    assert many.sentence(5000) == (
        "1,200 of 5,000 images are damaged and were left out: cat/0.png, cat/1.png, cat/2.png, …"
    )
    assert LeftOut("link elsewhere", ("a",)).sentence() == "1 file links elsewhere and was left out: a."
