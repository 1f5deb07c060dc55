"""Labels: backend/inference/evals/labels.py."""

from __future__ import annotations

from typing import Any

import pytest

from backend.errors import ConfigError
from backend.inference.evals.assertions import make_verifier
from backend.inference.evals.labels import OTHER, Confusion, commonest_share, label_of
from backend.inference.evals.verdicts import Answer, Score

EXPECTED = ["Meat", "Meat", "Dairy", "Fruit"]


def score(text: str, value: Any = None) -> Score:
    return make_verifier({"type": "label", "value": value}, "x")(Answer(text), {"expected": "Meat"})


@pytest.mark.parametrize("text", ["Meat", " meat.\n", "<think>Dairy?</think>MEAT"])
def test_a_label_is_right_in_any_case(text: str) -> None:
    assert score(text).passed
    assert score(text, ["Meat", "Dairy"]).passed


def test_another_label_and_none_of_them() -> None:
    assert score("Dairy").reason == "It is 'Dairy', not 'Meat'."
    assert score("It is meat", ["Meat", "Dairy"]).reason == "'It is meat' is none of the labels."


@pytest.mark.parametrize("value", ["Meat", [1]])
def test_labels_are_a_list(value: Any) -> None:
    with pytest.raises(ConfigError, match="List the labels"):
        score("a", value)


def test_what_was_taken_for_what() -> None:
    found = Confusion.of(["meat", "dairy", "Dairy.", "a pear"], EXPECTED)
    assert found.labels == ("Dairy", "Fruit", "Meat")
    assert found.counts == {
        ("Meat", "Meat"): 1,
        ("Meat", "Dairy"): 1,
        ("Dairy", "Dairy"): 1,
        ("Fruit", OTHER): 1,
    }
    assert found.accuracy() == 0.5
    assert found.f1("Meat") == pytest.approx(2 / 3)
    assert found.f1("Dairy") == pytest.approx(2 / 3)
    assert found.f1("Fruit") == 0
    assert found.macro_f1() == pytest.approx(4 / 9)
    assert found.worst() == [("Fruit", OTHER, 1), ("Meat", "Dairy", 1)]
    assert found.worst(1) == [("Fruit", OTHER, 1)]


def test_the_commonest_label_is_a_chance() -> None:
    assert commonest_share(EXPECTED) == 0.5
    assert commonest_share(["a", "A.", "b", " a"]) == 0.75


def test_labels_are_compared_without_dress() -> None:
    assert label_of("<think>x</think>\n Meat. ") == "meat"
