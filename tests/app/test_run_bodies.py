"""What a run's page shows below its head: app/run_bodies.py. Drawn in every state in pages/test_run.py."""

from __future__ import annotations

from collections import Counter

import pytest

from app.run_bodies import BODIES
from backend.manager.system_manager import GpuSample, SystemSample
from backend.utils.jsonl_utils import JsonlWriter
from tests.app.conftest import OpenPage
from tests.app.reading import texts, unescaped
from tests.app.states import Runs
from tests.app.views.test_charts import rows


def test_the_bodies() -> None:
    assert list(BODIES) == ["Curves", "Samples", "Machine", "Log", "Details"]


def test_a_long_curve_is_sent_as_few_points(open_page: OpenPage, runs: Runs) -> None:
    charts = open_page("run", run=runs.running(steps=1000, total=1000).id).get("vega_lite_chart")
    kinds = [Counter(row["kind"] for row in rows(chart.proto)) for chart in charts]
    assert [one["line"] <= 120 for one in kinds] == [False, True, True, True, True]
    assert 300 < kinds[0]["faint"] <= 400
    assert {one["faint"] for one in kinds[1:]} == {0}


def test_a_preference_run_has_its_own_curves_and_sentences(open_page: OpenPage, runs: Runs) -> None:
    page = open_page("run", run=runs.preferring().id)
    described = [chart.proto.alt for chart in page.get("vega_lite_chart")]
    titles = {alt.partition(".")[0] for alt in described}
    assert titles > {
        "Loss",
        "Rewards",
        "Share that prefers the better answer",
        "Margin between the rewards",
    }
    assert all(f"{name}: from" in described[1] for name in ("better", "worse", "better, held out"))
    said = unescaped(" ".join(texts(page)))
    assert "likelihood displacement" in said
    assert "Held-out pairs: the better answer is preferred in" in said


def test_each_gpu_has_its_curves(open_page: OpenPage, runs: Runs) -> None:
    run = runs.running()
    gpus = (GpuSample(0, "card", 2**30, 80 * 2**30, 50.0),)
    with JsonlWriter(run.system_file) as system:
        system.append(SystemSample("2026-01-01T00:00:00+00:00", 1.0, 1, 2, 3, gpus).to_json())
    charts = open_page("run", run=run.id, show="Machine").get("vega_lite_chart")
    titles = {one.proto.alt.partition(".")[0] for one in charts}
    assert {"GPU 0, percent", "GPU 0 memory, GiB"} <= titles


def test_a_machine_that_was_not_measured(open_page: OpenPage, runs: Runs) -> None:
    assert "every five seconds" in " ".join(texts(open_page("run", run=runs.created().id, show="Machine")))


@pytest.mark.parametrize("name", ["x", "nothing", "<b>"])
def test_an_unknown_body_in_the_address_is_the_first(open_page: OpenPage, runs: Runs, name: str) -> None:
    page = open_page("run", run=runs.running().id, show=name)
    assert len(page.get("vega_lite_chart")) == 5


def test_a_damaged_configuration_is_said(open_page: OpenPage, runs: Runs) -> None:
    run = runs.finished()
    run.config.write_text("name: x\n", encoding="utf-8")
    assert "cut short" in " ".join(texts(open_page("run", run=run.id, show="Details")))


def test_rows_that_could_not_be_read_can_be_saved(open_page: OpenPage, runs: Runs) -> None:
    run = runs.finished()
    assert open_page("run", run=run.id, show="Details").get("download_button") == []
    run.rejected_file.write_text('{"place": "a.csv:3", "reason": "x"}\n{"place": "a.csv:9", "reason": "y"}\n')
    app = open_page("run", run=run.id, show="Details")
    assert "Rows that could not be read and were not trained: 2" in texts(app)
    (button,) = app.get("download_button")
    assert button.label == "Save them, with place and reason"
