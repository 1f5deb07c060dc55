"""A behaviour spec: backend/inference/evals/spec.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from backend.errors import ConfigError
from backend.inference.evals.judge import OVERALL, scores_of
from backend.inference.evals.spec import Spec, exact_match_spec, read_spec
from backend.inference.evals.verdicts import Answer
from backend.utils.config_utils import to_yaml

WHOLE = """
description: Colours
prompts: ["Which colour has {{thing}}?"]
providers: [openai:gpt-4o]
defaultTest:
  vars: {thing: snow}
  threshold: 0.5
  assert:
    - {type: word-count, value: 1}
tests:
  - description: the sky
    vars: {thing: the sky, expected: blue}
    assert: [{type: icontains}]
  - vars: {expected: white}
    threshold: 1
"""


def read(place: Path, text: str | dict[str, Any]) -> Spec:
    (place / "spec.yaml").write_text(text if isinstance(text, str) else to_yaml(text))
    return read_spec(place / "spec.yaml")


def test_a_file_of_promptfoo(tmp_path: Path) -> None:
    spec = read(tmp_path, WHOLE)
    sky, snow = spec.cases
    assert (sky.place, sky.prompt) == ("spec.yaml:tests[0]", "Which colour has the sky?")
    assert [check.name for check in sky.checks] == ["icontains", "word-count"]
    assert (sky.threshold, snow.threshold) == (0.5, 1.0)
    assert snow.prompt == "Which colour has snow?"
    assert [check.name for check in snow.checks] == ["word-count"]
    assert scores_of(sky, Answer("It is blue"))[OVERALL].passed
    assert not scores_of(sky, Answer("It is red"))[OVERALL].passed
    spec.close()


def test_checks_for_rows_come_after_the_tests_of_the_file(tmp_path: Path) -> None:
    spec = read(tmp_path, WHOLE)
    row = ("a:1", "Which?", {"prompt": "Which?", "expected": "b"})
    assert [case.place for case in spec.with_rows([row])] == [
        "spec.yaml:tests[0]",
        "spec.yaml:tests[1]",
        "a:1",
    ]
    assert spec.with_rows([row])[2].checks == spec.checks
    only_tests = read(tmp_path, "tests: [{vars: {prompt: a}, assert: [{type: contains, value: b}]}]")
    assert [case.prompt for case in only_tests.with_rows([])] == ["a"]
    with pytest.raises(ConfigError, match="no assertions for rows"):
        only_tests.with_rows([row])


def test_without_a_spec_the_expected_answer_is_wanted() -> None:
    (case,) = exact_match_spec().with_rows([("a:1", "a", {"prompt": "a", "expected": "b"})])
    assert scores_of(case, Answer(" b\n"))[OVERALL].passed


CHECK = [{"type": "contains", "value": "a"}]
TEST = {"vars": {"prompt": "p"}, "assert": CHECK}


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "spec.yaml"),
        ({"tests": []}, "spec.yaml"),
        ({"tests": "file://tests.csv"}, "tests"),
        ({"tests": [3]}, "tests[0]"),
        ({"tests": [TEST | {"options": {}}]}, "tests[0].options"),
        ({"tests": [{"vars": {"prompt": "p"}}]}, "tests[0].assert"),
        ({"tests": [{"assert": CHECK}]}, "tests[0].vars"),
        ({"tests": [{"vars": ["p"], "assert": CHECK}]}, "tests[0].vars"),
        ({"tests": [{"vars": {"prompt": "{{more}}"}, "assert": CHECK}]}, "tests[0].vars"),
        ({"tests": [{"vars": {"prompt": "p", "x": ["a", "b"]}, "assert": CHECK}]}, "tests[0].vars.x"),
        ({"tests": [{"vars": {"prompt": "file://p.txt"}, "assert": CHECK}]}, "tests[0].vars.prompt"),
        ({"tests": [TEST | {"threshold": 2}]}, "tests[0].threshold"),
        ({"tests": [TEST], "prompts": ["a", "b"]}, "prompts"),
        ({"tests": [TEST], "prompts": "file://p.txt"}, "prompts"),
        ({"scenarios": []}, "scenarios"),
        ({"defaultTest": []}, "defaultTest"),
        ({"defaultTest": {"provider": "x"}}, "defaultTest.provider"),
    ],
)
def test_what_is_not_read_is_refused_with_its_place(tmp_path: Path, given: Any, field: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read(tmp_path, given)
    assert refused.value.code == "bad-spec"
    assert refused.value.problems[0].field.removeprefix(f"{tmp_path}/") == field


def test_faults_of_assertions_have_their_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tests\[0\]\.assert\[1\]\.type"):
        read(tmp_path, {"tests": [TEST | {"assert": [*CHECK, {"type": "latency"}]}]})
    with pytest.raises(ConfigError, match=r"defaultTest\.assert\[0\]\.value"):
        read(tmp_path, {"defaultTest": {"assert": [{"type": "regex"}]}})


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", None])
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    for written in filter(None, [content]):
        (tmp_path / "spec.yaml").write_bytes(written)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_spec(tmp_path / "spec.yaml")
