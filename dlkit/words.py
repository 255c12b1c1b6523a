"""How numbers and names are written for people, and made harmless for where they are written."""

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")
_BARE_LINK = re.compile(r"(www(?=\.)|:(?=//)|(?<=\w)(?=@))", re.IGNORECASE)


def escape_markdown(text: str) -> str:
    """Return `text` so that Streamlit's markdown shows it letter by letter: no links, pictures, colours or icons."""
    unlinked = _BARE_LINK.sub("\\1\u200b", " ".join(text.split()))  # a space of no width: no backslash stops these
    return _MARKDOWN.sub(r"\\\1", unlinked)


def escape_html(text: str) -> str:
    """Return `text` so that Plotly, which reads a little HTML, shows it letter by letter."""
    return html.escape(" ".join(text.split()))


def escape_csv(text: str) -> str:
    """Return `text` so that no spreadsheet takes it for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share between 0 and 1 as a percentage: 0.8564 -> 85.6 %."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Write a time in its largest two units: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def count(number: float) -> str:
    """Write a large number with three digits: 3.38 million; a small one with narrow spaces: 12 345."""
    if number >= 1e6:
        return f"{number / 1e6:.3g} million"
    return f"{number:,.0f}".replace(",", "\u202f")


def size(megabytes: float) -> str:
    """Write a size: 17 MB, 4.92 GB."""
    return f"{megabytes / 1000:.3g} GB" if megabytes >= 1000 else f"{megabytes:.3g} MB"
