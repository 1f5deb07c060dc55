"""A share of other rows among the training rows: backend/core/encoding/mixture.py."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.encoding.dataset import encode
from backend.core.encoding.mixture import Mixture
from backend.data.records import Row
from backend.errors import DataError
from backend.run.config import DataConfig
from tests.tiny import tiny_tokenizer

BASE = tiny_tokenizer("base")
DATA = DataConfig(train="x")
ROWS = [Row(f"r:{number}", text=f"row {number}") for number in range(40)]
OTHERS = [Row(f"o:{number}", text="other " * (number + 1)) for number in range(40)]


def mixture(own: int, other: int, share: float = 0.5, seed: int = 42) -> Mixture:
    return Mixture(encode(ROWS[:own], BASE, DATA), encode(OTHERS[:other], BASE, DATA), share, seed)


def places(mixed: Mixture, epoch: int) -> list[str]:
    return [example.row for example in mixed(epoch, range(len(mixed)))]


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.01, 0.9), st.integers(0, 5))
def test_every_epoch_has_all_rows_and_the_share_of_others(
    own: int, other: int, share: float, epoch: int
) -> None:
    mixed = mixture(own, other, share)
    found = places(mixed, epoch)
    assert found[:own] == [row.place for row in ROWS[:own]]
    assert all(place.startswith("o:") for place in found[own:])
    others = len(found) - own
    assert others == max(1, round(own * share / (1 - share)))
    assert found == places(mixed, epoch) == places(mixture(own, other, share), epoch)


@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6))
def test_all_others_come_before_one_comes_again(own: int, other: int, epochs: int) -> None:
    mixed = mixture(own, other)
    dealt = list(chain.from_iterable(places(mixed, epoch)[own:] for epoch in range(epochs)))
    counts = Counter(dealt)
    assert len(counts) == min(other, len(dealt))
    assert max(counts.values()) - min(counts.values()) <= 1
    for start in range(0, len(dealt) - other, other):
        assert len(set(dealt[start : start + other])) == other


def test_other_seeds_and_epochs_take_others() -> None:
    drawn = {tuple(places(mixture(4, 40, seed=seed), epoch)[4:]) for seed in (1, 2) for epoch in (0, 1)}
    assert len(drawn) == 4


def test_it_is_a_sequence_of_its_first_epoch_with_its_tokens_counted() -> None:
    mixed = mixture(6, 6)
    first = mixed(0, range(12))
    assert [each.row for each in mixed] == [each.row for each in first] == [each.row for each in mixed[:]]
    assert mixed[-1].row == first[-1].row
    assert mixed.tokens == sum(len(each.input_ids) for each in first)
    assert mixed.trained_tokens == sum(int(each.trained[1:].sum()) for each in first)
    assert (mixed.is_complete, mixed.tokenise_next(), mixed.cut, mixed.dropped) == (True, False, [], [])
    with pytest.raises(IndexError):
        mixed[12]


def test_augmentation_changes_own_rows_only() -> None:
    plain = mixture(3, 3)
    varied = Mixture(
        plain.own, plain.other, 0.5, 42, vary=lambda epoch, indices: [plain.own[2 - i] for i in indices]
    )
    assert [each.row for each in varied(0, [0, 4, 2])] == ["r:2", plain(0, [4])[0].row, "r:0"]


@pytest.mark.parametrize("limits", [(8, 1000), (1000, 5)])
def test_what_the_model_cannot_take_is_named_in_either(limits: tuple[int, int]) -> None:
    with pytest.raises(DataError, match=r"^o:\d+ has|^r:0 has the token id"):
        mixture(1, 20).require_fit(*limits)
    mixture(1, 20).require_fit(1000, 1000)


def test_rows_too_long_are_named_in_either() -> None:
    cut = DataConfig(train="x", max_length=16, truncation="cut")
    mixed = Mixture(encode(ROWS[:2], BASE, cut), encode(OTHERS, BASE, cut), 0.5, 42)
    assert mixed.cut[-1] == "o:39"
    assert mixed.dropped == []
