"""Format values as text for people, and escape data for Markdown.

Streamlit reads labels, titles and captions as Markdown. A name, a path or a model's answer is data and must go
through ``plain``, which escapes it.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import streamlit as st

from backend.utils.text_utils import shorten

_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_LINKED = re.compile(r"(?<=:)(?=//)|(?<=\bwww)(?=\.)|(?<=@)(?=\w)|(?<=:)(?=[\w+-]+[:/])", re.IGNORECASE)
_STAMP = re.compile(r"^\d{8}-\d{6}-(?=.)")
_MOMENT = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_JOINER = "\N{WORD JOINER}"


def plain(text: str, limit: int = 120) -> str:
    """Return ``text`` on one line, cut to ``limit``, as Markdown that shows exactly its characters.

    A word joiner breaks up what would become a link or an icon even when escaped (``www.``, ``://``, ``:name:``).
    """
    return _PUNCTUATION.sub(r"\\\1", _LINKED.sub(_JOINER, shorten(text, limit)))


def title_of(run_id: str, name: str = "") -> str:
    """Return the title of a run: the name it was given, or its id without the date."""
    return name or _STAMP.sub("", run_id)


def figure(value: float | None, digits: int = 4) -> str:
    """Return a number with so many significant digits and thousands separators; a dash for None and NaN."""
    if value is None or math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 10 ** (digits - 1) <= abs(value) < 1e12 else f"{value:.{digits}g}"


def size(count: int) -> str:
    """Return bytes in the largest unit that gives at least one: ``3.2 GiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    power = min(len(units) - 1, max(0, (count.bit_length() - 1) // 10))
    return (
        f"{count / 1024**power:,.0f} {units[power]}"
        if power < 2
        else f"{count / 1024**power:,.1f} {units[power]}"
    )


def ago(moment: str, now: datetime | None = None) -> str:
    """Return roughly how long ago an ISO 8601 time was: ``3 min ago``; "" if it is not a time."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return ""
    seconds = ((now or datetime.now(UTC)) - then.astimezone(UTC)).total_seconds()
    for length, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit} ago"
    return "just now"


def in_local_time(text: str, zone: tzinfo | None = None) -> tuple[str, tuple[str, ...]]:
    """Return ``text`` with ISO 8601 times as ``23 Nov 2026, 03:35`` in ``zone``, and the times it had.

    ``zone`` None is the time zone of this machine.
    """

    def local(found: re.Match[str]) -> str:
        try:
            return f"{datetime.fromisoformat(found[0]).astimezone(zone):%d %b %Y, %H:%M}"
        except (ValueError, OverflowError):
            return found[0]

    return _MOMENT.sub(local, text), tuple(_MOMENT.findall(text))


def persons_zone() -> tzinfo | None:
    """Return the time zone of the person's browser, None if it is not known."""
    try:
        return ZoneInfo(st.context.timezone) if st.context.timezone else None
    except (ZoneInfoNotFoundError, ValueError):
        return None


def rough(seconds: float) -> str:
    """Return a duration as people say it: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
