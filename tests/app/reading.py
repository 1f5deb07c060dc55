"""What a page says, as one reads it."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

from streamlit.testing.v1 import AppTest

_WORDS = ("markdown", "caption", "text", "code", "error", "warning", "title", "header")


def texts(app: AppTest) -> list[str]:
    """Every text on the page, and the label of every link and button."""
    found = [str(one.value) for kind in _WORDS for one in app.get(kind)]
    found += [str(one.value) for one in app.get("badge")]
    labels = [one.proto.label for one in (*app.get("page_link"), *app.get("button"))]
    return [*found, *labels]


def badges(app: AppTest) -> list[str]:
    """The states that are shown, in order."""
    words = [re.search(r"^:\w+-badge\[:material/\w+: (.*)\]$", one.value) for one in app.markdown]
    return [word[1] for word in words if word]


def unescaped(text: str) -> str:
    """Markdown that ``plain`` made, as it is read."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text).replace("\N{WORD JOINER}", "")


def frames(app: AppTest) -> list[list[dict[str, Any]]]:
    """The tables on the page, each as rows."""
    return [one.value.to_dict("records") for one in app.dataframe]


def stacked(app: AppTest) -> list[list[dict[str, str]]]:
    """The tables drawn as HTML, each as rows."""
    bodies = [one.proto.body for one in app.get("html")]
    found = [re.search("<table.*</table>", body, re.DOTALL) for body in bodies]
    tables = [ET.fromstring(table[0]) for table in found if table]  # noqa: S314 - we drew it
    lines = [[["".join(cell.itertext()) for cell in line] for line in table.iter("tr")] for table in tables]
    return [[dict(zip(head, cells, strict=True)) for cells in rows] for head, *rows in lines]
