"""One assertion as it was written: backend/inference/evals/assertion.py."""

from __future__ import annotations

from typing import Any

import pytest

from backend.errors import ConfigError
from backend.inference.evals.assertion import check_templates, filled, read_assertion
from backend.inference.evals.verdicts import UndecidedError

ROW = {"prompt": "p", "expected": "yes", "name": "Ann", "names": ["a", "b"], "two-words": 2}


def test_an_assertion_has_a_word_and_defaults() -> None:
    asked = read_assertion({"type": "not-contains", "value": "a"}, "tests[0].assert[1]")
    assert (asked.word, asked.negated, asked.name, asked.weight, asked.threshold) == (
        "contains",
        True,
        "not-contains",
        1.0,
        None,
    )
    assert read_assertion({"type": "equals", "metric": " Form ", "weight": 0}, "x").name == "Form"


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ("contains", "x"),
        ({}, "x"),
        ({"type": 3}, "x"),
        ({"type": "contains", "provider": "p"}, "x.provider"),
        ({"type": "contains", "assert": []}, "x.assert"),
        ({"type": "contains", "threshold": "0.5"}, "x.threshold"),
        ({"type": "contains", "threshold": True}, "x.threshold"),
        ({"type": "contains", "threshold": float("nan")}, "x.threshold"),
        ({"type": "contains", "weight": -1}, "x.weight"),
        ({"type": "contains", "metric": " "}, "x.metric"),
        ({"type": "contains", "metric": "{{name}}"}, "x.metric"),
        ({"type": "contains", "value": "{{ name | upper }}"}, "x.value"),
        ({"type": "contains", "value": "{% if name %}a{% endif %}"}, "x.value"),
        ({"type": "contains-all", "value": ["a", "{{ a.b }}"]}, "x.value"),
        ({"type": "equals", "value": {"a": "{{ a.b }}"}}, "x.value"),
        ({"type": "contains", "value": "file://answer.txt"}, "x.value"),
        ({"type": "contains", "threshold": 10**400}, "x.threshold"),
        ({"type": "contains", "weight": 1e15}, "x.weight"),
        ({"type": "contains", "metric": "all checks "}, "x.metric"),
    ],
)
def test_what_it_cannot_have_is_refused_with_its_place(given: Any, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_assertion(given, "x")
    assert (refused.value.code, refused.value.problems[0].field) == ("bad-assertion", field)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("Dear {{name}},", "Dear Ann,"),
        ("{{ name }}{{two-words}}", "Ann2"),
        ("{{names}}", ["a", "b"]),
        (["{{name}}", "b"], ["Ann", "b"]),
        ({"type": "object"}, {"type": "object"}),
        ({"who": "{{name}}"}, {"who": "Ann"}),
        ("a { b } {c", "a { b } {c"),
    ],
)
def test_columns_of_the_row_are_filled_in(value: Any, found: Any) -> None:
    assert filled(value, ROW) == found


def test_a_column_that_is_not_there_leaves_it_undecided() -> None:
    with pytest.raises(UndecidedError, match="no town"):
        filled("{{town}}", ROW)


def test_a_template_that_computes_something_is_refused() -> None:
    check_templates("{{name}} and {{ two-words }}", "prompts")
    with pytest.raises(ConfigError, match="computes"):
        check_templates("{{ name | upper }}", "prompts")


@pytest.mark.parametrize("row", [{"expected": ""}, {"expected": None}, {}])
def test_an_empty_column_leaves_it_undecided(row: dict[str, Any]) -> None:
    with pytest.raises(UndecidedError):
        read_assertion({"type": "contains", "value": "{{expected}}"}, "x").wanted(row)
    with pytest.raises(UndecidedError):
        read_assertion({"type": "contains"}, "x").wanted(row)
    assert read_assertion({"type": "equals"}, "x").wanted({"expected": 0}) == 0


def test_without_a_value_the_expected_answer_is_wanted() -> None:
    asked = read_assertion({"type": "equals"}, "x")
    assert asked.wanted_text(ROW) == "yes"
    with pytest.raises(UndecidedError, match="no expected answer"):
        asked.wanted({"prompt": "p", "expected": ""})


def test_a_threshold_has_bounds() -> None:
    assert read_assertion({"type": "bleu", "threshold": 1}, "x").limit(0.5) == 1.0
    assert read_assertion({"type": "bleu"}, "x").limit(0.5) == 0.5
    with pytest.raises(ConfigError, match="threshold"):
        read_assertion({"type": "bleu", "threshold": 1.5}, "x").limit(0.5)
