"""Tokens are kept and mapped, never stale, checked and bounded: backend/token_cache.py."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend import token_cache
from backend.core.tokenizer import Encoded
from backend.data.records import Row
from backend.errors import DataError
from backend.token_cache import cached, key_of
from tests.tiny import tiny_tokenizer

ROWS = [Encoded([1, 2, 300], [False, True, True]), Encoded([7], [True]), Encoded([40_000, 5], [False, True])]
CHATML = tiny_tokenizer("chatml")
ROW = Row("r:1", ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}))


class Encoder:
    """Gives its rows and counts how often it is asked."""

    def __init__(self, rows: Sequence[Encoded] = ROWS) -> None:
        self.rows, self.asked = rows, 0

    def __call__(self) -> Iterator[Encoded]:
        self.asked += 1
        yield from self.rows


def lists(tokens: Iterator[tuple[np.ndarray, np.ndarray]]) -> list[Encoded]:
    return [Encoded(ids.tolist(), trained.tolist()) for ids, trained in tokens]


class TestKeeping:
    def test_the_second_start_tokenises_nothing(self, tmp_path: Path) -> None:
        encoder = Encoder()
        first, second = (lists(cached("k", encoder, tmp_path)) for _ in range(2))
        assert first == second == ROWS
        assert encoder.asked == 1

    @given(
        st.lists(
            st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), min_size=1).map(
                lambda row: Encoded([id_ for id_, _ in row], [trained for _, trained in row])
            ),
            min_size=1,
        )
    )
    def test_whatever_is_kept_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[Encoded]
    ) -> None:
        folder = tmp_path_factory.mktemp("tokens")
        assert [lists(cached("k", Encoder(rows), folder)) for _ in range(2)] == [rows, rows]

    def test_rows_are_mapped_and_cannot_be_changed(self, tmp_path: Path) -> None:
        (ids, trained), *_ = cached("k", Encoder(), tmp_path)
        assert (ids.dtype, trained.dtype) == (np.int32, np.bool_)
        with pytest.raises(ValueError, match="read-only"):
            ids[0] = 3

    def test_what_cannot_be_encoded_is_raised_and_nothing_is_kept(self, tmp_path: Path) -> None:
        def broken() -> Iterator[Encoded]:
            yield ROWS[0]
            raise DataError("r:2 has no token to learn.", remedy="Mend it.", code="nothing-trained")

        with pytest.raises(DataError, match="no token to learn"):
            list(cached("k", broken, tmp_path))
        assert list(tmp_path.iterdir()) == []

    def test_it_lies_beside_the_converted_models(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
        assert lists(cached("k", Encoder())) == ROWS
        assert [path.name for path in (tmp_path / "tokens").iterdir()] == ["k"]


class TestDamage:
    @pytest.mark.parametrize("name", ["ids", "trained", "ends", "manifest.json"])
    @pytest.mark.parametrize("harm", ["flip", "cut", "gone"])
    def test_what_is_damaged_is_made_again(
        self, tmp_path: Path, name: str, harm: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        encoder = Encoder()
        list(cached("k", encoder, tmp_path))
        path = tmp_path / "k" / name
        whole = path.read_bytes()
        path.write_bytes({"flip": bytes([whole[0] ^ 1]) + whole[1:], "cut": whole[:-2], "gone": b""}[harm])
        with caplog.at_level(logging.WARNING):
            assert lists(cached("k", encoder, tmp_path)) == ROWS
        assert encoder.asked == 2
        assert "made again" in caplog.text
        assert path.read_bytes() == whole

    @pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES])
    def test_a_disk_that_refuses_costs_only_time(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(token_cache, "publish_folder", refuse)
        encoder = Encoder()
        assert lists(cached("k", encoder, tmp_path)) == ROWS
        assert encoder.asked == 2
        assert "not kept" in caplog.text
        assert list(tmp_path.iterdir()) == []

    def test_another_process_may_be_faster(self, tmp_path: Path) -> None:
        def late() -> Iterator[Encoded]:
            list(cached("k", Encoder(), tmp_path))
            yield from ROWS

        assert lists(cached("k", late, tmp_path)) == ROWS
        assert [path.name for path in tmp_path.iterdir()] == ["k"]


class TestRoom:
    def test_the_least_recently_used_goes_first_and_the_newest_stays(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for age, key in enumerate(("new", "used", "old")):
            list(cached(key, Encoder(), tmp_path))
            os.utime(tmp_path / key, (1e9 - age, 1e9 - age))
        list(cached("used", Encoder(), tmp_path))
        size = sum(path.stat().st_size for path in (tmp_path / "new").iterdir())
        monkeypatch.setattr(token_cache, "MAX_BYTES", 2 * size)
        list(cached("newest", Encoder(), tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == {"newest", "used"}
        monkeypatch.setattr(token_cache, "MAX_BYTES", 1)
        list(cached("huge", Encoder(ROWS * 50), tmp_path))
        assert {path.name for path in tmp_path.iterdir()} == {"huge"}


class TestKeys:
    def test_where_a_row_stands_does_not_matter(self) -> None:
        assert key_of([ROW], CHATML) == key_of([replace(ROW, place="other:7")], tiny_tokenizer("chatml"))

    @pytest.mark.parametrize(
        "rows",
        [
            [],
            [ROW, ROW],
            [replace(ROW, messages=ROW.messages[:1])],
            [replace(ROW, messages=({**ROW.messages[0], "content": "q "}, ROW.messages[1]))],
            [replace(ROW, messages=(ROW.messages[0], {**ROW.messages[1], "trained": False}))],
            [replace(ROW, tools="[]")],
            [replace(ROW, messages=(), text="q")],
            [replace(ROW, messages=(), segments=(("q", True),))],
            [replace(ROW, messages=(), input_ids=(1, 2), labels=(1, 2))],
            [replace(ROW, messages=(), input_ids=(1, 2), labels=(1, -100))],
        ],
    )
    def test_other_rows_have_another_key(self, rows: list[Row]) -> None:
        assert key_of(rows, CHATML) != key_of([ROW], CHATML)

    def test_another_template_tokenizer_or_token_has_another_key(self) -> None:
        changed, ended = tiny_tokenizer("chatml"), tiny_tokenizer("chatml")
        changed.chat_template = str(changed.chat_template).replace("Be brief", "Be long")
        ended.eos_token = "<|im_start|>"
        grown = tiny_tokenizer("chatml")
        grown.add_tokens(["extra"])
        keys = {key_of([ROW], each) for each in (CHATML, changed, ended, grown, tiny_tokenizer("llama3"))}
        assert len(keys) == 5

    def test_a_template_that_prints_the_date_has_a_key_a_day(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Tomorrow(token_cache.datetime):  # type: ignore[name-defined, misc]
            @classmethod
            def now(cls, tz: object = None) -> object:
                return cls(2099, 1, 1)

        dated = tiny_tokenizer("chatml")
        dated.chat_template = "{{ strftime_now('%d') }}" + str(dated.chat_template)
        today = [key_of([ROW], each) for each in (CHATML, dated)]
        monkeypatch.setattr(token_cache, "datetime", Tomorrow)
        tomorrow = [key_of([ROW], each) for each in (CHATML, dated)]
        assert [one == other for one, other in zip(today, tomorrow, strict=True)] == [True, False]

    def test_half_a_character_has_a_key(self) -> None:
        assert key_of([replace(ROW, messages=(), text="\ud800")], CHATML)
