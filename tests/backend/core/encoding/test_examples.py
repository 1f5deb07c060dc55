"""Rows as token ids: backend/core/encoding/examples.py."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from backend.core.encoding.examples import Example, Question, has_targets, require_fit, row_use
from backend.errors import DataError
from backend.run.config import DataConfig


def example(ids: list[int], trained: list[int], row: str) -> Example:
    return Example(np.array(ids, dtype=np.int64), np.array(trained, dtype=bool), row)


def test_a_row_with_an_answer_is_kept_as_it_is() -> None:
    made = example([5, 6, 7], [0, 0, 1], "foods.jsonl:1")
    assert (made.input_ids.tolist(), made.trained.tolist(), made.row) == (
        [5, 6, 7],
        [False, False, True],
        "foods.jsonl:1",
    )


@pytest.mark.parametrize(
    ("trained", "learns"),
    [([], False), ([1], False), ([1, 0], False), ([0, 0], False), ([0, 1], True), ([1, 0, 1], True)],
)
def test_a_mask_teaches_where_it_leaves_a_token_after_the_first(trained: list[int], learns: bool) -> None:
    assert has_targets([bool(one) for one in trained]) is learns
    assert has_targets(np.array(trained, dtype=bool)) is learns


@pytest.mark.parametrize(
    ("trained", "error", "drop", "cut"),
    [
        ([0, 1, 1], "whole", "whole", "whole"),
        ([0, 1, 1, 1], "too-long", "dropped", "cut"),
        ([0, 0, 0, 1], "too-long", "dropped", "dropped"),
        ([1, 0, 0, 1], "too-long", "dropped", "dropped"),
        ([1, 0, 0, 0], "untrained", "untrained", "untrained"),
        ([0, 0], "untrained", "untrained", "untrained"),
    ],
)
def test_what_becomes_of_a_row_of_at_most_eight_tokens(
    trained: list[int], error: str, drop: str, cut: str
) -> None:
    fates = []
    for truncation in ("error", "drop", "cut"):
        data = DataConfig.model_validate({"train": "x", "max_length": 8, "truncation": truncation})
        mask = [*trained[:1], *[0] * 5, *trained[1:]]
        fates.append(row_use(np.array(mask, dtype=bool), data))
    assert fates == [error, drop, cut]


@pytest.mark.parametrize(
    ("ids", "trained", "code"),
    [
        ([1, 2, 3], [0, 1], "bad-mask"),
        ([1, 2], [0, 1, 1], "bad-mask"),
        ([1, 2, 3], [0, 0, 0], "nothing-trained"),
        ([1, 2, 3], [1, 0, 0], "nothing-trained"),
        ([1], [1], "nothing-trained"),
        ([], [], "nothing-trained"),
    ],
)
def test_a_row_that_cannot_teach_is_refused_by_name(ids: list[int], trained: list[int], code: str) -> None:
    with pytest.raises(DataError, match="row 7 of data") as caught:
        example(ids, trained, "row 7 of data")
    assert caught.value.code == code
    assert caught.value.remedy


def test_rows_that_a_model_can_take_are_passed() -> None:
    assert require_fit([example([5, 6, 9], [0, 0, 1], "a")], longest=3, vocabulary=10) is None
    assert require_fit([], longest=0, vocabulary=0) is None


@pytest.mark.parametrize(
    ("longest", "vocabulary", "code", "told"),
    [(2, 10, "too-long", "b:2 has 3 tokens"), (3, 9, "unknown-token", "b:2 has the token id 9")],
)
def test_the_first_row_that_a_model_cannot_take_is_named(
    longest: int, vocabulary: int, code: str, told: str
) -> None:
    rows = [example([1, 2], [0, 1], "a:1"), example([5, 6, 9], [0, 0, 1], "b:2")]
    with pytest.raises(DataError, match=told) as caught:
        require_fit(rows, longest, vocabulary)
    assert caught.value.code == code


def test_a_question_cannot_be_changed_once_it_is_asked() -> None:
    asked = Question("foods.jsonl:1", "food pork", (5, 6), "meat")
    with pytest.raises(FrozenInstanceError):
        asked.expected = "fruit"  # type: ignore[misc]


def test_no_tensor_is_needed() -> None:
    code = "import sys, backend.core.encoding.examples; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
