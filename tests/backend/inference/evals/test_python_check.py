"""A person's own check in a process of its own: backend/inference/evals/python_check.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backend.errors import ConfigError, InferenceError
from backend.inference.evals import python_check
from backend.inference.evals.assertions import Means, make_verifier
from backend.inference.evals.python_check import PythonCheck
from backend.inference.evals.verdicts import Answer, Score, UndecidedError, Verifier

CODE = """
import os, time
print("hello")
def get_assert(output, context):
    print("while it is asked")
    return context["vars"]["wanted"] in output
def share(output, context):
    return len(output) / 10
def whole(output, context):
    return {"pass": False, "score": 0.25, "reason": "Too " + output}
def failing(output, context):
    raise ValueError("bad \\ud800 luck")
def hanging(output, context):
    time.sleep(600 if output == "wait" else 0)
    return True
def leaving(output, context):
    os._exit(3)
def chatty(output, context):
    return {"pass": True, "reason": "a" * 200_000}
def strange(output, context):
    return {"nan": float("nan"), "more": 2, "none": None, "text": "good", "odd": {"pass": "yes"}}[output]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "checks.py").write_text(CODE, encoding="utf-8")
    return tmp_path / "checks.py"


@pytest.fixture
def made(file: Path) -> Iterator[Any]:
    opened: list[Verifier] = []

    def make(value: str, **more: Any) -> Verifier:
        means = Means(python=True, folder=file.parent)
        opened.append(make_verifier({"type": "python", "value": value, **more}, "x", means))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


ROW = {"prompt": "p", "expected": "e", "wanted": "b", "path": Path("a")}


def test_a_function_is_asked_again_and_again(made: Any) -> None:
    check = made("file://checks.py")
    assert [check(Answer(text), ROW).passed for text in ("abc", "xyz", "b\0\ud800", "b" * 1_000_000)] == [
        True,
        False,
        True,
        True,
    ]


def test_a_number_passes_from_the_threshold_on(made: Any) -> None:
    assert made("checks.py:share")(Answer("abcde"), ROW) == Score(True, 0.5, "")
    assert made("checks.py:share", threshold=0.6)(Answer("abcde"), ROW) == Score(False, 0.5, "It got 0.5.")


def test_a_mapping_has_all_of_it(made: Any) -> None:
    assert made("checks.py:whole")(Answer("long"), ROW) == Score(False, 0.25, "Too long")


@pytest.mark.parametrize(
    ("function", "text", "reason"),
    [
        ("failing", "", "failing of checks.py failed: ValueError: bad"),
        ("leaving", "", "ended its process"),
        ("chatty", "", "ended its process|longer"),
        ("strange", "nan", "returned nan, not a number from 0 to 1"),
        ("strange", "more", "returned 2"),
        ("strange", "none", "returned None"),
        ("strange", "text", "returned good"),
        ("strange", "odd", "returned"),
    ],
)
def test_a_function_that_fails_leaves_the_row_undecided(
    made: Any, function: str, text: str, reason: str
) -> None:
    check = made(f"checks.py:{function}")
    for _ in range(2):
        found = check(Answer(text), ROW)
        assert (found.passed, found.score, found.decided) == (False, 0.0, False)
        assert any(part in found.reason for part in reason.split("|"))


def test_one_that_hangs_is_killed_and_the_next_row_asked(file: Path) -> None:
    check = PythonCheck(file, "hanging", None, seconds=0.5)
    with pytest.raises(UndecidedError, match=r"longer than 0\.5 seconds"):
        check(Answer("wait"), ROW)
    check = PythonCheck(file, "hanging", None)
    assert check(Answer("go on"), ROW).passed
    check.close()
    check.close()


@pytest.mark.parametrize(
    ("code", "reason"),
    [("x = 1", "no function get_assert"), ("1/0", "ZeroDivisionError"), ("exit()", "SystemExit")],
)
def test_a_file_that_cannot_be_used_is_refused(tmp_path: Path, code: str, reason: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(InferenceError, match=reason) as refused:
        PythonCheck(tmp_path / "bad.py", "get_assert", None)(Answer("a"), ROW)
    assert refused.value.code == "bad-python-check"


def test_a_file_that_ends_the_process_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import os; os._exit(0)")
    with pytest.raises(UndecidedError, match="ended its process"):
        PythonCheck(tmp_path / "bad.py", "get_assert", None)(Answer("a"), ROW)


@pytest.mark.parametrize("value", [None, "missing.py", "len(output) < 3", "checks.txt"])
def test_only_a_file_is_run(made: Any, value: Any) -> None:
    with pytest.raises(ConfigError, match=r"x\.value"):
        made(value)


def test_no_code_is_run_unless_it_is_allowed(file: Path) -> None:
    with pytest.raises(ConfigError, match="would run the code"):
        make_verifier({"type": "python", "value": "checks.py"}, "x", Means(folder=file.parent))
    assert python_check.MAX_SECONDS <= 10


def test_a_function_that_is_not_there_is_told_before_anything_is_asked(file: Path, made: Any) -> None:
    with pytest.raises(InferenceError, match="missing"):
        PythonCheck(file, "missing", None).prove()
    with pytest.raises(InferenceError) as refused:
        made("checks.py:missing")
    assert refused.value.code == "bad-python-check"
    PythonCheck(file, "share", None).prove()


def test_without_a_threshold_any_share_passes_and_with_one_a_mapping_needs_it_too(made: Any) -> None:
    assert made("checks.py:share")(Answer("a"), {}).passed
    assert not made("checks.py:share")(Answer(""), {}).passed
    assert not made("checks.py:get_assert", threshold=0.5)(Answer("no"), {"wanted": "yes"}).passed
