"""One problem a setting, with a remedy: backend/run/config_problems.py."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from backend.errors import Problem
from backend.run.config import ModelConfig, RunConfig, config_schema
from backend.run.config_problems import problems_of
from backend.utils.config_utils import apply_overrides

SECTIONS = ["model", "data", "augmentation", "objective", "tuning", "training", "evaluation", "logging"]


def plain(changes: dict[str, Any]) -> dict[str, Any]:
    return apply_overrides({}, {"data.train": "rows.jsonl"} | changes)


def problems(raw: Any) -> list[Problem]:
    with pytest.raises(ValidationError) as caught:
        RunConfig.model_validate(raw)
    return problems_of(caught.value, config_schema())


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("sead", "Did you mean seed?"),
        ("training.lerning_rate", "Did you mean training.learning_rate?"),
        ("learning_rate", "Did you mean training.learning_rate?"),
        ("nonsense.of.mine", f"The sections are {', '.join(SECTIONS)}."),
        ("model.qqqq", f"model has {', '.join(ModelConfig.model_fields)}."),
    ],
)
def test_an_unknown_name_with_a_suggestion(typed: str, meant: str) -> None:
    (problem,) = problems(plain({typed: 1}))
    assert typed.startswith(problem.field)
    assert problem.message == "there is no such setting."
    assert problem.remedy == meant


@pytest.mark.parametrize("raw", [{}, {"data": {}}, {"data": None}])
def test_the_missing_file(raw: dict[str, Any]) -> None:
    (problem,) = problems(raw)
    assert str(problem) == "data.train: is required. Set it, for example `data.train=rows.jsonl`."


@pytest.mark.parametrize("value", [[], "adam", 5, True])
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_that_is_none(section: str, value: Any) -> None:
    (problem,) = problems(plain({section: value}))
    assert problem.field == section
    assert "is not a section" in problem.message
    assert "Config" not in str(problem)
    assert len(str(problem)) < 200


def test_a_list_is_one_problem() -> None:
    (problem,) = problems(plain({"tuning.lora_target_modules": [1, 2]}))
    assert problem.field == "tuning.lora_target_modules"


def test_a_long_value_is_cut() -> None:
    (problem,) = problems(plain({"seed": "x" * 10_000}))
    assert "..." in problem.message
    assert len(problem.message) < 200


def test_a_value_that_is_not_possible_lists_those_that_are() -> None:
    (problem,) = problems(plain({"tuning.method": "qlora"}))
    assert problem.remedy == "Choose 'lora' or 'full'."


def test_a_format_of_another_version_is_not_a_choice_to_make() -> None:
    (problem,) = problems(plain({"version": 2}))
    assert problem == Problem(
        "version",
        "2 is a format that this version does not read.",
        "Use the version of Tunesmith that wrote it, or a newer one.",
    )


@pytest.mark.parametrize(("key", "shown"), [("prompt", "7 for prompt "), ("a.b", "7 for a.b "), ("", "7 ")])
def test_an_entry_of_a_setting_is_told_under_the_setting(key: str, shown: str) -> None:
    (problem,) = problems({"data": {"train": "rows.jsonl", "columns": {key: 7}}})
    assert problem.field == "data.columns"
    assert problem.message.startswith(f"{shown}does not fit")
