"""The pages of the docs as their tests read them: texts, fenced blocks, shown commands."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.house import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(language: str) -> Iterator[tuple[Path, str]]:
    """Yield page and text of every fenced block in a language."""
    for page in PAGES:
        yield from ((page, body) for kind, body in FENCE.findall(text_of(page)) if kind == language)


def typed_lines() -> list[tuple[str, str]]:
    """(page, line) of everything that a console block shows to be typed; a backslash joins lines."""
    return [
        (page.name, line.strip())
        for page, body in [*blocks("console"), *blocks("bash")]
        for line in re.sub(r"\\\n\s*", "", body).splitlines()
        if line.strip()
    ]
