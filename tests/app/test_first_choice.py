"""The first choice of a new run: app/first_choice.py."""

from __future__ import annotations

from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.first_choice import CHOICES, PAIR_METHODS
from backend.run.methods import OBJECTIVES

MISFIT = {"settings": {"objective.method": "dpo"}, "message": "rows.jsonl:1 is a pair."}


def page(start: dict, answer: dict) -> None:  # type: ignore[type-arg]
    """The choice, and the offer after an estimate."""
    import streamlit as st

    from app.commands import Answer
    from app.first_choice import draw_first_choice, offer_fitting
    from app.forms import change, typed

    if "begun" not in st.session_state:
        st.session_state["begun"] = True
        change(start)
    draw_first_choice()
    offer_fitting(Answer(**answer))
    st.session_state["result"] = dict(typed())


def shown(start: dict[str, Any] | None = None, **answer: Any) -> AppTest:
    return AppTest.from_function(page, args=(start or {}, {"value": {}} | answer), default_timeout=30).run()


def test_every_method_belongs_to_a_choice() -> None:
    assert {*CHOICES, *PAIR_METHODS} == set(OBJECTIVES)
    assert list(PAIR_METHODS) == [name for name, facts in OBJECTIVES.items() if facts.is_pairwise]


def test_it_starts_with_answers() -> None:
    app = shown()
    assert app.radio[0].value == "sft"
    assert not app.selectbox
    assert app.session_state["result"] == {}


@pytest.mark.parametrize("method", OBJECTIVES)
def test_what_was_chosen_before_stands_there_again(method: str) -> None:
    app = shown({"objective.method": method})
    chosen = [*app.selectbox, app.radio[0]][0].value
    assert chosen == method
    assert app.session_state["result"].get("objective.method", "sft") == method


def test_another_choice_forgets_what_was_set_for_the_one_before() -> None:
    app = shown({"objective.method": "dpo", "objective.beta": 0.3, "training.max_steps": 9})
    app.radio[0].set_value("kto").run()
    assert app.session_state["result"] == {"objective.method": "kto", "training.max_steps": 9}


def test_pairs_have_several_methods() -> None:
    app = shown()
    app.radio[0].set_value("dpo").run()
    app.selectbox[0].set_value("simpo").run()
    assert app.session_state["result"] == {"objective.method": "simpo"}
    assert app.radio[0].value == "dpo"


def test_rows_of_another_method_offer_that_method() -> None:
    app = shown(**MISFIT)
    app.button[0].click().run()
    assert app.session_state["result"] == {"objective.method": "dpo"}
    assert not app.button


def test_rows_that_another_method_is_for_are_said_to_be() -> None:
    app = shown(value={"usual_method": "cpt"})
    assert "These rows are plain text or documents." in app.info[0].value
    app.button[0].click().run()
    assert app.session_state["result"] == {"objective.method": "cpt"}


@pytest.mark.parametrize("method", ["dpo", "orpo"])
def test_rows_that_fit_offer_nothing(method: str) -> None:
    app = shown({"objective.method": method}, value={"usual_method": "dpo"})
    assert not app.info
    assert not app.button
