"""Numbers as people read them, and names that stay names wherever they are written.

What Streamlit's own renderer makes of these names is in test_browser.py.
"""

import csv
import html
import io
import re
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dlkit.words import (
    about,
    about_size,
    count,
    duration,
    escape_csv,
    escape_html,
    escape_markdown,
    number,
    percent,
    size,
    unescape_csv,
)

#: what a class, a file or a run may be called by someone who wants it to be more than a name
NAMES = (
    "[a](https://evil.example)",
    "![i](https://evil.example/p.png)",
    ":red[text]",
    ":red-background[text]",
    ":blue-badge[text]",
    ":small[text]",
    ":material/delete:",
    ":streamlit:",
    ":smile: :+1:",
    "$x^2$",
    "$$y$$",
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    '"><b onclick="alert(1)">',
    "'; alert(1); '",
    "`code`",
    "```\nblock\n```",
    "www.evil.example",
    "WWW.Evil.example",
    "https://evil.example",
    "HTTP://evil.example",
    "ftp://evil.example",
    "mailto:me@evil.example",
    "me@evil.example",
    "<https://evil.example>",
    "# heading",
    "* one",
    "- one",
    "1. one",
    "> quote",
    "title\n===",
    "---",
    "~~gone~~",
    "**bold** _italic_",
    "| a | b |\n|---|---|",
    "&lt;b&gt; &copy; &#58;",
    "a -> b <- c -- d >= e <= f",
    "[^1]",
    "[x]: https://evil.example",
    "- [ ] task",
    ":::note",
    "back\\slash \\",
    "    indented",
    "%{customdata}",
    "long" * 100,
)

MARKUP = "\\`*_{}[]()#+-.!|<>~$:&^="
NO_WIDTH = "\u200b"


def unescaped(text: str) -> str:
    """Read backslash escapes as CommonMark does (section 2.4), and leave out the spaces of no width."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace(NO_WIDTH, "")


def bare(text: str) -> str:
    """Return what is left when every escaped character is taken out: all that a parser could act on."""
    return re.sub(r"\\[!-/:-@\[-`{-~]", "", text)


# Markdown


@pytest.mark.parametrize("name", NAMES)
def test_no_markup_of_a_name_is_left_bare(name: str) -> None:
    assert not set(bare(escape_markdown(name))) & set(MARKUP)


@given(st.text().map(lambda text: text.replace(NO_WIDTH, "")))
@example("\\")
@example("\\\\[a](b)")
def test_an_escaped_name_reads_as_the_name(name: str) -> None:
    written = escape_markdown(name)
    assert unescaped(written) == " ".join(name.split())
    assert not set(bare(written)) & set(MARKUP)


@given(st.text(alphabet=st.sampled_from("w.:/@a-<>~=mhtps ")))
def test_nothing_that_becomes_a_link_or_an_arrow_after_parsing_is_left(name: str) -> None:
    shown = re.sub(r"\\(.)", r"\1", escape_markdown(name))
    assert not re.search(r"www\.|://|\w@|<-|->|--|>=|<=|~=", shown)


@pytest.mark.parametrize("icon", [":material/delete:", ":Material/delete:", ":streamlit:"])
def test_no_icon_is_left(icon: str) -> None:
    assert f":{NO_WIDTH}" in unbroken(escape_markdown(icon))


def unbroken(text: str) -> str:
    return text.replace("\\", "")


@pytest.mark.parametrize("name", ["a\nb", "a\r\n\r\nb", "a\u2028b", "\ta   b\n", "a\x0bb", "a\u00a0b"])
def test_a_name_is_one_line(name: str) -> None:
    assert escape_markdown(name) == "a b"
    assert escape_html(name) == "a b"


def test_a_plain_name_stays_as_it_is() -> None:
    for name in ("tiger cat", "花", "naïve café", "Löwe 3 %", ""):
        assert escape_markdown(name) == name


# HTML and CSV


@pytest.mark.parametrize("name", NAMES)
def test_html_of_a_name_is_text_alone(name: str) -> None:
    parser = Listener()
    parser.feed(f'<p title="{escape_html(name)}">{escape_html(name)}</p>')
    parser.close()
    assert parser.seen == ["p", "/p"]
    assert html.unescape(escape_html(name)) == " ".join(name.split())


class Listener(HTMLParser):
    """Remembers which tags it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert [name for name, _ in attrs] == ["title"]
        self.seen.append(tag)

    def handle_endtag(self, tag: str) -> None:
        self.seen.append(f"/{tag}")


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "=cmd|'/c calc'!A0"])
def test_no_cell_is_a_formula(cell: str) -> None:
    assert escape_csv(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "rose.jpg", "1+1", "a=b", "'quoted", "花.png"])
