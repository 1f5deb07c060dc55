"""The training rows of any epoch: backend/training/varied_rows.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.encoding.examples import Example
from backend.data import store
from backend.data.records import Row
from backend.data_pipeline import encode
from backend.run.config import AugmentationConfig, DataConfig
from backend.training.varied_rows import VariedRows
from tests.tiny import tiny_tokenizer

CHATML = tiny_tokenizer("chatml")
ON = {"prompt_templates": ["Please: {prompt}"], "noise": 0.1, "typos": 0.03}


def rows(count: int = 12) -> list[Row]:
    return [
        Row(
            f"r:{number}",
            (
                {"role": "user", "content": f"Where would somebody find number {number}?"},
                {"role": "assistant", "content": f"below {number}"},
            ),
        )
        for number in range(count)
    ]


def varied(
    max_length: int = 1024, family: Any = CHATML, given_rows: Sequence[Row] | None = None, **on: Any
) -> VariedRows:
    training = given_rows or rows()
    encoded = encode(training, family, DataConfig(train="x", max_length=max_length, truncation="cut"))
    return VariedRows(
        training, encoded, family, AugmentationConfig.model_validate(on or ON), max_length, seed=5
    )


def same(one: Example, two: Example) -> bool:
    return (
        np.array_equal(one.input_ids, two.input_ids)
        and np.array_equal(one.trained, two.trained)
        and one.row == two.row
    )


VARIED = varied()


@given(epoch=st.integers(0, 5), indices=st.permutations(range(12)), cut=st.integers(0, 12))
def test_a_row_is_the_same_in_whatever_company_and_order_it_is_asked_for(
    epoch: int, indices: list[int], cut: int
) -> None:
    """So resumes and any number of workers see the same rows."""
    whole = VARIED(epoch, range(12))
    parts = [*VARIED(epoch, indices[:cut]), *VARIED(epoch, indices[cut:])]
    assert all(same(example, whole[index]) for index, example in zip(indices, parts, strict=True))


def test_epochs_and_seeds_differ() -> None:
    def texts(rows: VariedRows, epoch: int) -> list[str]:
        return [CHATML.decode(example.input_ids) for example in rows(epoch, range(12))]

    other = VariedRows(VARIED.rows, VARIED.encoded, CHATML, VARIED.augmentation, 1024, seed=6)
    assert len({tuple(texts(VARIED, epoch)) for epoch in range(4)}) == 4
    assert texts(other, 0) != texts(VARIED, 0)
    assert any("Please: " in text for text in texts(VARIED, 0))


def test_what_is_learned_is_never_touched() -> None:
    for epoch in range(20):
        for plain, example in zip(VARIED.encoded, VARIED(epoch, range(12)), strict=True):
            assert example.input_ids[example.trained].tolist() == plain.input_ids[plain.trained].tolist()
            assert example.row == plain.row


@pytest.mark.parametrize("limit", [store.IN_MEMORY_BYTES, 0])
def test_rows_that_stay_are_as_they_were(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(store, "IN_MEMORY_BYTES", limit)
    still = varied(given_rows=store.spill_to_disk(rows()), share=0.0, noise=0.1)
    assert all(map(same, still(0, range(12)), still.encoded))


def test_a_variation_that_is_too_long_leaves_its_row_as_it_was() -> None:
    longest = max(len(example.input_ids) for example in VARIED.encoded)
    tight = varied(longest, prompt_templates=["a much longer way to ask the same: {prompt}"])
    examples = tight(0, range(12))
    assert [len(example.input_ids) <= longest for example in examples] == [True] * 12
    assert sum(map(same, examples, tight.encoded)) == 12


def test_a_variation_that_the_template_refuses_leaves_its_row_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needy = tiny_tokenizer("chatml")
    needy.chat_template = (
        "{% if messages[0]['role'] != 'system' %}{{ raise_exception('Who am I?') }}{% endif %}"
        + needy.chat_template
    )
    lead = {"role": "system", "content": "Be kind."}
    led = [Row(row.place, (lead, *row.messages)) for row in rows(6)]
    dropping = varied(1024, needy, led, drop_system=0.5, prompt_templates=["A {prompt}"])
    examples = dropping(0, range(6))
    texts = [needy.decode(example.input_ids) for example in examples]
    assert all("Be kind." in text for text in texts)
    assert sum("\nA Where" in text for text in texts) > 0
    assert sum(map(same, examples, dropping.encoded)) > 0


def test_nothing_asked_for() -> None:
    assert VARIED(0, []) == []


def test_a_row_left_out_moves_none_of_the_others() -> None:
    """What a row becomes depends on its number among the training rows, as the preview counts them."""
    long = Row("r:long", ({"role": "user", "content": "x " * 300}, {"role": "assistant", "content": "y"}))
    given_rows = [*rows(5), long, *rows(12)[6:]]
    encoded = encode(given_rows, CHATML, DataConfig(train="x", max_length=128, truncation="drop"))
    assert encoded.dropped == ["r:long"]
    shorter = VariedRows(given_rows, encoded, CHATML, VARIED.augmentation, 128, seed=5)
    whole = VARIED(2, range(12))
    kept = shorter(2, range(11))
    assert all(same(a, b) for a, b in zip(kept, [*whole[:5], *whole[6:]], strict=True))
