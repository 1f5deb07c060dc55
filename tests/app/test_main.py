"""The navigation."""

from __future__ import annotations

import pytest

from tests.app.conftest import MAIN, OpenPage

PAGES = sorted(path.stem for path in (MAIN.parent / "pages").glob("[a-z]*.py"))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_opens_without_a_single_run(open_page: OpenPage, name: str) -> None:
    assert open_page(name).title


def test_there_are_pages() -> None:
    assert {"home", "run", "compare", "queue"} <= set(PAGES)
