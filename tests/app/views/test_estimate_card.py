"""What a run will cost, drawn: app/views/estimate_card.py."""

from __future__ import annotations

from streamlit.testing.v1 import AppTest

from app.views.estimate_card import span
from backend.manager.planning.estimator import Interval
from tests.app.reading import unescaped
from tests.app.waiting import texts


def page() -> None:
    """A card."""
    from app.views.estimate_card import draw_estimate
    from backend.errors import Problem
    from backend.manager.planning.estimator import Estimate, Interval

    bounds = Interval(60.0, 120.0, 7200.0)
    big = Interval(2.0**30, 2.0**31, 2.0**32)
    problem = Problem("training.save_total_limit", "it will *not* fit.", "Make room.")
    draw_estimate(Estimate(88, 84_000, 4_884_480, bounds, big, big, 2, "Based on 2 runs.", (problem,)))


def test_figures_bounds_basis_and_what_will_not_fit() -> None:
    app = AppTest.from_function(page, default_timeout=30).run()
    said = unescaped(texts(app))
    lines = [each.value for each in app.markdown]
    assert lines[1:] == [
        *("Time", "**2 min** :small[(60 s to 2 h 00 min)]"),
        *("Memory", "**2.0 GiB** :small[(1.0 to 4.0 GiB)]"),
        *("Disk", "**2.0 GiB** :small[(1.0 to 4.0 GiB)]"),
    ]
    assert "88 steps · 84,000 tokens · 4,884,480 trained parameters. Based on 2 runs." in said
    assert unescaped(app.warning[0].value) == "it will *not* fit. Make room."


def test_spans() -> None:
    assert span(Interval(1.0, 2.0, 3.0), in_time=True) == "1 to 3 s"
    assert span(Interval(60.0, 0.0, 7200.0), in_time=True) == "60 s to 2 h 00 min"
    assert span(Interval(7200.0, 0.0, 12_600.0), in_time=True) == "2 h 00 min to 3 h 30 min"
    assert span(Interval(1024.0, 0.0, 2048.0)) == "1 to 2 KiB"
