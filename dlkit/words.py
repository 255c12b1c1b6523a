"""How numbers and names are written for people, and made harmless for where they are written."""

import html
import re

_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&^=])")
# what Streamlit 1.67 still turns into links, icons and arrows after the backslashes are gone
_LATE = re.compile(r"(www(?=\.)|:(?=//|material/|streamlit:)|(?<=\w)(?=@)|[-<>~](?=[-=>]))", re.IGNORECASE)
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")  # also what an apostrophe has made harmless, so that each has its own


def escape_markdown(text: str) -> str:
    """Return `text` so that Streamlit's markdown shows it letter by letter: no links, pictures, colours or icons."""
    plain = _LATE.sub("\\1\u200b", " ".join(text.split()))  # a space of no width, as no backslash stops these
    return _MARKDOWN.sub(r"\\\1", plain)


def escape_html(text: str) -> str:
    """Return `text` so that Plotly, which reads a little HTML, shows it letter by letter."""
    return html.escape(" ".join(text.split()))


def escape_csv(text: str) -> str:
    """Return `text` so that no spreadsheet takes it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def unescape_csv(text: str) -> str:
    """Return what `escape_csv` has made harmless as it was."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share between 0 and 1 as a percentage: 0.8564 -> 85.6 %."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """Write a time in its largest two units: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds is None:
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def about(seconds: float | None) -> str:
    """Write an estimated time in one unit: about 14 s, about 6 min, about 2.5 h."""
    if seconds is None:
        return "–"
    if seconds < 59.5:
        return f"about {max(1, round(seconds))} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5970 else f"about {seconds / 3600:.2g} h"


def count(number: float) -> str:
    """Write a large number with three digits: 3.38 million; a small one with narrow spaces: 12 345."""
    if number >= 999_999.5:
        return f"{_three_digits(number / 1e6)} million"
    return f"{number:,.0f}".replace(",", "\u202f")


def number(value: float) -> str:
    """Write a measured number with three digits: 0.390, 94.7, 25 100; a very large one by its power: 1.63e+35."""
    if 100 <= abs(value) < 1e9:
        return f"{float(f'{value:.3g}'):,.0f}".replace(",", "\u202f")
    return f"{value:#.3g}"


def rate(value: float) -> str:
    """Write a learning rate with two digits, as a field takes it: 0.0028, 1.5e-05."""
    return f"{value:.2g}"


def size(megabytes: float) -> str:
    """Write a size: 17 MB, 4.92 GB."""
    if megabytes >= 999.5:
        return f"{_three_digits(megabytes / 1000)} GB"
    return f"{_three_digits(megabytes)} MB"


def about_size(megabytes: float | None) -> str:
    """Write an estimated size with two digits: about 610 MB, about 4.9 GB."""
    return "–" if megabytes is None else f"about {size(float(f'{megabytes:.2g}'))}"


def _three_digits(number: float) -> str:
    """Round to three significant digits and write them without an exponent: 999.6 -> 1000."""
    return f"{float(f'{number:.3g}'):g}"
