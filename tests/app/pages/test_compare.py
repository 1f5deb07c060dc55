"""Comparing runs: which, their curves, what was set differently, what came out, how they answer."""

from __future__ import annotations

from collections import Counter

import pytest

from app.views.curve_controls import SMOOTHING
from backend.manager.curves import smoothed
from backend.run.folder import CONFIG_END
from tests.app.conftest import OpenPage
from tests.app.reading import stacked, texts
from tests.app.states import Runs, eval_report, step_report
from tests.app.views.test_charts import rows

STEPS = [step_report(step, 100) for step in range(1, 101)]


def test_without_runs_it_says_what_to_do(open_page: OpenPage) -> None:
    page = open_page("compare")
    assert "**Nothing to compare yet**" in texts(page)
    assert not page.multiselect


def test_without_a_choice_it_says_what_to_do(open_page: OpenPage, runs: Runs) -> None:
    runs.created()
    assert "Choose runs above" in " ".join(texts(open_page("compare")))


def test_one_run_alone_asks_for_another(open_page: OpenPage, runs: Runs) -> None:
    page = open_page("compare", runs=runs.finished().id)
    assert "Choose a second run above to see what made the difference." in texts(page)
    assert "Their settings are the same." not in texts(page)


def test_the_two_latest_to_begin_with(open_page: OpenPage, runs: Runs) -> None:
    made = [runs.finished(name) for name in ("a", "b", "c")]
    shown = open_page("compare").multiselect(key="compared").value
    assert len(shown) == 2
    assert set(shown) < {run.id for run in made}


def test_the_address_says_which(open_page: OpenPage, runs: Runs) -> None:
    made = [runs.finished(name) for name in ("a", "b", "c")]
    wanted = [made[2].id, made[0].id]
    page = open_page("compare", runs=wanted)  # type: ignore[arg-type]
    assert page.multiselect(key="compared").value == wanted
    page.multiselect(key="compared").set_value([made[1].id]).run()
    assert page.query_params["runs"] == made[1].id


def test_what_is_no_run_in_the_address_is_left_out(open_page: OpenPage, runs: Runs) -> None:
    run = runs.finished()
    page = open_page("compare", runs=["../..", "<b>", run.id])  # type: ignore[arg-type]
    assert page.multiselect(key="compared").value == [run.id]


class TestTwo:
    @pytest.fixture
    def page(self, open_page: OpenPage, runs: Runs) -> object:
        base, lower = runs.finished("base", steps=40), runs.finished("lower", steps=100, learning_rate=1e-4)
        return open_page("compare", runs=[base.id, lower.id])  # type: ignore[arg-type]

    def test_curves_are_overlaid(self, page: object) -> None:
        (chart,) = page.get("vega_lite_chart")  # type: ignore[attr-defined]
        assert chart.proto.alt.startswith("Held-out loss. base-")
        assert "; lower-" in chart.proto.alt

    @pytest.mark.parametrize(
        ("tag", "title", "last"),
        [
            ("train/loss", "Training loss", smoothed([one.loss for one in STEPS], SMOOTHING["Light"])[-1]),
            ("eval/loss", "Held-out loss", eval_report(100, 100).loss),
            ("train/learning_rate", "Learning rate", STEPS[-1].learning_rate),
        ],
    )
    def test_any_curve_and_only_noisy_ones_are_smoothed(
        self, page: object, tag: str, title: str, last: float
    ) -> None:
        page.selectbox(key="compared_tag").set_value(tag).run()  # type: ignore[attr-defined]
        (chart,) = page.get("vega_lite_chart")  # type: ignore[attr-defined]
        assert chart.proto.alt.startswith(f"{title}. base-")
        assert rows(chart.proto)[-1]["y"] == pytest.approx(last)

    def test_figures_with_intervals(self, page: object) -> None:
        rows = stacked(page)[0]  # type: ignore[arg-type]
        assert [row["steps"] for row in rows] == ["40 of 40", "100 of 100"]
        assert rows[0]["exact match (95 % interval)"] == "75% (51 to 90 %) of 16 rows"
        assert rows[1]["best held-out loss"].endswith("at step 100")

    def test_settings_that_differ_and_no_others(self, page: object) -> None:
        rows = stacked(page)[1]  # type: ignore[arg-type]
        assert [row["setting"] for row in rows] == ["name", "training.learning_rate"]
        assert list(rows[1].values())[1:] == ["–", "0.0001"]

    def test_answers_side_by_side(self, page: object) -> None:
        (row,) = stacked(page)[2]  # type: ignore[arg-type]
        assert row["asked"] == "Which section? pork"
        assert list(row.values())[1:] == ["Meat", "Meat", "Meat"]


def test_other_data_or_another_seed_is_pointed_out(open_page: OpenPage, runs: Runs) -> None:
    warning = "Their data or seed differ, so they may have been scored on different rows."
    one, other = runs.finished("one"), runs.finished("other", learning_rate=1e-4)
    assert warning not in texts(open_page("compare", runs=[one.id, other.id]))  # type: ignore[arg-type]
    other.config.write_text(other.read_config_text().replace("seed: 42", "seed: 7") + f"{CONFIG_END}\n")
    assert warning in texts(open_page("compare", runs=[one.id, other.id]))  # type: ignore[arg-type]


def test_losses_of_different_methods_are_not_to_be_compared(open_page: OpenPage, runs: Runs) -> None:
    one, other, third = runs.finished("one"), runs.preferring(), runs.finished("third")
    page = open_page("compare", runs=[one.id, other.id])  # type: ignore[arg-type]
    assert "a lower one is not better" in page.warning[0].value
    assert "by DPO" in page.warning[0].value
    rows = stacked(page)[0]
    assert rows[0]["prefers the better answer"] == "–"
    assert rows[1]["prefers the better answer"].startswith("78% (")
    page = open_page("compare", runs=[one.id, third.id])  # type: ignore[arg-type]
    assert not page.warning
    assert "prefers the better answer" not in stacked(page)[0][0]


def test_many_runs_are_sent_as_few_points_each(open_page: OpenPage, runs: Runs) -> None:
    made = [runs.finished(f"run {number}", steps=600).id for number in range(4)]
    page = open_page("compare", runs=made)  # type: ignore[arg-type]
    page.selectbox(key="compared_tag").set_value("train/loss").run()
    (chart,) = page.get("vega_lite_chart")
    assert max(Counter(row["series"] for row in rows(chart.proto)).values()) <= 200


def test_a_damaged_configuration_is_told_and_the_rest_is_shown(open_page: OpenPage, runs: Runs) -> None:
    whole, broken = runs.finished("whole"), runs.finished("broken")
    broken.config.write_text("name: x\n", encoding="utf-8")
    page = open_page("compare", runs=[whole.id, broken.id])  # type: ignore[arg-type]
    assert "cut short" in page.error[0].value
    assert len(page.get("vega_lite_chart")) == 1


def test_runs_that_were_never_started(open_page: OpenPage, runs: Runs) -> None:
    made = [runs.created(name).id for name in ("a", "b")]
    page = open_page("compare", runs=made)  # type: ignore[arg-type]
    assert "None of them has answered its panel yet." in texts(page)
