"""Rows as examples, whole or while training runs: backend/core/encoding/dataset.py."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.core.encoding import dataset as encoded_rows
from backend.core.encoding import token_cache
from backend.core.encoding.dataset import EncodedRows, encode
from backend.core.encoding.examples import Example
from backend.data import store
from backend.data.records import Row
from backend.errors import DataError
from backend.run.config import DataConfig
from tests.backend.chats import chat
from tests.logs import Logged
from tests.tiny import tiny_tokenizer

CHATML = tiny_tokenizer("chatml")
DATA = DataConfig(train="rows.jsonl")
LONG = chat("r:2", "food pork", "meat " * 50)
EARLY = chat("r:3", "word " * 50, "meat")
SHORT = chat("r:1", "food pork", "meat")


def limited(truncation: str, limit: int = 40) -> DataConfig:
    return DataConfig.model_validate({"train": "x", "max_length": limit, "truncation": truncation})


def plain(examples: Sequence[Example]) -> list[tuple[str, list[int], list[bool]]]:
    return [(each.row, each.input_ids.tolist(), each.trained.tolist()) for each in examples]


def many(count: int = 40) -> list[Row]:
    return [
        chat(f"r:{number}", f"food {number}", "meat " * (number % 5 * 4 + 1))
        for number in range(1, count + 1)
    ]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where tokens are kept; sets of ten rows are kept already, and those of thirty are large."""
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    monkeypatch.setattr(encoded_rows, "BLOCK_ROWS", 10)
    monkeypatch.setattr(encoded_rows, "LARGE_ROWS", 30)
    return tmp_path / "tokens"


class TestAllNow:
    def test_rows_in_their_order_with_their_tokens_counted(self) -> None:
        rows = many(7)
        encoded = encode(rows, CHATML, DATA)
        assert encoded.is_complete
        assert [example.row for example in encoded] == [row.place for row in rows]
        assert encoded.numbers.tolist() == list(range(7))
        assert encoded.tokens == sum(len(example.input_ids) for example in encoded)
        assert encoded.trained_tokens == sum(int(example.trained[1:].sum()) for example in encoded)
        assert plain(encoded[2:4]) == plain(list(encoded)[2:4]) == plain([encoded[2], encoded[3]])

    @pytest.mark.parametrize("truncation", ["cut", "drop"])
    @pytest.mark.parametrize("limit", [store.IN_MEMORY_BYTES, 0])
    def test_large_sets_are_tokenised_once_and_come_back_the_same(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, truncation: str, limit: int
    ) -> None:
        monkeypatch.setattr(store, "IN_MEMORY_BYTES", limit)
        rows = store.spill_to_disk(many())
        first = encode(rows, CHATML, limited(truncation, 80))
        monkeypatch.setattr(encoded_rows, "encode_each", lambda *_: pytest.fail("tokenised again"))
        again = encode(rows, CHATML, limited(truncation, 80))
        monkeypatch.undo()
        small = encode(many(), CHATML, limited(truncation, 80))
        for encoded in (first, again):
            assert plain(encoded) == plain(small) == plain([encoded[index] for index in range(len(small))])
            assert (encoded.cut, encoded.dropped) == (small.cut, small.dropped)
            assert (encoded.tokens, encoded.trained_tokens) == (small.tokens, small.trained_tokens)
            assert encoded.numbers.tolist() == small.numbers.tolist()
        assert len(small.cut + small.dropped) > 3
        assert len(list(cache.iterdir())) == 1

    def test_small_sets_leave_nothing_behind(self, cache: Path) -> None:
        encode(many(9), CHATML, DATA)
        assert not cache.exists()

    def test_a_disk_that_keeps_nothing_costs_no_row(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch, logged: Logged
    ) -> None:
        cache.write_text("a file where a folder should be")
        encoded = encode(many(), CHATML, limited("drop", 80))
        assert "not kept" in logged.text
        monkeypatch.undo()
        assert plain(encoded) == plain(encode(many(), CHATML, limited("drop", 80)))


