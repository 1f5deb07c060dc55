"""All runs: app/views/run_list.py. Its pages are turned in tests/app/pages/test_run.py."""

from __future__ import annotations

from tests.app.reading import texts
from tests.app.views.drawing import drawn


def test_none_is_like_that() -> None:
    assert "**No matching run**" in texts(drawn("run_list.draw_run_list", []))