def test_an_innocent_cell_stays_as_it_is(cell: str) -> None:
    assert escape_csv(cell) == cell


@given(st.text())
def test_a_cell_is_read_back_with_at_most_an_apostrophe_more(cell: str) -> None:
    file = io.StringIO()
    csv.writer(file).writerow([escape_csv(cell)])
    assert escape_csv(cell) in (cell, f"'{cell}")
    assert not escape_csv(cell).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


@given(st.text())
@example("'=1")
@example("''")
def test_a_harmless_cell_becomes_what_it_was(cell: str) -> None:
    assert unescape_csv(escape_csv(cell)) == cell


# Numbers


@pytest.mark.parametrize(
    ("share", "digits", "text"),
    [
        (None, 1, "–"),
        (0, 1, "0.0 %"),
        (0.0, 0, "0 %"),
        (0.8564, 1, "85.6 %"),
        (0.8564, 0, "86 %"),
        (1, 1, "100.0 %"),
        (0.00049, 1, "0.0 %"),
        (1 / 3, 2, "33.33 %"),
    ],
)
def test_percent(share: float | None, digits: int, text: str) -> None:
    assert percent(share, digits) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.9, "0.900"),
        (0.38912, "0.389"),
        (94.66, "94.7"),
        (99.94, "99.9"),
        (162.7, "163"),
        (25_149, "25\u202f100"),
        (1.6e35, "1.60e+35"),
    ],
)
def test_number(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.2, "about 1 s"),
        (13.6, "about 14 s"),
        (59.4, "about 59 s"),
        (59.6, "about 1 min"),
        (380, "about 6 min"),
        (5969, "about 99 min"),
        (9000, "about 2.5 h"),
    ],
)
def test_estimated_time(seconds: float | None, text: str) -> None:
    assert about(seconds) == text


def test_estimated_size() -> None:
    sizes = [about_size(megabytes) for megabytes in (None, 18.6, 612.0, 4921.0)]
    assert sizes == ["–", "about 19 MB", "about 610 MB", "about 4.9 GB"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (4.24, "4.2 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (60, "1 min 0 s"),
        (119.6, "2 min 0 s"),
        (200, "3 min 20 s"),
        (3599.6, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@given(st.floats(min_value=0, max_value=1e7))
def test_no_duration_has_sixty_of_anything(seconds: float) -> None:
    assert not re.search(r"\b60 (s|min)", duration(seconds))


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (12_345, "12\u202f345"),
        (999_999, "999\u202f999"),
        (999_999.6, "1 million"),
        (3_384_000, "3.38 million"),
        (60_000_000, "60 million"),
        (999_600_000, "1000 million"),
    ],
)
def test_count(number: float, text: str) -> None:
    assert count(number) == text


@pytest.mark.parametrize(
    ("megabytes", "text"),
    [
        (0, "0 MB"),
        (0.05, "0.05 MB"),
        (17.44, "17.4 MB"),
        (999.4, "999 MB"),
        (999.6, "1 GB"),
        (4920, "4.92 GB"),
        (1e6, "1000 GB"),
    ],
)
def test_size(megabytes: float, text: str) -> None:
    assert size(megabytes) == text


@given(st.floats(min_value=0.001, max_value=1e8))
def test_no_number_has_an_exponent(number: float) -> None:
    assert "e" not in size(number)
    assert "e+" not in count(number)