class TestWhileTrainingRuns:
    def test_every_row_is_there_at_once_and_the_same_in_the_end(self, cache: Path) -> None:
        rows = many()
        encoded = encode(rows, CHATML, DATA, all_now=False)
        assert not encoded.is_complete
        assert len(encoded) == 40
        early = plain([encoded[index] for index in range(40)])
        assert not [path for path in cache.iterdir() if not path.name.startswith(".")]
        assert [encoded.tokenise_next() for _ in range(5)] == [True, True, True, False, False]
        assert encoded.is_complete
        assert len(list(cache.iterdir())) == 1
        assert early == plain(encoded) == plain(encode(rows, CHATML, DATA))
        assert encoded.tokens == encode(rows, CHATML, DATA).tokens

    def test_rows_of_an_earlier_start_are_all_there(self, cache: Path) -> None:
        encode(many(), CHATML, DATA)
        assert cache.is_dir()
        again = encode(many(), CHATML, DATA, all_now=False)
        assert sum(again.tokenise_next() for _ in range(9)) == 3

    @pytest.mark.parametrize(("count", "truncation"), [(29, "error"), (40, "cut"), (40, "drop")])
    def test_small_sets_and_those_that_may_shrink_do_not_wait(
        self, cache: Path, count: int, truncation: str
    ) -> None:
        assert encode(many(count), CHATML, limited(truncation, 1000), all_now=False).is_complete
        assert cache.is_dir()

    @pytest.mark.parametrize("number", [11, 40])
    def test_a_row_that_cannot_be_used_is_named_in_its_turn_or_when_asked_for(
        self, cache: Path, number: int
    ) -> None:
        rows = many()
        rows[number - 1] = Row("r:2", input_ids=(5, 6), labels=(-100, -100))
        encoded = encode(rows, CHATML, DATA, all_now=False)
        with pytest.raises(DataError, match="r:2 has no token to learn"):
            encoded[number - 1]
        with pytest.raises(DataError, match="r:2 has no token to learn") as caught:
            drain(encoded)
        assert caught.value.code == "nothing-trained"
        del encoded, caught
        assert list(cache.iterdir()) == []

    def test_rows_that_are_too_long_are_told_together_before_training(self, cache: Path) -> None:
        rows = many()
        rows[10], rows[39] = LONG, chat("r:9", "food pork", "meat " * 60)
        with pytest.raises(
            DataError, match=r"2 of 40 rows are longer than 110 tokens \(r:9, r:2\)"
        ) as caught:
            encode(rows, CHATML, limited("error", 110), all_now=False)
        assert caught.value.code == "too-long"

    def test_a_long_row_that_was_not_foreseen_is_named_in_its_turn(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(encoded_rows, "_may_be_long", lambda row, limit: False)
        rows = many()
        rows[39] = LONG
        encoded = encode(rows, CHATML, limited("error", 110), all_now=False)
        with pytest.raises(DataError, match="1 of 1 row is longer than 110 tokens"):
            encoded[39]
        with pytest.raises(DataError, match=r"1 of 40 rows are longer than 110 tokens \(r:2\)"):
            drain(encoded)

    def test_nothing_is_kept_where_training_ends_first(self, cache: Path) -> None:
        encoded = encode(many(), CHATML, DATA, all_now=False)
        assert list(cache.iterdir())
        del encoded
        assert list(cache.iterdir()) == []


def drain(encoded: EncodedRows) -> None:
    while encoded.tokenise_next():
        pass


class TestFit:
    """Limits that only the model knows."""

    ODD = Row("r:odd", input_ids=(5, *[6] * 198, 395), labels=(-100, *[6] * 198, 395))

    @pytest.mark.parametrize("all_now", [True, False])
    @pytest.mark.parametrize("position", [0, 39])
    @pytest.mark.parametrize(
        ("longest", "vocabulary", "problem"),
        [(199, 396, "has 200 tokens; this model can look at 199"), (200, 395, "has the token id 395")],
    )
    def test_what_the_model_cannot_take_is_named(
        self, cache: Path, position: int, all_now: bool, longest: int, vocabulary: int, problem: str
    ) -> None:
        rows = many()
        rows[position] = self.ODD
        use(encode(rows, CHATML, DATA, all_now=all_now), 200, 396)
        shutil.rmtree(cache)
        with pytest.raises(DataError, match=f"^r:odd {problem}"):
            use(encode(rows, CHATML, DATA, all_now=all_now), longest, vocabulary)

    def test_one_asked_for_early_is_looked_at_too(self, cache: Path) -> None:
        encoded = encode([*many(39), self.ODD], CHATML, DATA, all_now=False)
        encoded.require_fit(200, 395)
        with pytest.raises(DataError, match="r:odd has the token id 395"):
            encoded[39]

    def test_what_is_cut_away_need_not_fit(self) -> None:
        encoded = encode([SHORT, LONG], CHATML, limited("cut"))
        encoded.require_fit(40, len(CHATML))
        assert len(encoded[1].input_ids) == 40


def use(encoded: EncodedRows, longest: int, vocabulary: int) -> None:
    encoded.require_fit(longest, vocabulary)
    drain(encoded)


@given(st.lists(st.integers(1, 60), max_size=12), st.integers(40, 80))
def test_cut_rows_are_the_beginning_of_whole_ones(lengths: list[int], limit: int) -> None:
    rows = [SHORT, EARLY, *(chat(f"r:{length}", "food", "meat " * length) for length in lengths)]
    whole, cut = encode(rows, CHATML, DATA), encode(rows, CHATML, limited("cut", limit))
    assert sorted(row.place for row in rows) == sorted([*(each.row for each in cut), *cut.dropped])
    for number, example in zip(cut.numbers, cut, strict=True):
        assert example.input_ids.tolist() == whole[number].input_ids[:limit].tolist()
        assert example.trained.tolist() == whole[number].trained[:limit].tolist()


class TestLongRows:
    def test_the_longest_that_fits(self) -> None:
        length = len(encode([LONG], CHATML, DATA)[0].input_ids)
        assert encode([LONG], CHATML, limited("error", length)).tokens == length
        said = rf"1 of 2 rows are longer than {length - 1} tokens \(r:2\); the longest has {length}"
        with pytest.raises(DataError, match=said) as error:
            encode([SHORT, LONG], CHATML, limited("error", length - 1))
        assert error.value.code == "too-long"
        assert f"data.max_length to {length} or more to keep all" in error.value.remedy
        assert "drop, which keeps the other 1, or to cut" in error.value.remedy

    @pytest.mark.parametrize(
        ("truncation", "cut", "dropped", "left"),
        [("cut", ["r:2"], ["r:3"], ["r:1", "r:2"]), ("drop", [], ["r:2", "r:3"], ["r:1"])],
    )
    def test_cut_where_something_is_left_to_learn_else_left_out_and_named(
        self, truncation: str, cut: list[str], dropped: list[str], left: list[str]
    ) -> None:
        encoded = encode([SHORT, LONG, EARLY], CHATML, limited(truncation))
        assert (encoded.cut, encoded.dropped) == (cut, dropped)
        assert [example.row for example in encoded] == left
        assert encoded.numbers.tolist() == list(range(len(left)))

    @pytest.mark.parametrize("rows", [[], [LONG]])
    def test_none_left(self, rows: list[Row]) -> None:
        with pytest.raises(DataError, match=f"None of the {len(rows)} rows is left to train on") as caught:
            encode(rows, CHATML, limited("drop"))
        assert caught.value.code == "no-rows"


def test_a_damaged_entry_is_made_again(cache: Path) -> None:
    first = plain(encode(many(), CHATML, DATA))
    (entry,) = cache.iterdir()
    (entry / "ids").write_bytes(b"")
    assert plain(encode(many(), CHATML, DATA)) == first
    assert token_cache.load_cached(entry.name) is not None


def pair(place: str, prompt: str, better: str, worse: str) -> Row:
    row = chat(place, prompt, better)
    return Row(
        place, row.messages[:1], chosen=row.messages[1:], rejected=({"role": "assistant", "content": worse},)
    )


class TestPreferences:
    def test_a_pair_is_two_examples_with_one_place_the_better_first(self) -> None:
        rows = [pair(f"r:{number}", f"food {number}", "meat", "fish and more") for number in range(1, 4)]
        encoded = encode(rows, CHATML, DATA, method="dpo")
        assert [(each.row, each.label) for each in encoded] == [
            (f"r:{number}", label) for number in range(1, 4) for label in (True, False)
        ]
        assert (len(encoded), encoded.row_count, encoded.group) == (6, 3, 2)
        better = encode([chat("r:1", "food 1", "meat")], CHATML, DATA)
        assert plain(encoded)[:1] == plain(better)

    def test_each_answer_stands_alone_for_kto_which_takes_judged_ones_too(self) -> None:
        judged = Row("r:9", chat("r:9", "food 9", "meat").messages, label=False)
        encoded = encode([pair("r:1", "food 1", "meat", "fish"), judged], CHATML, DATA, method="kto")
        assert [(each.row, each.label) for each in encoded] == [("r:1", True), ("r:1", False), ("r:9", False)]
        assert (encoded.row_count, encoded.group) == (3, 1)

    @pytest.mark.parametrize("long", ["better", "worse"])
    def test_a_pair_is_dropped_whole_where_one_answer_is_too_long(self, long: str) -> None:
        answers = {"better": "meat", "worse": "fish"} | {long: "meat " * 60}
        rows = [
            pair("r:1", "food 1", "meat", "fish"),
            pair("r:2", "food 2", **answers),
            pair("r:3", "food 3", "a", "b"),
        ]
        encoded = encode(rows, CHATML, limited("drop", 80), method="dpo")
        assert [each.row for each in encoded] == ["r:1", "r:1", "r:3", "r:3"]
        assert encoded.dropped == ["r:2"]
        assert encoded.tokens == sum(len(each.input_ids) for each in encoded)

    def test_a_cut_pair_stays_a_pair(self) -> None:
        rows = [pair("r:1", "food 1", "meat " * 60, "fish")]
        encoded = encode(rows, CHATML, limited("cut", 40), method="orpo")
        assert len(encoded[0].input_ids) == 40
        assert encoded.row_count == 1

    def test_what_was_said_before_is_no_target(self) -> None:
        turns = chat("r:1", "food 1", "meat", "and 2?", "more meat").messages
        row = Row("r:1", turns[:3], chosen=turns[3:], rejected=({"role": "assistant", "content": "fish"},))
        (better, _) = encode([row], CHATML, DATA, method="simpo")
        judged = Row("r:1", turns, label=True)
        (alone,) = encode([judged], CHATML, DATA, method="kto")
        assert plain([better]) == plain([alone])
        (whole,) = encode([Row("r:1", turns)], CHATML, DATA)
        assert int(whole.trained.sum()) > int(better.trained.sum())

    @pytest.mark.parametrize(
        ("row", "method"),
        [
            (chat("r:1", "food 1", "meat"), "dpo"),
            (chat("r:1", "food 1", "meat"), "kto"),
            (Row("r:1", chat("r:1", "food 1", "meat").messages, label=True), "sft"),
            (Row("r:1", chat("r:1", "food 1", "meat").messages, label=True), "orpo"),
            (pair("r:1", "food 1", "meat", "fish"), "sft"),
        ],
    )
    def test_rows_of_another_method_are_refused_by_place(self, row: Row, method: str) -> None:
        with pytest.raises(DataError, match=r"^r:1 is a") as caught:
            encode([row], CHATML, DATA, method=method)
        assert caught.value.code == "wrong-rows"

    def test_many_pairs_are_kept_and_found_again(self, cache: Path) -> None:
        rows = [pair(f"r:{number}", f"food {number}", "meat", "fish") for number in range(1, 21)]
        first = plain(encode(rows, CHATML, DATA, method="dpo"))
        assert plain(encode(rows, CHATML, DATA, method="dpo", all_now=False)) == first
        assert cache.exists()
